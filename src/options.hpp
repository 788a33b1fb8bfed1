// SPDX-License-Identifier: Apache-2.0
//
// How structs that grow with the version are taken in: `size` says which fields the caller knew.
#pragma once

#include <errno.h>

#include <cstddef>
#include <cstring>

namespace stillmap {

// Copies what both sides know. Smaller than version 0.1's: EINVAL; larger, with bytes that this version does
// not know and that are not zero: E2BIG. (As openat2(2) and its struct open_how.)
template <class Struct>
int copy_versioned(Struct& into, const Struct& from) noexcept {
  if (from.size < sizeof(Struct)) return EINVAL;
  const unsigned char* const bytes = reinterpret_cast<const unsigned char*>(&from);
  for (std::size_t i = sizeof(Struct); i < from.size; ++i)
    if (bytes[i] != 0) return E2BIG;
  std::memcpy(&into, &from, sizeof(Struct));
  return 0;
}

}  // namespace stillmap
