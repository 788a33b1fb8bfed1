// SPDX-License-Identifier: Apache-2.0
//
// Apart from the rest of the interface, so that a program linked with the static library that never asks for it
// needs no simdjson.
#include <errno.h>
#include <simdjson.h>
#include <stillmap/stillmap.h>

#include "failure.hpp"
#include "snapshot.hpp"

using namespace stillmap;

extern "C" int still_validate_utf8(const still_snapshot* snapshot) {
  auto& known = const_cast<still_snapshot*>(snapshot)->utf8;
  if (known.load(std::memory_order_relaxed) == 0) {  // two threads may both look: they find the same
    const bool valid =
        simdjson::validate_utf8(static_cast<const char*>(still_data(snapshot)), still_size(snapshot));
    known.store(valid ? 1 : 2, std::memory_order_relaxed);
  }
  return known.load(std::memory_order_relaxed) == 1
             ? 0
             : fail({EILSEQ, snapshot->path() != nullptr ? snapshot->path() : "snapshot",
                     "the bytes are not valid UTF-8", "", culprits::none, 0, 0});
}
