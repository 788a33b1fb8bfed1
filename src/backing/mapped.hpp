// SPDX-License-Identifier: Apache-2.0
//
// The file's own pages, mapped as they are. What keeps them still, if anything does, is the way's own matter.
#pragma once

#include "backing/backing.hpp"

namespace stillmap {

// Maps the range of what fd is, given the size in from.known.at_open; the stamps taken are those.
taking map_as_it_is(const opening& from, int fd, held& into) noexcept;

void release_mapping(held& one) noexcept;
still_state shared_for_ever(const held& one) noexcept;
still_state private_for_ever(const held& one) noexcept;
std::uint64_t tail_alone(const held& one) noexcept;  // private bytes: those of the padding

}  // namespace stillmap
