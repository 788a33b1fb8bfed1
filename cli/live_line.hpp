// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

namespace still {

// One line on a terminal's stderr that is written over again and again, and is gone in the end. Where stderr
// is no terminal nothing is shown.
class live_line {
 public:
  explicit live_line(bool wanted);
  live_line(const live_line&) = delete;
  live_line& operator=(const live_line&) = delete;
  ~live_line() { clear(); }

  bool on() const { return on_; }
  void show(const std::string& words);
  void clear();

 private:
  bool on_, shown_ = false;
};

}  // namespace still
