// SPDX-License-Identifier: Apache-2.0
//
// Snapshots at addresses of the caller's choice, with the lengths and protections of mmap(2), and what may be
// done with parts of them afterwards. still_mmap and its kin stand on this, and so does the preload.
//
// The addresses belong to this room: a way of holding is told where its bytes must lie (request::place) and
// unmaps nothing. What is done to a part of a range first makes the whole of it private memory like any other
// ("loose"), if need be by a detach, and is then left to the kernel.
//
//   | whole pages of the file | last page: a private copy, zeros behind the end | pages beyond: SIGBUS |
//
// All functions give -errno as mmap(2) and its kin document it.
#pragma once

#include <stillmap/stillmap.h>
#include <sys/types.h>

#include <cstddef>

struct statx;

namespace stillmap::ranges {

struct terms {
  still_consistency require = STILL_VERIFIED;
  bool unproved = false;  // STILL_TORN is enough: no time is spent on more, for what is small
  bool shared = false;    // asked for as MAP_SHARED
  const struct statx* known = nullptr;  // of the descriptor, if it was looked at a moment ago
  bool quiet = false;                   // signals are blocked already
};

// What came of it, for whoever counts.
struct holding {
  still_backing how = STILL_AUTO;
  still_consistency when = STILL_TORN;
};

// A snapshot of a regular file. `flags` are those of mmap(2), whose mapping type is not looked at.
long map_snapshot(void* where, std::size_t length, int protection, int flags, int fd, off_t offset,
                  const terms& asked, holding& into) noexcept;

// These are for any memory: what is none of ours goes to the kernel as it is.
long map_plain(void* where, std::size_t length, int protection, int flags, int fd, off_t offset) noexcept;
long unmap(void* where, std::size_t length) noexcept;
long protect(void* where, std::size_t length, int protection) noexcept;
long advise(void* where, std::size_t length, int advice) noexcept;
long remap(void* where, std::size_t old_length, std::size_t new_length, int flags, void* to) noexcept;

}  // namespace stillmap::ranges
