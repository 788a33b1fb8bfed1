// SPDX-License-Identifier: Apache-2.0
#include "live_line.hpp"

#include <unistd.h>

#include <cstdio>

namespace still {

live_line::live_line(bool wanted) : on_(wanted && ::isatty(STDERR_FILENO) == 1) {}

void live_line::show(const std::string& words) {
  if (!on_) return;
  std::fprintf(stderr, "\r\033[K%s", words.c_str());  // to the line's begin, and what stands there goes
  shown_ = true;
}

void live_line::clear() {
  if (!shown_) return;
  std::fputs("\r\033[K", stderr);
  shown_ = false;
}

}  // namespace still
