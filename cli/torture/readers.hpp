// SPDX-License-Identifier: Apache-2.0
//
// The ways to read a file that are compared, and the process that tries one of them under the storm.
#pragma once

#include "torture/scoreboard.hpp"

#include <stillmap/stillmap.h>

#include <cstddef>
#include <span>
#include <string>

namespace still::torture {

enum class method { mmap_shared, mmap_private, read, stillmap };

struct way {
  const char* name;
  method how;
  still_backing backing = STILL_AUTO;
  still_consistency require = STILL_TORN;

  bool harmless() const { return how == method::read || how == method::stillmap; }
};

std::span<const way> ways();

// Reads until the row's end, and counts. For a process of its own: it takes the fault signals for itself.
void read_under_storm(scoreboard& board, const std::string& folder, std::size_t row);

}  // namespace still::torture
