// SPDX-License-Identifier: Apache-2.0
//
// Facts about a file: what the plan is chosen from. Gathered with one statx, one fstatfs a device
// (remembered), and, where they could matter, the seals and the mount table. Facts say what is; choice.hpp
// says what follows.
#pragma once

#include <cstdint>
#include <string>

#include "linux/kernel.hpp"

namespace stillmap {

enum class file_kind : std::uint8_t {
  regular,
  directory,
  stream,     // pipe, socket, terminal or other character device: bytes come once, in order
  block,      // block device
  generated,  // a "regular" file of /proc, /sys and the like: made while it is read, size unknown
};

enum class file_system : std::uint8_t {
  unknown,
  ext4,
  xfs,
  btrfs,
  tmpfs,
  hugetlbfs,
  f2fs,
  bcachefs,
  overlay,
  nfs,
  cifs,
  fuse,
  ninep,
  kernel_made,
  squashfs,
  erofs,
  iso9660,
};

// The stamps that witness a change, and the inode they belong to.
struct stamps {
  std::uint64_t device = 0, inode = 0, size = 0;
  std::int64_t change_ns = 0, modified_ns = 0, birth_ns = 0;
  bool operator==(const stamps&) const = default;
};

struct facts {
  file_kind kind = file_kind::regular;
  file_system system = file_system::unknown;
  stamps at_open;                    // device, inode, size, times
  std::uint32_t owner = 0;           // st_uid
  std::uint32_t links = 1;           // st_nlink
  bool own_descriptor = true;        // the descriptor is no other's: opened by us, or opened anew
  bool sealed_memory = false;        // memfd with F_SEAL_WRITE and F_SEAL_SHRINK
  bool verity = false;               // fs-verity: the kernel refuses every writer for ever
  bool read_only_kind = false;       // squashfs, erofs, iso9660
  bool loop_over_file = false;       // ... on a loop device over a file
  bool loop_root_only = false;       // ... that root alone may write
  bool at_rest = false;              // unchanged for longer than fault_max_ns
  bool small_folios = false;         // the page cache holds it so that a mapping takes many faults: known to
  bool under_overlay = false;        // below the upper directory of an overlay that our mount namespace shows
};

// A page fault that is under way for longer than this is not reckoned with.
constexpr std::int64_t fault_max_ns = 10'000'000'000;

// Every writer passes through this inode and meets a lease there. f2fs and bcachefs follow where the kernel
// tests pass on them.
constexpr bool leases_hold(file_system system) noexcept {
  return system == file_system::ext4 || system == file_system::xfs || system == file_system::btrfs ||
         system == file_system::tmpfs;
}

const char* name_of(file_kind kind) noexcept;
const char* name_of(file_system system) noexcept;

// Fills *into from an open descriptor, but for what only leases hang on. 0 or -errno.
long gather(int fd, facts& into) noexcept;
void gather_for_leases(int fd, facts& into) noexcept;
// How the page cache holds the range; a hint, remembered for a second.
void gather_folios(int fd, std::uint64_t offset, std::uint64_t length, facts& into) noexcept;

// Stamps of the inode behind fd (path nullptr), or of what path names now. 0 or -errno.
long read_stamps(int fd, const char* path, stamps& into) noexcept;

}  // namespace stillmap
