// SPDX-License-Identifier: Apache-2.0
//
// Private temporary files: without a name from birth (O_TMPFILE), of mode 0, their descriptors in a table
// that the application cannot touch (files_thread.hpp) and closed as soon as the file is mapped. What the
// file holds is then reached through the mapping alone, and goes with it.
//
// Folders are tried in this order: the configured one (still_settings.temporary_folder, $STILLMAP_TMPDIR),
// the source's own, the topmost of its mount; for a spill also /var/tmp and /tmp. A spill leaves out tmpfs,
// which is the very memory that there is too little of, unless it was configured.
//
// Every call here may wait for storage.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "linux/descriptor.hpp"

namespace stillmap::private_file {

// Whose bytes: a descriptor in the application's table, which must be of this inode.
struct source {
  int fd = -1;
  std::uint64_t device = 0, inode = 0;
};

// Calls use(fd, context) with a clone of the source: all of it at one instant, whoever is writing.
//
// FICLONE is one instant because the file system locks both inodes against write(2), truncate and page faults
// (i_rwsem and mapping->invalidate_lock), writes back and unmaps what is dirty, and then shares the extents
// (xfs_reflink_remap_prep, btrfs_clone_files; tests/kernel/clones.cpp).
//
// 0, what `use` returned, or -errno: -EOPNOTSUPP where the file system cannot clone, -ESTALE where the
// descriptor is another file's.
long with_clone(const source& from, long (*use)(int fd, void* context) noexcept, void* context) noexcept;

template <class Use>
long with_clone(const source& from, Use&& use) noexcept {
  return with_clone(
      from,
      [](int fd, void* context) noexcept {
        return (*static_cast<std::remove_reference_t<Use>*>(context))(fd);
      },
      &use);
}

// Pages of a file at an address congruent with `like`, as in memory.hpp. Empty, and `error` is -errno.
mapping map_congruent(int fd, int protection, std::uint64_t offset, std::size_t bytes, const std::byte* like,
                      long& error) noexcept;

// Writable memory whose pages are those of a private file beside `from`, every block of it allocated;
// congruent with `like` as in memory.hpp. Empty, and `error` is -errno: -ENOSPC, -EDQUOT, -EFBIG of the last
// folder that could be used at all.
mapping map_spill(const source& from, std::size_t bytes, const std::byte* like, long& error) noexcept;

// The bytes are all there: on the disk, and read-only. Before that the system may still find out that it
// cannot write them, and forget them.
long settle_spill(void* address, std::size_t bytes) noexcept;

// A file that grows as a stream of unknown length arrives. Lives in a files thread.
class growing {
 public:
  explicit growing(int beside) noexcept : beside_(beside) {}
  growing(const growing&) = delete;
  growing& operator=(const growing&) = delete;
  ~growing() = default;

  long grow(std::size_t bytes) noexcept;  // at least so much room; 0 or -errno
  std::byte* data() const noexcept { return memory_.data(); }
  std::size_t room() const noexcept { return memory_.bytes(); }
  mapping take(std::size_t bytes) noexcept;  // gives the rest of the room back

 private:
  int beside_;
  descriptor file_;
  mapping memory_;
};

}  // namespace stillmap::private_file
