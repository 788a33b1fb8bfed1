// SPDX-License-Identifier: Apache-2.0
//
// Many threads search, one descriptor takes the output. What belongs to one file is a page, and comes out in
// one piece: a small page is written when it is finished; one that grows large takes the outlet for itself
// and streams until its end, while the others go on filling theirs. Pages may have turns: then they come out
// in that order.
#ifndef STILL_GREP_OUTLET_HPP
#define STILL_GREP_OUTLET_HPP

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>

namespace still::grep {

class outlet;

// One file's output. Its text is lent by the thread, which uses it for one page after another.
class page {
 public:
  page(outlet& out, std::string& text, std::optional<std::uint64_t> turn);
  page(const page&) = delete;
  page& operator=(const page&) = delete;
  ~page();

  std::string& text() { return text_; }
  // To be called between lines: passes the text on if it has grown large.
  void relieve() {
    if (text_.size() >= large_bytes) pass_on();
  }

 private:
  friend class outlet;
  // A write of this size costs little beside the search of what filled it.
  static constexpr std::size_t large_bytes = 256 * 1024;
  void pass_on();

  outlet& out_;
  std::string& text_;
  std::optional<std::uint64_t> turn_;
  bool holds_ = false;
};

class outlet {
 public:
  // between_pages is written between two pages that have text.
  outlet(int descriptor, std::string between_pages);

  // errno of the first write that failed, or 0. After a failure nothing more is written.
  int failure() const;
  // Turns start anew from 0. No page may be open.
  void restart_turns();

 private:
  friend class page;
  // Pages that wait for their turn take at most this much; beyond, their threads wait.
  static constexpr std::size_t waiting_bytes_max = 64 * 1024 * 1024;

  void stream(page& from);
  void finish(page& from);
  void take(std::unique_lock<std::mutex>& lock, page& from);
  void print(std::string_view text, bool starts_page);
  void next_turn();

  const int descriptor_;
  const std::string between_pages_;
  mutable std::mutex mutex_;
  std::condition_variable free_;
  bool held_ = false;
  bool printed_ = false;
  int failure_ = 0;
  std::uint64_t turn_ = 0;
  std::map<std::uint64_t, std::string> waiting_;
  std::size_t waiting_bytes_ = 0;
};

}  // namespace still::grep

#endif
