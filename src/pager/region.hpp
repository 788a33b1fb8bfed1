// SPDX-License-Identifier: Apache-2.0
//
// One range of memory whose pages are fetched from a file at their first touch. For each page:
//
//   absent -> claimed -> settled         read and installed: it never changes from now on
//     ^          |   '-> settled, lost   could not be read: an access faults
//     '----------'                       not needed after all, or read ahead in vain
//
// Claimed pages are one thread's to install, so that no page is read twice and none is ever overwritten: the
// kernel refuses to install over a page that is there, but not over one that was poisoned.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>

namespace stillmap::pager {

struct page_span {
  std::size_t begin = 0, end = 0;
};

// Pages as bits, a word for 64.
class page_set {
 public:
  explicit page_set(std::uint64_t* words) noexcept : words_(words) {}
  bool has(std::size_t page) const noexcept { return ((words_[page / 64] >> (page % 64)) & 1) != 0; }
  void add(std::size_t page) noexcept { words_[page / 64] |= std::uint64_t{1} << (page % 64); }
  void remove(std::size_t page) noexcept { words_[page / 64] &= ~(std::uint64_t{1} << (page % 64)); }
  static std::size_t words_for(std::size_t pages) noexcept { return (pages + 63) / 64; }

 private:
  std::uint64_t* words_;
};

// What one reader that goes from front to back will touch next.
struct scan {
  std::size_t next = 0;   // page
  std::size_t pages = 0;  // of its last window
};

// Lives in a mapping of its own, with its three sets of pages behind it.
struct region {
  std::byte* address = nullptr;
  std::size_t bytes = 0;     // whole pages, all of them whole in the file as it was when opened
  std::uint64_t offset = 0;  // in the file
  std::size_t own_bytes = 0;
  int fd = -1;  // in the pager's own table
  bool carried = false;

  std::atomic<int> access{0};
  std::atomic<std::uint64_t> fetched_bytes{0}, lost_bytes{0};
  std::atomic<std::uint32_t> settlings{0};  // futex: a window was given back
  std::uint32_t references = 1;             // under the pool's mutex: the owner's, and one for each thread in it

  // Held for a few instructions, with signals blocked on an application's thread: a handler that touched a
  // page would wait for who waits for the mutex.
  std::mutex mutex;
  bool closed = false;                       // no page is installed from now on
  std::atomic<std::uint32_t> installing{0};  // futex: threads that are in the kernel, installing
  static constexpr std::size_t scans_max = 4;
  scan scans[scans_max];
  std::size_t next_scan = 0;

  bool inherited = false;  // a forked child has it: all its pages are settled
  bool orphan = false;     // in a forked child: no thread knows of it

  std::size_t pages() const noexcept;
  page_set settled() noexcept { return page_set(words()); }
  page_set claimed() noexcept { return page_set(words() + page_set::words_for(pages())); }
  page_set lost() noexcept { return page_set(words() + 2 * page_set::words_for(pages())); }
  bool is_absent(std::size_t page) noexcept { return !settled().has(page) && !claimed().has(page); }

 private:
  std::uint64_t* words() noexcept { return reinterpret_cast<std::uint64_t*>(this + 1); }
};

}  // namespace stillmap::pager
