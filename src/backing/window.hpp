// SPDX-License-Identifier: Apache-2.0
//
// A range of a file in memory: whole pages of the file itself, then, where padding is asked for, private
// pages with the rest of the last page and zeros behind it.
//
//   base            data = base + offset % page                        base + file_bytes
//   | file page | file page | ... | file page |  rest of the range, zeros | zeros ... |
//   '------------- file_bytes ----------------'-------------- tail_bytes -------------'
#pragma once

#include <cstddef>
#include <cstdint>

#include "linux/descriptor.hpp"

namespace stillmap {

struct window {
  mapping memory;              // the whole of it, unless it was to be at a given place
  std::size_t file_bytes = 0;  // at its front
  std::size_t tail_bytes = 0;
  std::uint64_t file_offset = 0;  // of the first page
  std::byte* base = nullptr;
  const std::byte* data = nullptr;
};

// `place`: where the base must be, in memory that is another's to unmap; nullptr: anywhere.
// 0, or -errno; -EIO also where the tail could not be read in full. Nothing keeps the file's pages still:
// that is the caller's part.
long map_window(int fd, std::uint64_t offset, std::uint64_t length, std::uint32_t padding,
                std::byte* place, window& into) noexcept;

}  // namespace stillmap
