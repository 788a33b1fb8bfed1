// SPDX-License-Identifier: Apache-2.0
//
// choose(facts, request, machine) -> plan: a pure function. The plan lists every way of holding still in the
// order in which open tries them, and those passed over, each with its reason. open walks it and records what
// happened in the same rows; explain prints them. There is no second place where a way is chosen.
#pragma once

#include <stillmap/stillmap.h>

#include <array>
#include <cstddef>
#include <cstdint>

#include "source.hpp"

namespace stillmap {

// still_options after its checks, with the defaults filled in.
struct request {
  std::uint64_t offset = 0;
  std::uint64_t length = 0;  // 0: to the end
  std::uint64_t memory_budget = 0;
  still_backing backing = STILL_AUTO;
  still_consistency require = STILL_VERIFIED;
  std::uint32_t padding = 0;
  std::int8_t access = STILL_ACCESS_DEFAULT, fork = STILL_FORK_ABSENT;
  bool strict = false, synced = false, populate = false;
  // Where the bytes must come to lie, for still_mmap: whole pages of readable and writable zeros that stay the
  // caller's to unmap.
  std::byte* place = nullptr;
};

// What is true of this process and kernel at the time of the open.
struct machine {
  bool may_lease = true;                   // the file is ours, or CAP_LEASE
  bool lease_room = true;                  // less than a quarter of RLIMIT_NOFILE goes to leases
  bool warm_memory = false;                // a copy of that size meets memory that was used before
  bool multigrain_stamps = true;           // Linux 6.13 or later
  std::uint64_t budget_left = UINT64_MAX;  // private memory that the process may still take
};

// How a copy learns that nothing changed while it was taken.
enum class witness : std::uint8_t {
  lease,   // a read lease held for the time of the copy: point in time
  stamps,  // statx, sync_file_range, lseek(SEEK_DATA) unless on XFS, read, statx: verified
  nature,  // what is read can be read only once, or nobody can write it through its file system: verified
  none,    // torn
};

enum class outcome : std::uint8_t { passed_over, planned, failed, taken };

struct step {
  still_backing backing : 8 = STILL_AUTO;
  outcome result : 8 = outcome::passed_over;
  int error = 0;  // an error number of the interface, when failed
  const char* reason = "";
};

struct plan {
  static constexpr std::size_t steps_max = 10;
  std::array<step, steps_max> steps{};
  std::size_t count = 0;
  int refusal = 0;  // no way was planned: the error number to give, and
  const char* refusal_reason = "";
  bool copy_may_lease = false;                  // a copy may take a lease while it reads
  witness copy_witness = witness::none;         // ... and what it falls back to
  still_consistency nature_level = STILL_TORN;  // what witness::nature proves
  bool copy_at_rest = false;    // nothing has touched it for long: a copy begins without a lease
  bool warm_copy = false;       // a copy stands in for a mapping, because memory is warm: tried once, under a lease
  bool leases_matter = true;    // false: the first way to be tried does without what is asked for their sake
  bool stamps_are_fine = true;  // multigrain; else one younger than the clock's grain proves nothing
  std::uint64_t length = 0;     // bytes of the range; a guess for what has no size
};

// Sizes at which the choice turns; crossing.hpp measures where the first ones lie on this machine.
struct thresholds {
  std::uint64_t copy_max = 512 * 1024;             // up to here a copy is cheaper than a mapping
  std::uint64_t copy_warm_max = 2 << 20;           // ... into memory that was used before
  std::uint64_t copy_small_folios_max = 8 << 20;   // ... of a file that a mapping needs many faults for
  std::uint64_t copy_random_max = 64 * 1024;       // ... where a part of the bytes will be read
  std::uint64_t clone_min = 4 << 20;               // from here a clone is cheaper than a copy
};

// Kinds of file system that can share blocks between files; whether this one does is found out by trying.
bool may_clone(file_system system) noexcept;

plan choose(const facts& file, const request& wanted, const machine& here,
            const thresholds& limits = {}) noexcept;

}  // namespace stillmap
