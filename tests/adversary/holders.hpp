// SPDX-License-Identifier: Apache-2.0
//
// The ways of holding a file's bytes that the writers are set upon: stillmap's, asked for by name and by
// choice, and the canaries: plain mappings, which must show harm, and a fake whose byte is flipped, which
// must be noticed.
#pragma once

#include <stillmap/stillmap.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace adversary {

enum class way {
  automatic,
  leased,
  copied,
  sealed,
  cloned,
  spilled,
  paged,
  plain_shared,
  plain_private,
  flipped
};
const char* name_of(way how);

// What is asked for beside the way. Byte counts; offset and length within the file.
struct request {
  const char* name = "whole";
  std::uint64_t offset = 0, length = 0;
  std::uint32_t padding = 0;
  unsigned flags = 0;
  int fork = STILL_FORK_ABSENT;
  bool by_descriptor = false;    // still_open_fd, the descriptor closed at once
  bool second_owner = false;     // still_share, the first owner closed at once
  bool second_snapshot = false;  // another snapshot of the same file beside it, of a range of its own
  still_consistency require = STILL_VERIFIED;
};

// What can be asked of a way: paged promises no level.
request fit(way how, const request& what);

// The variants that make sense for a file of this size.
std::vector<request> variants(std::uint64_t size);

// The bytes, held until let go.
struct holding {
  const std::byte* data = nullptr;
  std::size_t size = 0;
  std::uint64_t offset = 0;
  still_snapshot* snapshot = nullptr;  // nullptr for canaries
  void* map = nullptr;
  std::size_t map_bytes = 0;

  bool lost() const { return snapshot && still_current(snapshot) == STILL_LOST; }
  void let_go();
};

struct refusal {
  int error = 0;
  std::string message;
};

// True, and *out is set; or false, and *why says so.
bool hold(way how, const std::string& path, const request& what, holding* out, refusal* why);

}  // namespace adversary
