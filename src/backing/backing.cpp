// SPDX-License-Identifier: Apache-2.0
//
// What most ways have in common.
#include "backing/backing.hpp"

#include "memory.hpp"

namespace stillmap {
namespace {

int kernel_advice(int advice) noexcept {
  switch (advice) {
    case STILL_ADVISE_SEQUENTIAL:
      return MADV_SEQUENTIAL;
    case STILL_ADVISE_RANDOM:
      return MADV_RANDOM;
    case STILL_ADVISE_WILLNEED:
      return MADV_WILLNEED;
    case STILL_ADVISE_POPULATE:
      return MADV_POPULATE_READ;
    default:
      return MADV_HUGEPAGE;
  }
}

}  // namespace

taking advise_memory(held& one, std::uint64_t offset, std::uint64_t length, int advice) noexcept {
  const auto begin = reinterpret_cast<std::uintptr_t>(one.data) + offset;
  const std::uintptr_t first = memory::page_floor(begin);
  const long error =
      kernel::advise(reinterpret_cast<void*>(first), begin + length - first, kernel_advice(advice));
  if (advice == STILL_ADVISE_POPULATE && error != 0) return {error_of(error), "madvise"};
  return {};
}

taking advise_nothing(held&, std::uint64_t, std::uint64_t, int) noexcept {
  return {};
}

std::uint64_t nothing_lost(const held&) noexcept {
  return 0;
}

int nothing_to_detach(held&) noexcept {
  return 0;
}

}  // namespace stillmap
