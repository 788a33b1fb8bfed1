// SPDX-License-Identifier: Apache-2.0
//
// sealed: the file cannot change, so its own pages are the snapshot. Nothing to guard, nothing to answer; no
// descriptor is kept. A read error of the disk still faults, as with any mapping.
#include "backing/mapped.hpp"

namespace stillmap {
namespace {

taking take(opening& from, held& into) noexcept {
  const taking result = map_as_it_is(from, from.fd(), into);
  into.when = STILL_POINT_IN_TIME;
  into.stamped = true;
  return result;
}

}  // namespace

const way sealed_way{take, release_mapping, shared_for_ever, tail_alone};

}  // namespace stillmap
