// SPDX-License-Identifier: Apache-2.0
//
// What holds for the whole process: still_configure, else the environment, else the default. Read once, at
// the first open.
#pragma once

#include <stillmap/stillmap.h>

#include <cstdint>
#include <string>

namespace stillmap {

struct settings {
  std::uint64_t pool_bytes = 0;  // recycled buffers that wait for the next copy
  std::uint64_t reserve_bytes = 0;
  std::uint64_t memory_budget = 0;  // private memory of all snapshots
  std::uint64_t copy_max = 0;       // 0: as the machine is
  int signal = 0;                   // 0: the warden chooses
  std::string temporary_folder;

  static const settings& instance() noexcept;  // from now on fixed
};

// 0, EBUSY after the first open, EINVAL, E2BIG.
int configure(const still_settings& wanted) noexcept;

void lock_settings_for_fork() noexcept;
void unlock_settings_after_fork() noexcept;

}  // namespace stillmap
