// SPDX-License-Identifier: Apache-2.0
//
// Reading a file's bytes into memory of our own, and knowing which moment they show. Where the memory comes
// from is the destination's matter: recycled buffers (copied) or a private file (spilled).
//
// What is hard is the moment:
//
// - A lease held while reading: no writer got through between F_SETLEASE and an F_UNLCK that says 0. Point in
//   time.
// - Time stamps, in the order that let no impossible state through (tests/kernel/stamps.cpp): statx,
//   sync_file_range (write-protects mapped pages, so that the next store moves the stamps), lseek(SEEK_DATA)
//   (waits for a write under way; on XFS the read does), read, statx. Verified. One hole remains: a page fault
//   moves the stamps first and makes the page writable a moment later; where it was between the two all
//   through statx and sync_file_range, stores go unseen. So a file that changed lately is armed and read once
//   more, and must be the same: then it was like that at the instant between the two reads.
// - Neither: torn.
#pragma once

#include "backing/backing.hpp"

namespace stillmap {

struct destination {
  // Writable memory of at least so many bytes in `into`; what was there before is lost.
  taking (*shape)(const opening& from, held& into, std::size_t bytes) noexcept;
  void (*drop)(held& into) noexcept;
  taking (*settle)(held& into) noexcept;  // all bytes are there; may be nullptr
  bool in_file;                           // a copy may take seconds, and a store into it may fail
  bool zeroed = false;                    // what lies behind the last byte is zero already
};

// A file with a size.
taking copy_sized(opening& from, held& into, const destination& to) noexcept;

// What has no size. read_on: until `used` reaches `limit`, or the end.
taking read_on(int fd, std::byte* data, std::size_t limit, std::size_t& used, bool& ended) noexcept;
taking finish_stream(opening& from, held& into, std::size_t used, const destination& to) noexcept;

// How many bytes of a stream are wanted at most.
inline std::uint64_t enough_of(const request& wanted) noexcept {
  return wanted.length == 0 ? UINT64_MAX : wanted.offset + wanted.length;
}

}  // namespace stillmap
