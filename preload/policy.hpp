// SPDX-License-Identifier: Apache-2.0
//
// Which mappings of a program are to hold still. Everything here may run before main and in signal handlers:
// no allocation, no lock, no standard library beyond string functions.
#pragma once

#include <sys/types.h>

#include <cstddef>

#include "report.hpp"

struct statx;

namespace still::preload {

enum class scope : unsigned char { snapshot, private_, readonly, all };

struct settings {
  scope mappings = scope::readonly;
  still_consistency require = STILL_TORN;
  const char* only = nullptr;
  const char* except = nullptr;
  report* counts = nullptr;

  static const settings& instance() noexcept;  // read from the environment once
};

struct asked {
  int protection, flags, fd;
};

// True: hold it. Else `why`; only for mappings of a descriptor. What was seen of the file is in `found`, if its
// stx_mask is not 0.
bool is_to_hold(const settings& how, const asked& what, struct statx& found, left_alone& why) noexcept;

}  // namespace still::preload
