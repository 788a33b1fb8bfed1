// SPDX-License-Identifier: Apache-2.0
//
// The warden's table: which files are leased, and which mappings hang on each lease.
//
//   lease:  FREE -> ARMING -> LIVE -> CLOSING -> FREE           (the last holder closes it)
//                               '--> DETACHING -> ENDED -> FREE (the keeper answers a break)
//
//   hold:   UNUSED -> ARMING -> LIVE -> CLOSING -> UNUSED       (its owner closes it)
//                       |         '--> DETACHING -> PRIVATE or LOST -> CLOSING -> UNUSED
//                       '--> ABORTED -> UNUSED                  (a break came before it was live)
//
// Every change of state is a compare-and-swap on a word that bears a generation, so that whoever acts on what
// it saw a moment ago finds out when the slot has become another's. Only who claimed a slot (ARMING: the
// opener; CLOSING: the closer; DETACHING: the keeper) touches its range or descriptor.
//
// The keeper takes no lock: a thread interrupted by a signal handler that opens a leased file for writing may
// hold any lock of ours. Slots are never given back to the system, so it may look at any at any time. Openers
// and closers share `mutex`, under which nothing is allocated and nothing can wait for storage or for a
// lease.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <shared_mutex>

#include "source.hpp"

namespace stillmap::warden {

enum class lease_state : std::uint32_t { free, arming, live, detaching, ended, closing };
// What a hold's bytes stand on, as readers are told. Set before the lease is released, so that a writer who
// got through finds it told already; the state follows when the keeper is done with the hold.
enum class footing : std::uint8_t { file, own, lost };
enum class hold_state : std::uint32_t {
  unused,
  arming,
  live,
  detaching,
  private_memory,
  lost,
  closing,
  aborted
};

// A state in the low byte, a generation above it; one futex word.
template <class State>
class state_word {
 public:
  // seq_cst: a joiner makes its hold LIVE and then looks at the lease; the keeper makes the lease DETACHING
  // and then looks at the holds. One of them must see the other.
  std::uint32_t load() const noexcept { return word_.load(std::memory_order_seq_cst); }
  State state() const noexcept { return state_of(load()); }
  static State state_of(std::uint32_t word) noexcept { return static_cast<State>(word & 0xff); }
  // From exactly what was seen.
  bool change(std::uint32_t seen, State to) noexcept {
    return word_.compare_exchange_strong(seen, (seen & ~0xffu) | static_cast<std::uint32_t>(to),
                                         std::memory_order_seq_cst);
  }
  // By the claimant alone: nobody else changes it meanwhile.
  void set(State to) noexcept {
    word_.store((word_.load(std::memory_order_relaxed) & ~0xffu) | static_cast<std::uint32_t>(to),
                std::memory_order_seq_cst);
  }
  // For a slot taken anew: the next generation.
  void renew(State to) noexcept {
    word_.store(((word_.load(std::memory_order_relaxed) & ~0xffu) + 0x100u) | static_cast<std::uint32_t>(to),
                std::memory_order_seq_cst);
  }
  const std::atomic<std::uint32_t>& futex() const noexcept { return word_; }

 private:
  std::atomic<std::uint32_t> word_{0};
};

struct lease;
struct detachment;

// One mapping under a lease.
struct hold {
  state_word<hold_state> word;
  std::uint32_t owners = 0;  // guarded by table::mutex
  lease* under = nullptr;
  std::atomic<hold*> next{nullptr};  // in the lease's chain; set once before the hold is linked

  std::byte* address = nullptr;     // of the part that is the file's own pages: what a detach replaces
  std::size_t bytes = 0;            // ... whole pages
  std::uint64_t offset = 0;         // ... in the file
  std::size_t tail_bytes = 0;       // private pages behind it, for padding
  const std::byte* data = nullptr;  // what readers were given: within, or the static zeros of an empty range
  std::uint64_t budget = 0;         // private memory that a detach may take
  std::atomic<std::uint64_t> private_bytes{0};
  std::atomic<std::uint64_t> kept_bytes{0};  // by a detach, in memory or in a file

  // What a later open must ask for to share this mapping.
  struct terms {
    std::uint64_t offset = 0, length = 0;
    std::uint32_t padding = 0;
    std::int8_t fork = 0, access = 0;
    bool operator==(const terms&) const = default;
  } asked;

  std::atomic<footing> stands_on{footing::file};
  bool placed = false;  // the addresses are another's to unmap
  bool absent = false;  // in a forked child: a reservation stands where the mapping was

  // The keeper's, while DETACHING.
  bool cloned_in_vain = false;
  detachment* detaching = nullptr;  // memory being filled, or nullptr where there is none
};

// One leased file.
struct lease {
  state_word<lease_state> word;
  std::atomic<int> fd{-1};
  std::atomic<std::uint64_t> device{0}, inode{0};
  // The offset of the descriptor, which nothing else uses: what tells ours from another with the same number.
  // Unlike the signal and the owner it outlives a forced break.
  std::atomic<std::int64_t> mark{0};
  stamps taken;  // under the lease; its size is the frozen one
  std::atomic<hold*> first{nullptr};
  std::atomic<std::int64_t> seen_ns{0};   // the last moment the lease was seen as F_RDLCK
  lease* next_of_hash = nullptr;          // guarded by table::mutex; also the free list's link
  std::uint32_t holders = 0;  // guarded by table::mutex: holds that are not UNUSED, and openers joining
  bool may_clone = false;  // the file system can share blocks
  std::atomic<bool> hinted{false};        // a signal came while it was still arming
  std::atomic<bool> detach_asked{false};  // make it private though nobody breaks it; false again once begun, or refused

  // The keeper's, while DETACHING.
  bool by_descriptor = false;    // copied with pread: the descriptor must be ours before and after
  std::uint32_t unfinished = 0;  // detachments still with the copiers
  lease* next_answering = nullptr;
  std::int64_t deadline_ns = 0;
};

class table {
 public:
  static table& instance() noexcept;  // never destroyed

  std::mutex mutex;
  // Held shared while a slot is claimed by an opener or a closer; fork takes it alone, so that a child finds
  // no slot in the middle of a change.
  std::shared_mutex gate;

  // All under `mutex`.
  lease* find(std::uint64_t device, std::uint64_t inode, std::uint64_t size) noexcept;  // a LIVE one
  void enter(lease* one) noexcept;         // into the hash: it can be found from now on
  lease* take_lease() noexcept;            // ARMING, or nullptr: see grow
  void give_back(lease* one) noexcept;     // out of the hash, its chain freed
  hold* take_hold(lease* under) noexcept;  // ARMING, in the chain, or nullptr: see grow

  // Without `mutex`: more slots. False where there is no memory.
  bool grow() noexcept;

  // For the keeper: any slot, any time.
  std::uint32_t leases_end() const noexcept { return leases_end_.load(std::memory_order_acquire); }
  lease& lease_at(std::uint32_t index) const noexcept;
  lease* lease_of(int fd) const noexcept;  // the LIVE or ARMING one whose descriptor has this number

  std::atomic<std::uint32_t> live_leases{0};    // LIVE or DETACHING: whether the keeper must poll
  std::atomic<std::uint32_t> opened_leases{0};  // ever, modulo 2^32

 private:
  static constexpr std::uint32_t chunk_leases = 256, chunks_max = 4096, buckets = 4096;
  struct chunk;
  static std::size_t bucket_of(std::uint64_t device, std::uint64_t inode) noexcept;

  std::atomic<std::uint32_t> leases_end_{0};
  std::atomic<chunk*> chunks_[chunks_max] = {};
  lease* free_leases_ = nullptr;
  hold* free_holds_ = nullptr;
  lease* buckets_[buckets] = {};
};

}  // namespace stillmap::warden
