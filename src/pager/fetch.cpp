// SPDX-License-Identifier: Apache-2.0
#include "pager/fetch.hpp"

#include <errno.h>
#include <stillmap/stillmap.h>

#include <algorithm>
#include <new>

#include "linux/kernel.hpp"
#include "memory.hpp"

namespace stillmap::pager {
namespace {

// A touch out of the blue brings 64 KiB around it; each window of a scan twice as much, up to 2 MiB.
constexpr std::size_t window_min_bytes = std::size_t{64} << 10, window_max_bytes = std::size_t{2} << 20;

// Memory is short: for how long installing a page is tried.
constexpr int install_attempts = 500;
constexpr std::int64_t install_pause_ns = 2'000'000;

std::size_t window_min() noexcept {
  return std::max<std::size_t>(window_min_bytes / memory::page_bytes(), 1);
}
std::size_t window_max() noexcept {
  return std::max<std::size_t>(window_max_bytes / memory::page_bytes(), 1);
}

std::byte* address_of(const region& one, std::size_t page) noexcept {
  return one.address + page * memory::page_bytes();
}

// With the mutex held. The window for a touch, as if no page were there yet; notes it in the scans.
page_span window_for(region& one, std::size_t page) noexcept {
  const int access = one.access.load(std::memory_order_relaxed);  // a hint
  const std::size_t all = one.pages();
  const std::size_t first = page / window_min() * window_min();
  if (access == STILL_ACCESS_RANDOM) return {first, std::min(first + window_min(), all)};
  scan* const found =
      std::find_if(one.scans, one.scans + region::scans_max,
                   [&](const scan& each) { return each.pages != 0 && each.next == page; });
  const bool known = found != one.scans + region::scans_max;
  scan& mine = known ? *found : one.scans[one.next_scan++ % region::scans_max];
  if (known) {
    mine.pages = std::min(mine.pages * 2, window_max());
  } else {
    mine.pages = access == STILL_ACCESS_SEQUENTIAL ? window_max() : window_min();
  }
  mine.next = std::min((page + mine.pages) / window_min() * window_min(), all);
  if (mine.next <= page) mine.next = std::min(page + 1, all);
  return {known ? page : first, mine.next};
}

void give_back(job& work, const userfault& by) noexcept {
  region& one = *work.of;
  bool whole = true;
  {
    const std::lock_guard lock(one.mutex);
    page_set claimed = one.claimed();
    const page_set settled = one.settled();
    for (std::size_t page = work.window.begin; page < work.window.end; ++page) {
      claimed.remove(page);
      whole = whole && settled.has(page);
    }
  }
  one.settlings.fetch_add(1);
  kernel::futex_wake(one.settlings);
  // Who waits for a page that was not brought after all must ask again.
  if (!whole)
    kernel::userfault_wake(by.fd, address_of(one, work.window.begin),
                           (work.window.end - work.window.begin) * memory::page_bytes());
}

// While one exists, the region is not unmapped.
class inside {
 public:
  explicit inside(region& one) noexcept : one_(one) {
    const std::lock_guard lock(one.mutex);
    open_ = !one.closed;
    if (open_) one.installing.fetch_add(1);
  }
  ~inside() {
    if (open_ && one_.installing.fetch_sub(1) == 1) kernel::futex_wake(one_.installing);
  }
  inside(const inside&) = delete;
  inside& operator=(const inside&) = delete;
  explicit operator bool() const noexcept { return open_; }

 private:
  region& one_;
  bool open_;
};

// How many of the pages are installed from now on; fewer than asked for where there is no memory, or the
// range is not ours any more.
std::size_t install(region& one, const userfault& by, std::size_t first, std::size_t count,
                    const std::byte* from) noexcept {
  const std::size_t page_bytes = memory::page_bytes();
  std::size_t installed = 0;
  const inside holding(one);
  if (!holding) return 0;
  // Counted first: who goes on with a page finds it counted.
  one.fetched_bytes.fetch_add(count * page_bytes);
  memory::charge_always(count * page_bytes);
  for (int attempts = 0; installed < count;) {
    std::size_t done = 0;
    const long error = kernel::userfault_copy(by.fd, address_of(one, first + installed),
                                              from + installed * page_bytes, (count - installed) * page_bytes, done);
    installed += done / page_bytes;
    if (error == 0) break;
    if (error == -EEXIST) {  // what is there is older, and stays
      kernel::userfault_wake(by.fd, address_of(one, first + installed), page_bytes);
      ++installed;
    } else if (error == -ENOMEM && done == 0) {
      if (++attempts == install_attempts) break;
      kernel::sleep(install_pause_ns);
    } else if (error != -EAGAIN && error != -ENOMEM) {
      break;
    }
  }
  one.fetched_bytes.fetch_sub((count - installed) * page_bytes);
  memory::discharge((count - installed) * page_bytes);
  const std::lock_guard lock(one.mutex);
  page_set settled = one.settled();
  for (std::size_t page = first; page < first + installed; ++page) settled.add(page);
  return installed;
}

// The count comes first: whoever meets the fault finds it told.
void count_loss(region& one, std::uint64_t bytes) noexcept {
  one.lost_bytes.fetch_add(bytes);
}
void mark_lost(region& one, std::size_t page) noexcept {
  const std::lock_guard lock(one.mutex);
  one.settled().add(page);
  one.lost().add(page);
}

// No access to a page, where it cannot be poisoned. This splits the mapping; where the kernel has no room for
// that, all of it goes.
void forbid(region& one, std::size_t page) noexcept {
  if (kernel::protect(address_of(one, page), memory::page_bytes(), PROT_NONE) == 0) return;
  count_loss(one, one.bytes);  // an upper bound is clipped where it is told
  kernel::protect(one.address, one.bytes, PROT_NONE);
}

// Nobody will read this page: an access faults from now on, be it the one that waits or a later one.
void lose(region& one, const userfault& by, std::size_t page) noexcept {
  const std::size_t page_bytes = memory::page_bytes();
  const inside holding(one);
  if (!holding) return;
  count_loss(one, page_bytes);
  const long error = by.can_poison ? kernel::userfault_poison(by.fd, address_of(one, page), page_bytes) : -EINVAL;
  // EEXIST: a page is there, by whomever. ENOENT: the memory is not ours any more.
  if (error == -EEXIST || error == -ENOENT) {
    one.lost_bytes.fetch_sub(page_bytes);
    const std::lock_guard lock(one.mutex);
    one.settled().add(page);
  } else {
    if (error != 0) forbid(one, page);
    mark_lost(one, page);
  }
  kernel::userfault_wake(by.fd, address_of(one, page), page_bytes);
}

// A touch found no page where one was settled. Either it was installed in between; or somebody threw it away
// (MADV_DONTNEED), and what was observed there cannot be had again: the file may be another by now.
void look_again(region& one, const userfault& by, std::size_t page, bool lost) noexcept {
  const inside holding(one);
  if (!holding) return;
  if (!lost && !kernel::is_resident(address_of(one, page))) return lose(one, by, page);
  kernel::userfault_wake(by.fd, address_of(one, page), memory::page_bytes());
}

}  // namespace

std::size_t region::pages() const noexcept {
  return bytes / memory::page_bytes();
}

bool claim_for_touch(region& one, const userfault& by, std::size_t page, job& into) noexcept {
  bool lost = false;
  {
    const std::lock_guard lock(one.mutex);
    if (one.closed || one.claimed().has(page)) return false;  // who claimed it will wake
    if (!one.settled().has(page)) {
      page_span window = window_for(one, page);
      std::size_t begin = page, end = page + 1;
      while (begin > window.begin && one.is_absent(begin - 1)) --begin;
      while (end < window.end && one.is_absent(end)) ++end;
      page_set claimed = one.claimed();
      for (std::size_t each = begin; each < end; ++each) claimed.add(each);
      into = {&one, {begin, end}, begin, page, false};
      return true;
    }
    lost = one.lost().has(page);
  }
  look_again(one, by, page, lost);
  return false;
}

bool claim_absent(region& one, page_span within, job& into, bool& met) noexcept {
  const std::lock_guard lock(one.mutex);
  page_set claimed = one.claimed();
  std::size_t begin = within.begin;
  for (; !one.closed && begin < within.end && !one.is_absent(begin); ++begin)
    met = met || claimed.has(begin);
  if (one.closed || begin >= within.end) return false;
  std::size_t end = begin;
  while (end < within.end && end - begin < window_max() && one.is_absent(end)) claimed.add(end++);
  into = {&one, {begin, end}, begin, begin, true};
  return true;
}

bool run(job& work, const userfault& by, bool may_wait, std::byte* buffer) noexcept {
  region& one = *work.of;
  const std::size_t page_bytes = memory::page_bytes();
  bool alone = false;  // the page at `at` stopped a read before: once more without its neighbours
  while (work.at < work.window.end) {
    const std::size_t count = alone ? 1 : std::min(work.window.end - work.at, piece_bytes / page_bytes);
    const std::uint64_t offset = one.offset + work.at * page_bytes;
    std::size_t done = 0;
    if (may_wait) {
      kernel::pread(one.fd, buffer, count * page_bytes, offset, done);  // an error: what is done is good
    } else {
      const long got = kernel::pread_cached(one.fd, buffer, count * page_bytes, offset);
      if (got < 0 || static_cast<std::size_t>(got) != count * page_bytes) return false;
      done = static_cast<std::size_t>(got);
    }
    const std::size_t good = done / page_bytes;
    const std::size_t installed = good > 0 ? install(one, by, work.at, good, buffer) : 0;
    work.at += installed;
    if (good > 0 && installed == good) {
      alone = false;
      continue;
    }
    // The page at `at` cannot be had whole: beyond a new end of the file, a read error, no memory.
    const bool is_wanted = work.all_wanted || work.at == work.wanted;
    if (!is_wanted && work.at < work.wanted) {
      work.at = work.wanted;
    } else if (!is_wanted) {
      break;
    } else if (!alone) {
      alone = true;
    } else {
      lose(one, by, work.at++);
      alone = work.all_wanted;  // the next one most likely as well
    }
  }
  give_back(work, by);
  return true;
}

}  // namespace stillmap::pager
