// SPDX-License-Identifier: Apache-2.0
//
// See outlet.hpp. No deadlock: the page whose turn it is never waits for another page, because turns are
// given out in the order in which files are taken up, and the holder of the outlet needs nothing but the
// descriptor.
#include "grep/outlet.hpp"

#include <unistd.h>

#include <cerrno>
#include <utility>

namespace still::grep {

page::page(outlet& out, std::string& text, std::optional<std::uint64_t> turn)
    : out_(out), text_(text), turn_(turn) {
  text_.clear();
}

page::~page() {
  out_.finish(*this);
}

void page::pass_on() {
  out_.stream(*this);
}

outlet::outlet(int descriptor, std::string between_pages)
    : descriptor_(descriptor), between_pages_(std::move(between_pages)) {}

int outlet::failure() const {
  const std::lock_guard lock(mutex_);
  return failure_;
}

void outlet::restart_turns() {
  const std::lock_guard lock(mutex_);
  turn_ = 0;
}

void outlet::print(std::string_view text, bool starts_page) {
  if (text.empty()) return;
  std::string joined;
  if (starts_page && printed_ && !between_pages_.empty()) {
    joined = between_pages_;
    joined += text;
    text = joined;
  }
  printed_ = true;
  while (!text.empty() && failure_ == 0) {
    const ssize_t written = ::write(descriptor_, text.data(), text.size());
    if (written >= 0)
      text.remove_prefix(static_cast<std::size_t>(written));
    else if (errno != EINTR)
      failure_ = errno;
  }
}

void outlet::take(std::unique_lock<std::mutex>& lock, page& from) {
  free_.wait(lock, [&] { return !held_ && (!from.turn_ || *from.turn_ == turn_); });
  held_ = from.holds_ = true;
}

void outlet::stream(page& from) {
  std::unique_lock lock(mutex_);
  const bool starts = !from.holds_;
  if (starts) take(lock, from);
  // The holder writes without the lock: others only need to see that the outlet is held.
  lock.unlock();
  print(from.text_, starts);
  from.text_.clear();
}

void outlet::next_turn() {
  ++turn_;
  for (auto first = waiting_.begin(); first != waiting_.end() && first->first == turn_;
       first = waiting_.begin()) {
    print(first->second, true);
    waiting_bytes_ -= first->second.size();
    waiting_.erase(first);
    ++turn_;
  }
}

void outlet::finish(page& from) {
  // Most files of a tree match nothing, and have no turn: they never come near the lock.
  if (!from.turn_ && !from.holds_ && from.text_.empty()) return;
  std::unique_lock lock(mutex_);
  if (!from.holds_) {
    const bool later = from.turn_ && *from.turn_ != turn_;
    if (later && waiting_bytes_ + from.text_.size() <= waiting_bytes_max) {
      waiting_bytes_ += from.text_.size();
      waiting_.emplace(*from.turn_, from.text_);
      return;
    }
    take(lock, from);
    print(from.text_, true);
  } else {
    print(from.text_, false);
  }
  held_ = from.holds_ = false;
  if (from.turn_) next_turn();
  lock.unlock();
  free_.notify_all();
}

}  // namespace still::grep
