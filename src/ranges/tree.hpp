// SPDX-License-Identifier: Apache-2.0
//
// Which addresses are ours: the ranges that still_mmap made, found by address. The question is asked for every
// munmap, mprotect, madvise and mremap of a program under the preload, mostly of memory that is none of ours:
// so it takes no lock and makes no system call, and may be asked in a signal handler.
//
// A treap of disjoint ranges in nodes that are never given back to the system; a sequence number tells a reader
// that the tree changed while it walked, and it walks again. Changes are made by one thread at a time, with
// signals blocked, so that a handler's question never waits for the thread it interrupted.
#pragma once

#include <signal.h>

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "ranges/arena.hpp"
#include "snapshot.hpp"

namespace stillmap::ranges {

using address = std::uintptr_t;

// One range. Its fields belong to whoever took it out of the tree.
struct range {
  std::atomic<address> begin{0}, end{0};  // whole pages; changed outside the tree alone
  std::atomic<range*> left{nullptr}, right{nullptr};
  std::uint32_t priority = 0;
  range* next = nullptr;  // in a list of those taken out, or of free ones
  range* next_claimed = nullptr;  // the claimant's, while they are in the tree

  // What keeps its bytes: a snapshot whose range begins here; nullptr: private memory like any other, of which
  // `charged_bytes` count for the budget.
  const way* by = nullptr;
  held bytes;
  std::uint64_t charged_bytes = 0;
  arena::slot slot;        // where its pages are, if they are the arena's
  bool shared = false;     // asked for as MAP_SHARED: can never be made writable
  bool anonymous = false;  // memory that is no file's
  bool lost = false;       // its bytes could not be kept: nothing may be seen in their place
  address seam = 0;        // within it: where two mappings of the kernel's meet, the file's pages and the last one
  bool busy = false;       // claimed: guarded by `changing`

  std::size_t size() const noexcept { return end.load(std::memory_order_relaxed) - begin.load(std::memory_order_relaxed); }
};

// Whether any byte of [begin, end) is ours. Lock-free, safe in signal handlers.
bool are_ours(address begin, address end) noexcept;

// The right to change the tree, for a short while: all signals are blocked meanwhile.
class changing {
 public:
  explicit changing(bool quiet = false) noexcept;  // quiet: they are blocked already
  changing(const changing&) = delete;
  changing& operator=(const changing&) = delete;
  ~changing();

  // A range that is in no tree yet; nullptr: no memory.
  range* make() noexcept;
  void give_back(range* one) noexcept;

  void put(range* one) noexcept;
  // Takes out every range that touches [begin, end): a list in order of address.
  range* take(address begin, address end) noexcept;
  void put_all(range* list) noexcept;

 private:
  bool quiet_;
  sigset_t before_;
};

// Every range that touches [begin, end), in order of address; in the tree still, but nobody else's while this
// lives. Waits for whoever has one of them. Signals are blocked meanwhile.
class claim {
 public:
  claim(address begin, address end) noexcept;
  claim(const claim&) = delete;
  claim& operator=(const claim&) = delete;
  ~claim();

  range* first() const noexcept { return first_; }
  // Takes them out of the tree; they are the caller's. Whatever is to be in it again must be back before
  // others may look: they would pass on to the kernel what is still ours.
  range* take(changing& tree) noexcept;

 private:
  sigset_t before_;
  address begin_, end_;
  range* first_ = nullptr;
};

// Waits until nobody has a claim: a child would wait for its owner for ever.
void lock_for_fork() noexcept;
void unlock_after_fork() noexcept;

}  // namespace stillmap::ranges
