// SPDX-License-Identifier: Apache-2.0
//
// Up to which size reading a file into recycled memory is cheaper than the page faults of a mapping. That is a
// property of the machine: faults are dear in a virtual machine. The defaults were measured in one
// (docs/benchmarks.md); a process that opens many files of a size where it matters measures once, within two
// milliseconds, and keeps the answer in memory. settings::copy_max overrides both.
#pragma once

#include <cstdint>

#include "choice.hpp"

namespace stillmap::crossing {

// What opening, reading every byte and closing costs, in nanoseconds.
struct costs {
  std::int64_t map_page = 0, map_mib = 0;  // mapped, in small folios
  std::int64_t copy_mib = 0;               // read into memory that was used before
};

// The defaults where copying a MiB is no dearer than mapping it; else all limits at most where the lines cross.
thresholds limits_for(const costs& measured) noexcept;

// For an open of so many bytes, which counts.
const thresholds& limits(std::uint64_t length) noexcept;

// Measures now, unless that was done. nullptr: the settings say, or it could not be done.
const costs* measure() noexcept;

}  // namespace stillmap::crossing
