// SPDX-License-Identifier: Apache-2.0
//
// See search.hpp. Two halves: scanning a block (pure, any thread, any order) and taking blocks in order
// (counting, printing, stopping; the file's own thread). A file below parallel_bytes_min goes through both
// halves block by block; a larger one has helpers that scan ahead, at most `ahead` blocks.
#include "grep/search.hpp"

#include "grep/print.hpp"

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <thread>
#include <vector>

namespace still::grep {
namespace {

// GNU grep's buffer, and small enough that what the look for a NUL fetched is still near when the finder
// comes.
constexpr std::size_t step_bytes = 96 * 1024;
// A helper's start costs 50 us, the search of this about 300.
constexpr std::size_t parallel_bytes_min = 8 * 1024 * 1024;
constexpr std::size_t steps_per_parallel_block = 16;
constexpr std::size_t ahead_per_thread = 4;

const char* find_byte(const char* from, const char* to, char byte) {
  return from < to ? static_cast<const char*>(std::memchr(from, byte, static_cast<std::size_t>(to - from)))
                   : nullptr;
}

std::string_view between(const char* from, const char* to) {
  return {from, static_cast<std::size_t>(to - from)};
}

// In runs of a fixed length, which the compiler turns into vector code: folders of compressed files live by
// this.
void end_lines_at_nul(std::string& text) {
  const auto ended = [](char c) { return c == '\0' ? '\n' : c; };
  std::size_t at = 0;
  for (; at + 64 <= text.size(); at += 64) {
    char* const run = text.data() + at;
    for (std::size_t i = 0; i < 64; ++i) run[i] = ended(run[i]);
  }
  for (; at < text.size(); ++at) text[at] = ended(text[at]);
}

// Whole lines, in the steps in which they end.
struct piece {
  const char* begin;
  const char* end;
  const char* step_end;  // how far the look for a NUL goes
};

class cutter {
 public:
  explicit cutter(std::string_view text) : begin_(text.data()), at_(begin_), end_(begin_ + text.size()) {}

  bool next(piece& out) {
    if (at_ == end_) return false;
    const char* step_begin = at_;
    std::size_t step = static_cast<std::size_t>(at_ - begin_) / step_bytes;
    for (;; ++step) {
      const std::size_t left = static_cast<std::size_t>(end_ - begin_) - step * step_bytes;
      const char* const step_end = left <= step_bytes ? end_ : begin_ + (step + 1) * step_bytes;
      const void* const newline =
          step_end == end_ ? end_ - 1
                           : memrchr(step_begin, '\n', static_cast<std::size_t>(step_end - step_begin));
      if (newline) {
        out = {at_, static_cast<const char*>(newline) + 1, step_end};
        at_ = out.end;
        return true;
      }
      step_begin = step_end;  // a line longer than a step
    }
  }

 private:
  const char* const begin_;
  const char* at_;
  const char* const end_;
};

// Consecutive pieces and what was found in them.
struct block {
  std::vector<piece> pieces;
  std::vector<line> lines;            // that match, before binary_from
  const char* binary_from = nullptr;  // the first piece with a NUL in its steps
  std::uint64_t binary_selected = 0;  // from there on
  std::string failure;

  const char* begin() const { return pieces.front().begin; }
  const char* end() const { return pieces.back().end; }
  const char* text_end() const { return binary_from ? binary_from : end(); }
};

bool fill(block& out, cutter& from, std::size_t steps) {
  out.pieces.clear();
  piece next;
  while (out.pieces.size() < steps && from.next(next)) out.pieces.push_back(next);
  return !out.pieces.empty();
}

// Whether the first selected line is all that is wanted.
bool one_is_enough(const request& what) {
  return what.report != report::lines && what.report != report::counts;
}

class scanner {
 public:
  scanner(const request& what, matcher& by) : what_(what), matcher_(by) {}

  void scan(block& into) {
    into.lines.clear();
    into.binary_from = nullptr;
    into.binary_selected = 0;
    for (const piece& part : into.pieces) {
      const bool has_nul = what_.binaries != binary::as_text && find_byte(part.begin, part.step_end, '\0');
      if (has_nul && !into.binary_from) into.binary_from = part.begin;
      if (into.binary_from) {
        if (what_.binaries != binary::skip) into.binary_selected += count_binary(part, has_nul);
        continue;
      }
      matcher_.matching_lines(between(part.begin, part.end), one_is_enough(what_) && !what_.invert, found_);
      if (into.lines.empty())
        into.lines.swap(found_);
      else
        into.lines.insert(into.lines.end(), found_.begin(), found_.end());
    }
    into.failure = matcher_.take_failure();
  }

 private:
  std::uint64_t count_binary(const piece& part, bool has_nul) {
    std::string_view text = between(part.begin, part.end);
    if (has_nul) {
      copy_.assign(text);
      end_lines_at_nul(copy_);
      text = copy_;
    }
    const bool any = what_.report != report::counts && !what_.invert;
    matcher_.matching_lines(text, any, found_);
    return what_.invert ? count_lines(text) - found_.size() : found_.size();
  }

  const request& what_;
  matcher& matcher_;
  std::vector<line> found_;
  std::string copy_;
};

// The second half: blocks in order.
class taker {
 public:
  taker(const request& what, printer& out, std::string_view text) : what_(what), printer_(out), text_(text) {}

  // False: nothing more is wanted.
  bool take(block& from) {
    if (result_.failure.empty()) result_.failure = from.failure;
    result_.read_bytes = static_cast<std::size_t>(from.end() - text_.data());
    if (!is_binary_) {
      if (!take_text(from)) return false;
      if (!from.binary_from) return true;
      is_binary_ = true;
      text_end_ = from.binary_from;
      if (what_.binaries == binary::skip) {
        result_.selected = 0;
        return false;
      }
      return take_binary(from.binary_selected);
    }
    const std::uint64_t in_text = lines_selected(from);
    return take_binary(in_text + from.binary_selected);
  }

  outcome finish() {
    const char* const end = text_end_ ? text_end_ : text_.data() + text_.size();
    if (what_.report == report::lines) printer_.finish(end);
    if (what_.report == report::counts) printer_.file_count(result_.selected);
    if (what_.report == report::files_with_match && result_.selected > 0) printer_.file_name();
    if (what_.report == report::files_without_match && result_.selected == 0) printer_.file_name();
    return result_;
  }

 private:
  std::uint64_t lines_selected(const block& from) const {
    if (!what_.invert) return from.lines.size();
    return count_lines(between(from.begin(), from.text_end())) - from.lines.size();
  }

  bool take_binary(std::uint64_t selected) {
    if (selected == 0) return true;
    if (what_.report == report::counts) {
      result_.selected = std::min(what_.max_count, result_.selected + selected);
      return result_.selected < what_.max_count;
    }
    ++result_.selected;
    result_.binary_match = what_.report == report::lines;
    return false;
  }

  bool take_text(const block& from) {
    if (one_is_enough(what_)) {
      if (lines_selected(from) == 0) return true;
      result_.selected = 1;
      return false;
    }
    const bool printing = what_.report == report::lines;
    if (!printing && result_.selected + lines_selected(from) < what_.max_count) {
      result_.selected += lines_selected(from);
      return true;
    }
    return what_.invert ? take_others(from) : take_lines(from);
  }

  bool take_line(const char* begin, const char* end) {
    ++result_.selected;
    if (what_.report == report::lines) printer_.select(begin, end);
    if (result_.selected < what_.max_count) return true;
    result_.read_bytes = std::min(text_.size(), static_cast<std::size_t>(end - text_.data()) + 1);
    return false;
  }

  bool take_lines(const block& from) {
    const char* floor = from.begin();
    for (const line& hit : from.lines) {
      const void* const newline = memrchr(floor, '\n', static_cast<std::size_t>(hit.at - floor));
      const char* const begin = newline ? static_cast<const char*>(newline) + 1 : floor;
      if (!take_line(begin, hit.end)) return stop(from);
      floor = std::min(hit.end + 1, from.end());
    }
    return true;
  }

  bool take_others(const block& from) {
    auto hit = from.lines.begin();
    for (const char* at = from.begin(); at < from.text_end();) {
      const char* const newline = find_byte(at, from.text_end(), '\n');
      const char* const end = newline ? newline : from.text_end();
      if (hit != from.lines.end() && hit->end == end)
        ++hit;
      else if (!take_line(at, end))
        return stop(from);
      at = end + 1;
    }
    return true;
  }

  bool stop(const block& from) {
    if (from.binary_from) text_end_ = from.binary_from;
    return false;
  }

  const request& what_;
  printer& printer_;
  const std::string_view text_;
  outcome result_;
  bool is_binary_ = false;
  const char* text_end_ = nullptr;
};

// Blocks of one large text, scanned by several threads and taken in order by one of them.
class relay {
 public:
  relay(const request& what, const pattern& compiled, std::string_view text, unsigned helpers)
      : what_(what), compiled_(compiled), cutter_(text), slots_((helpers + 1) * ahead_per_thread) {
    threads_.reserve(helpers);
    for (unsigned i = 0; i < helpers; ++i) threads_.emplace_back([this] { help(); });
  }
  relay(const relay&) = delete;
  relay& operator=(const relay&) = delete;
  ~relay() {
    {
      const std::lock_guard lock(mutex_);
      stopped_ = true;
    }
    moved_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  void run(matcher& own, taker& to) {
    scanner by(what_, own);
    std::unique_lock lock(mutex_);
    for (;;) {
      if (slot* const next = ready()) {
        lock.unlock();
        const bool more = to.take(next->content);
        lock.lock();
        next->full = false;
        ++taken_;
        moved_.notify_all();
        if (!more) return;
      } else if (slot* const claimed = claim()) {
        scan(lock, *claimed, by);
      } else if (done_ && taken_ == claimed_) {
        return;
      } else {
        moved_.wait(lock);
      }
    }
  }

 private:
  struct slot {
    block content;
    bool full = false;
  };

  slot* ready() {
    slot& next = slots_[taken_ % slots_.size()];
    return taken_ < claimed_ && next.full ? &next : nullptr;
  }

  slot* claim() {
    if (done_ || stopped_ || claimed_ == taken_ + slots_.size()) return nullptr;
    slot& next = slots_[claimed_ % slots_.size()];
    if (!fill(next.content, cutter_, steps_per_parallel_block)) {
      done_ = true;
      moved_.notify_all();
      return nullptr;
    }
    ++claimed_;
    return &next;
  }

  void scan(std::unique_lock<std::mutex>& lock, slot& where, scanner& by) {
    lock.unlock();
    by.scan(where.content);
    lock.lock();
    where.full = true;
    moved_.notify_all();
  }

  void help() {
    std::unique_ptr<matcher> own;
    try {
      own = std::make_unique<matcher>(compiled_);
    } catch (const std::bad_alloc&) {
      return;  // the others do it alone
    }
    scanner by(what_, *own);
    std::unique_lock lock(mutex_);
    while (!stopped_ && !done_) {
      if (slot* const claimed = claim())
        scan(lock, *claimed, by);
      else if (!done_)
        moved_.wait(lock);
    }
  }

  const request& what_;
  const pattern& compiled_;
  std::mutex mutex_;
  std::condition_variable moved_;
  cutter cutter_;
  std::vector<slot> slots_;
  std::uint64_t claimed_ = 0, taken_ = 0;
  bool done_ = false, stopped_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace

outcome search(const request& what, const pattern& compiled, matcher& own, std::string_view text,
               std::string_view name, bool named, unsigned helpers, page& to) {
  printer out(what, own, text, name, named, to);
  taker into(what, out, text);
  if (helpers > 0 && text.size() >= parallel_bytes_min) {
    relay(what, compiled, text, helpers).run(own, into);
  } else {
    cutter pieces(text);
    scanner by(what, own);
    block one;
    while (fill(one, pieces, 1)) {
      by.scan(one);
      if (!into.take(one)) break;
    }
  }
  return into.finish();
}

}  // namespace still::grep
