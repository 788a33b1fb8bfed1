// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "linux/kernel.hpp"
#include "warden/table.hpp"

namespace stillmap::testing_support {

// The number of live leases, once it is `expected`; or what it is after a long while: a writer is through a
// moment before the keeper is done with the lease.
inline std::uint32_t live_leases(std::uint32_t expected) {
  const auto& count = warden::table::instance().live_leases;
  const std::int64_t end = kernel::now_ns() + 10'000'000'000;
  while (count.load() != expected && kernel::now_ns() < end) kernel::sleep(1'000'000);
  return count.load();
}

}  // namespace stillmap::testing_support
