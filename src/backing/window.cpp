// SPDX-License-Identifier: Apache-2.0
#include "backing/window.hpp"

#include <errno.h>

#include "memory.hpp"

namespace stillmap {

long map_window(int fd, std::uint64_t offset, std::uint64_t length, std::uint32_t padding,
                std::byte* place, window& into) noexcept {
  const std::size_t lead = offset & (memory::page_bytes() - 1);
  const std::size_t span = lead + length;
  into.file_offset = offset - lead;
  into.file_bytes = padding == 0 ? memory::page_ceiling(span) : memory::page_floor(span);
  into.tail_bytes = padding == 0 ? 0 : memory::page_ceiling(span + padding) - into.file_bytes;
  if (into.file_bytes + into.tail_bytes == 0) {
    into.data = memory::zeros();
    return 0;
  }

  // Where there is a tail, the whole range first: the file's pages then take the front of it.
  std::byte* base = place;
  if (into.tail_bytes > 0) {
    const std::size_t whole = into.file_bytes + into.tail_bytes;
    if (place != nullptr) {
      const long address = kernel::map(place, whole, PROT_READ | PROT_WRITE,
                                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
      if (kernel::failed(address)) return address;
    } else {
      // Congruent with the offset, so that large folios are mapped whole.
      base = memory::map_congruent(whole, reinterpret_cast<const std::byte*>(into.file_offset));
      if (base == nullptr) return -ENOMEM;
      into.memory = mapping(base, whole);
    }
    const std::size_t rest = span - into.file_bytes;
    std::size_t done = 0;
    if (const long error =
            kernel::pread(fd, base + into.file_bytes, rest, into.file_offset + into.file_bytes, done);
        error != 0)
      return error;
    if (done != rest) return -EIO;
    if (const long error = kernel::protect(base + into.file_bytes, into.tail_bytes, PROT_READ); error != 0)
      return error;
  }
  if (into.file_bytes > 0) {
    const int flags = MAP_SHARED | (base != nullptr ? MAP_FIXED : 0);
    const long address = kernel::map(base, into.file_bytes, PROT_READ, flags, fd, into.file_offset);
    if (kernel::failed(address)) return address;
    base = reinterpret_cast<std::byte*>(address);
    if (!into.memory && place == nullptr) into.memory = mapping(base, into.file_bytes);
  }
  // A range that begins in the tail's page has its lead there.
  into.base = base;
  into.data = base + lead;
  return 0;
}

}  // namespace stillmap
