// SPDX-License-Identifier: Apache-2.0
//
// What the mount table says about a file: whether it lies below the upper directory of an overlay. Truncating
// such a file through the overlay breaks no lease on it (tests/kernel, B4), so it must not be leased. Only
// overlays that our own mount namespace shows can be seen.
#pragma once

#include <cstdint>

namespace stillmap {

// True where fd's file lies (or, having several names, may lie) below some overlay's upper directory. Reads
// /proc/self/mountinfo at most once in a while: at least 1 ms, and 100 times what the reading took.
bool below_overlay_upper(int fd, std::uint64_t device, std::uint32_t links) noexcept;

void lock_mounts_for_fork() noexcept;
void unlock_mounts_after_fork() noexcept;

// Whether the block device is a loop device (or a partition of one) over a file, and whether root alone may
// write that file.
struct loop_facts {
  bool over_file = false;
  bool root_only = false;
};
loop_facts loop_of(std::uint32_t device_major, std::uint32_t device_minor) noexcept;

}  // namespace stillmap
