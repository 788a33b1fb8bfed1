// SPDX-License-Identifier: Apache-2.0
#include "ranges/tree.hpp"

#include <mutex>
#include <new>

#include "linux/kernel.hpp"

namespace stillmap::ranges {
namespace {

constexpr auto relaxed = std::memory_order_relaxed;
// A treap of 2^16 ranges, the most that the kernel allows a process by default, is about 40 deep; a walk that
// met a change may go in circles, and ends here.
constexpr int steps_max = 512;
constexpr std::size_t chunk_ranges = 64;
constexpr std::int64_t waiting_ns = 50'000;  // two threads at one range: hardly ever

struct tree {
  std::mutex mutex;
  std::atomic<std::uint32_t> sequence{0};  // odd while it changes
  std::atomic<range*> root{nullptr};
  std::uint32_t claims = 0;
  range* free = nullptr;
  std::uint32_t random = 2463534242;  // xorshift
};
constinit tree all;

address begin_of(const range* one) noexcept {
  return one->begin.load(relaxed);
}
address end_of(const range* one) noexcept {
  return one->end.load(relaxed);
}

// Those that end at or before `at`, and the others.
void split(range* one, address at, range*& before, range*& after) noexcept {
  if (one == nullptr) {
    before = after = nullptr;
  } else if (end_of(one) <= at) {
    range* middle;
    split(one->right.load(relaxed), at, middle, after);
    one->right.store(middle, relaxed);
    before = one;
  } else {
    range* middle;
    split(one->left.load(relaxed), at, before, middle);
    one->left.store(middle, relaxed);
    after = one;
  }
}

range* merge(range* before, range* after) noexcept {
  if (before == nullptr) return after;
  if (after == nullptr) return before;
  if (before->priority > after->priority) {
    before->right.store(merge(before->right.load(relaxed), after), relaxed);
    return before;
  }
  after->left.store(merge(before, after->left.load(relaxed)), relaxed);
  return after;
}

// The first one of a tree whose ranges all end behind `at`, taken out if it begins before `end`.
range* take_first(range*& root, address end) noexcept {
  range* above = nullptr;
  range* one = root;
  while (one != nullptr && one->left.load(relaxed) != nullptr) {
    above = one;
    one = one->left.load(relaxed);
  }
  if (one == nullptr || begin_of(one) >= end) return nullptr;
  range* const rest = one->right.load(relaxed);
  if (above != nullptr) {
    above->left.store(rest, relaxed);
  } else {
    root = rest;
  }
  one->left.store(nullptr, relaxed);
  one->right.store(nullptr, relaxed);
  return one;
}

bool walk(address begin, address end) noexcept {
  const range* one = all.root.load(relaxed);
  for (int step = 0; one != nullptr && step < steps_max; ++step) {
    if (end_of(one) <= begin) {
      one = one->right.load(relaxed);
    } else if (begin_of(one) >= end) {
      one = one->left.load(relaxed);
    } else {
      return true;
    }
  }
  return one != nullptr;
}

}  // namespace

bool are_ours(address begin, address end) noexcept {
  for (;;) {
    const std::uint32_t before = all.sequence.load(std::memory_order_acquire);
    const bool found = walk(begin, end);
    std::atomic_thread_fence(std::memory_order_acquire);
    if ((before & 1) == 0 && all.sequence.load(relaxed) == before) return found;
  }
}

// Signals off, then the mutex: a handler of this thread must not come between.
changing::changing(bool quiet) noexcept : quiet_(quiet) {
  if (!quiet) {
    sigset_t every;
    sigfillset(&every);
    pthread_sigmask(SIG_SETMASK, &every, &before_);
  }
  all.mutex.lock();
  all.sequence.store(all.sequence.load(relaxed) + 1, relaxed);
  std::atomic_thread_fence(std::memory_order_release);
}

changing::~changing() {
  all.sequence.store(all.sequence.load(relaxed) + 1, std::memory_order_release);
  all.mutex.unlock();
  if (!quiet_) pthread_sigmask(SIG_SETMASK, &before_, nullptr);
}

range* changing::make() noexcept {
  if (all.free == nullptr) {
    const long place = kernel::map(nullptr, sizeof(range) * chunk_ranges, PROT_READ | PROT_WRITE,
                                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (kernel::failed(place)) return nullptr;
    range* const more = reinterpret_cast<range*>(place);
    for (std::size_t i = 0; i < chunk_ranges; ++i) {
      range* const one = new (more + i) range;
      one->next = all.free;
      all.free = one;
    }
  }
  range* const one = all.free;
  all.free = one->next;
  // Not made anew: a reader may be at it still.
  one->next = nullptr;
  one->by = nullptr;
  one->bytes = {};
  one->charged_bytes = 0;
  one->slot = {};
  one->shared = one->anonymous = one->lost = one->busy = false;
  one->seam = 0;
  all.random ^= all.random << 13;
  all.random ^= all.random >> 17;
  all.random ^= all.random << 5;
  one->priority = all.random;
  return one;
}

void changing::give_back(range* one) noexcept {
  one->next = all.free;
  all.free = one;
}

void changing::put(range* one) noexcept {
  range *before, *after;
  split(all.root.load(relaxed), begin_of(one), before, after);
  one->next = nullptr;
  all.root.store(merge(merge(before, one), after), relaxed);
}

range* changing::take(address begin, address end) noexcept {
  range *before, *after;
  split(all.root.load(relaxed), begin, before, after);
  range* first = nullptr;
  range** link = &first;
  while (range* const one = take_first(after, end)) {
    *link = one;
    link = &one->next;
  }
  *link = nullptr;
  all.root.store(merge(before, after), relaxed);
  return first;
}

void changing::put_all(range* list) noexcept {
  while (list != nullptr) {
    range* const following = list->next;
    put(list);
    list = following;
  }
}

claim::claim(address begin, address end) noexcept : begin_(begin), end_(end) {
  sigset_t every;
  sigfillset(&every);
  pthread_sigmask(SIG_SETMASK, &every, &before_);
  for (bool others = true; others;) {
    {
      changing tree(true);
      range* const list = tree.take(begin, end);
      others = false;
      for (const range* each = list; each != nullptr; each = each->next) others = others || each->busy;
      range* following = nullptr;
      range** link = &first_;
      for (range* each = list; each != nullptr; each = following) {
        following = each->next;
        tree.put(each);
        if (others) continue;
        each->busy = true;
        *link = each;
        link = &each->next_claimed;
      }
      *link = nullptr;
      if (!others) ++all.claims;
    }
    if (others) kernel::sleep(waiting_ns);
  }
}

claim::~claim() {
  {
    const changing tree(true);
    for (range* each = first_; each != nullptr; each = each->next_claimed) each->busy = false;
    --all.claims;
  }
  pthread_sigmask(SIG_SETMASK, &before_, nullptr);
}

range* claim::take(changing& tree) noexcept {
  first_ = nullptr;
  range* const list = tree.take(begin_, end_);
  for (range* each = list; each != nullptr; each = each->next) each->busy = false;
  return list;
}

namespace {

void let_inherit(const range* one) noexcept {
  for (; one != nullptr; one = one->right.load(relaxed)) {
    let_inherit(one->left.load(relaxed));
    if (one->slot) kernel::advise(reinterpret_cast<void*>(begin_of(one)), one->size(), MADV_DOFORK);
  }
}

}  // namespace

void lock_for_fork() noexcept {
  for (;;) {
    all.mutex.lock();
    if (all.claims == 0 && !arena::is_being_filled()) break;
    all.mutex.unlock();
    kernel::sleep(waiting_ns);
  }
  let_inherit(all.root.load(relaxed));
  arena::retire();
}
void unlock_after_fork() noexcept {
  all.mutex.unlock();
}

}  // namespace stillmap::ranges
