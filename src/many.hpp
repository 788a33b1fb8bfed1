// SPDX-License-Identifier: Apache-2.0
//
// Several files at once, all or none; and, where POINT_IN_TIME is required, all at one instant.
#pragma once

#include <cstddef>

#include "snapshot.hpp"

namespace stillmap {

int open_many(const char* const* paths, std::size_t count, const request& wanted,
              still_snapshot** out) noexcept;

}  // namespace stillmap
