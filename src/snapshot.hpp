// SPDX-License-Identifier: Apache-2.0
//
// A snapshot, and how one comes about: facts, plan, and a walk along the plan that records in its rows what
// happened.
#pragma once

#include <stillmap/stillmap.h>

#include <atomic>

#include "backing/backing.hpp"

struct still_snapshot {
  std::atomic<std::uint32_t> owners{1};
  std::atomic<std::uint8_t> utf8{0};  // 0: not looked at, 1: valid, 2: not
  bool never_changes : 1 = false;     // sealed memory, fs-verity: as long as the file exists
  bool proof_by_stamps : 1 = false;   // a file system and a level where equal stamps prove equal bytes
  bool named : 1 = false;             // its path lies behind it
  still_backing how : 8 = STILL_AUTO;
  const stillmap::way* by = nullptr;
  stillmap::held held;
  stillmap::request asked;  // for refresh

  // Absolute, as it stood at the open; nullptr: opened by descriptor.
  const char* path() const noexcept { return named ? reinterpret_cast<const char*>(this + 1) : nullptr; }
};

namespace stillmap {

// The plan with what happened, for explain.
struct record {
  facts known;
  plan chosen;
};

// still_options as a request. 0, EINVAL or E2BIG.
int read_options(const still_options* options, request& into) noexcept;

// path or (path nullptr) caller_fd. `record` may be null. Fails with fail().
int open_snapshot(const char* path, int caller_fd, const request& wanted, still_snapshot** out,
                  record* record) noexcept;
// The same into a snapshot of the caller's, freshly made. Allocates nothing but memory for the bytes.
int open_into(const char* path, int caller_fd, const request& wanted, still_snapshot& into,
              record* record) noexcept;
void close_snapshot(still_snapshot* one) noexcept;
bool has_changed(const still_snapshot& one) noexcept;
bool identity_is_exact(const still_snapshot& one) noexcept;

}  // namespace stillmap
