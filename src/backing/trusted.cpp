// SPDX-License-Identifier: Apache-2.0
//
// trusted: the file's own pages with nothing to protect them: what every mmap library gives. Only by name,
// for a file that the caller knows nobody will touch.
#include "backing/mapped.hpp"

namespace stillmap {
namespace {

taking take(opening& from, held& into) noexcept {
  into.when = STILL_TORN;
  return map_as_it_is(from, from.fd(), into);
}

}  // namespace

const way trusted_way{take, release_mapping, shared_for_ever, tail_alone};

}  // namespace stillmap
