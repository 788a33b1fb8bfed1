// SPDX-License-Identifier: Apache-2.0
#include "backing/mapped.hpp"

#include "backing/window.hpp"
#include "memory.hpp"

namespace stillmap {

taking map_as_it_is(const opening& from, int fd, held& into) noexcept {
  std::uint64_t length = 0;
  if (const int error = range_of(from.wanted, from.known.at_open.size, length)) return {error};
  window view;
  if (const long error = map_window(fd, from.wanted.offset, length, from.wanted.padding,
                                    from.wanted.place, view); error != 0)
    return {error_of(error), "mmap"};
  if (!memory::charge(view.tail_bytes, from.wanted.memory_budget)) return {STILL_ERROR_OVER_BUDGET};
  if (from.wanted.populate && view.file_bytes > 0)
    kernel::advise(view.base, view.file_bytes, MADV_POPULATE_READ);
  into.data = view.data;
  into.size = length;
  into.taken = from.known.at_open;
  into.charged_bytes = view.tail_bytes;
  into.mapped_bytes = view.memory.bytes();  // 0 at a given place
  into.mapped = view.memory.release();
  return {};
}

void release_mapping(held& one) noexcept {
  if (one.mapped != nullptr) kernel::unmap(one.mapped, one.mapped_bytes);
  memory::discharge(one.charged_bytes);
}

still_state shared_for_ever(const held&) noexcept {
  return STILL_SHARED;
}
still_state private_for_ever(const held&) noexcept {
  return STILL_PRIVATE;
}
std::uint64_t tail_alone(const held& one) noexcept {
  return one.charged_bytes;
}

}  // namespace stillmap
