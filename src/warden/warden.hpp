// SPDX-License-Identifier: Apache-2.0
//
// The warden answers lease breaks. Two kinds of thread, started with the first lease:
//
//   the keeper   takes the kernel's signals, polls every lease, puts private memory in place of mappings,
//   poisons
//                what could not be had in time, releases. It makes no call that can wait for storage, takes
//                no lock that an application's thread may hold, and allocates nothing with malloc.
//   the copiers  fill private memory in pieces of at most 4 MiB and hand it back; they also close
//   descriptors,
//                for the last close of an unlinked file waits for storage.
//
// One thread for both would be unsound: stuck in a read of slow or frozen storage it would miss every
// deadline.
//
//   foreign open(O_WRONLY) ... the kernel holds it back .............................. gets through
//          | signal (a hint) or poll                                                     ^ F_SETLEASE F_UNLCK
//   keeper '- F_GETLEASE: broken - LIVE->DETACHING - pieces - ... - clock - mremap over -'
//   copiers                                             '- pread ---'
//   readers  read on, all the while: old page or new, the same bytes
#pragma once

#include <atomic>
#include <cstdint>

#include "warden/table.hpp"

namespace stillmap::warden {

// The thread to which lease signals go, started if need be; 0 where it cannot be. A lease held for the time
// of a copy needs no more than this: its signal (SIGIO, blocked there) is never taken, and kills nobody.
pid_t keeper() noexcept;

// The keeper and the copiers, for leases that are kept.
bool start() noexcept;

int signal_number() noexcept;

// A lease has become LIVE; its holds are.
void note_live(lease& one) noexcept;

// Makes the keeper look at every lease soon.
void poke() noexcept;

// Waits until the hold is not DETACHING any more; its state then.
hold_state settled(const hold& one) noexcept;

// Different for every descriptor marked, and below what any file system takes for an offset.
std::int64_t next_mark() noexcept;

// Whether a descriptor is the one that bears the mark, or another that an application opened under its number
// after closing every descriptor. Asked before every F_GETLEASE, F_UNLCK and close.
bool is_marked(int fd, std::int64_t mark, std::uint64_t device, std::uint64_t inode) noexcept;
bool is_ours(const lease& one) noexcept;

// After a break, how long the kernel lets a writer wait; INT64_MAX where for ever. Read anew each time.
std::int64_t break_time_ns() noexcept;

// From now on the holds that a detach makes private, and those that it loses, are counted there.
void count_detaches(std::atomic<std::uint64_t>& kept, std::atomic<std::uint64_t>& lost) noexcept;

// --- between the warden's own files ---

// Small enough that two threads end at nearly the same time, and that a detach is found stuck early.
constexpr std::size_t piece_bytes_max = std::size_t{4} << 20;

enum class piece_state : std::uint8_t { queued, copying, done, abandoned };

// What takes the place of the file's own pages. In this order, each where the one before is not to be had: a
// clone of the file, which costs the same for any size; memory within the budget; a private file.
enum class means : std::uint8_t { clone, memory, spill };

// Private memory being filled for one hold. Lives in a mapping of its own; freed with its last reference (the
// keeper's, and one for each piece being copied).
struct detachment {
  hold* of = nullptr;
  lease* under = nullptr;
  const std::byte* source = nullptr;
  std::uint64_t offset = 0;        // in the file
  std::uint64_t wanted_bytes = 0;  // up to the frozen size; what follows in the last page is zero
  means by = means::memory;
  std::byte* replacement = nullptr;  // a clone's and a spill's: made by the copier
  std::size_t bytes = 0;             // whole pages
  std::size_t piece_size = piece_bytes_max;
  std::uint64_t charged_bytes = 0;
  std::int64_t give_up_ns = INT64_MAX;  // when the next means is tried instead
  std::size_t own_bytes = 0;  // of this block
  int fd = -1;                // -1: process_vm_readv
  std::uint64_t device = 0, inode = 0, file_bytes = 0;  // of the file; the lease may end before a copier does
  std::uint32_t pieces = 0;
  std::uint32_t next_piece = 0;  // guarded by the copiers' mutex
  detachment* next = nullptr;    // in the copiers' queue, guarded by their mutex; later in the finished list
  std::atomic<std::uint32_t> unfinished_pieces{0};
  std::atomic<std::uint32_t> references{1};

  struct piece {
    std::atomic<piece_state> state{piece_state::queued};
    std::size_t valid_bytes = 0;  // published by state
    bool dropped = false;         // the keeper's: the file's pages are out of the page table already
  };
  piece* all_pieces() noexcept { return reinterpret_cast<piece*>(this + 1); }
  std::size_t piece_begin(std::uint32_t index) const noexcept { return index * piece_size; }
  std::size_t piece_bytes(std::uint32_t index) const noexcept {
    const std::size_t left = bytes - piece_begin(index);
    return left < piece_size ? left : piece_size;
  }
};

namespace copiers {
bool start() noexcept;
void enqueue(detachment* work) noexcept;  // never waits for storage
void watch() noexcept;  // now and then while work is out: lets one more in where all are stuck
void withdraw(detachment* work) noexcept;     // no piece of it is begun after this
bool close_later(const lease& one) noexcept;  // false: the queue is full
void tend_reserve() noexcept;                 // when nothing else is to be done
detachment* take_finished() noexcept;         // a list through `next`
void release(detachment* work) noexcept;      // drops a reference
void forget_after_fork() noexcept;            // in the child: the threads are gone
}  // namespace copiers

// Called once with the first thread; also what makes a static link take fork.cpp in.
void watch_forks() noexcept;

namespace keeper_thread {
void forget_after_fork() noexcept;
void pause() noexcept;  // no detach begins and none is under way until resume
void resume() noexcept;
}  // namespace keeper_thread

}  // namespace stillmap::warden
