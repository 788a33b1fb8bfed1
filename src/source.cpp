// SPDX-License-Identifier: Apache-2.0
#include "source.hpp"

#include <errno.h>
#include <linux/magic.h>
#include <linux/stat.h>
#include <sys/mman.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>

#include <array>
#include <atomic>

#include "linux/mounts.hpp"

namespace stillmap {
namespace {

#ifndef STATX_MNT_ID_UNIQUE
constexpr unsigned STATX_MNT_ID_UNIQUE = 0x4000;  // Linux 6.8
#endif

// File system magic numbers that <linux/magic.h> of Debian 12 has under other headers or not at all.
constexpr long bcachefs_magic = static_cast<long>(0xca451a4e), cifs_magic = 0xff534d42,
               smb2_magic = 0xfe534d42, iso9660_magic = 0x9660, fuse_magic = 0x65735546,
               configfs_magic = 0x62656570;

file_system system_of(long magic) noexcept {
  switch (magic & 0xffffffff) {
    case EXT4_SUPER_MAGIC:
      return file_system::ext4;  // also ext3, and ext2 where ext4's driver mounts it
    case XFS_SUPER_MAGIC:
      return file_system::xfs;
    case BTRFS_SUPER_MAGIC:
      return file_system::btrfs;
    case TMPFS_MAGIC:
      return file_system::tmpfs;
    case HUGETLBFS_MAGIC:
      return file_system::hugetlbfs;
    case F2FS_SUPER_MAGIC:
      return file_system::f2fs;
    case bcachefs_magic & 0xffffffff:
      return file_system::bcachefs;
    case OVERLAYFS_SUPER_MAGIC:
      return file_system::overlay;
    case NFS_SUPER_MAGIC:
      return file_system::nfs;
    case SMB_SUPER_MAGIC:
    case cifs_magic:
    case smb2_magic:
      return file_system::cifs;
    case fuse_magic:
      return file_system::fuse;
    case V9FS_MAGIC:
      return file_system::ninep;
    case SQUASHFS_MAGIC:
      return file_system::squashfs;
    case EROFS_SUPER_MAGIC_V1:
      return file_system::erofs;
    case iso9660_magic:
      return file_system::iso9660;
    case PROC_SUPER_MAGIC:
    case SYSFS_MAGIC:
    case DEBUGFS_MAGIC:
    case TRACEFS_MAGIC:
    case SECURITYFS_MAGIC:
    case CGROUP_SUPER_MAGIC:
    case CGROUP2_SUPER_MAGIC:
    case BPF_FS_MAGIC:
    case EFIVARFS_MAGIC:
    case NSFS_MAGIC:
    case PSTOREFS_MAGIC:
    case SELINUX_MAGIC:
    case SMACK_MAGIC:
    case configfs_magic:
      return file_system::kernel_made;
    default:
      return file_system::unknown;
  }
}

// The kind of file system by mount: one fstatfs a mount instead of one an open. Keyed by the unique mount id,
// which is never used again; device numbers are. A word holds the id above eight bits of kind, 0 is empty.
std::array<std::atomic<std::uint64_t>, 64> systems_by_mount{};

long find_system(int fd, const struct statx& found, file_system& into) noexcept {
  const bool unique = (found.stx_mask & STATX_MNT_ID_UNIQUE) != 0;
  std::atomic<std::uint64_t>& slot = systems_by_mount[found.stx_mnt_id % systems_by_mount.size()];
  const std::uint64_t remembered =
      slot.load(std::memory_order_relaxed);  // one word: nothing else hangs on it
  if (unique && remembered >> 8 == found.stx_mnt_id) {
    into = static_cast<file_system>(remembered & 0xff);
    return 0;
  }
  struct statfs answer;
  if (const long error = kernel::filesystem(fd, &answer); error != 0) return error;
  into = system_of(static_cast<long>(answer.f_type));
  // ext2's own driver (CONFIG_EXT2_FS) has the same number, and writes without the inode lock that SEEK_DATA takes in
  // ext4's; which of them it is shows in what they know of (ext4_getattr, ext2_getattr).
  if (into == file_system::ext4 && (found.stx_attributes_mask & STATX_ATTR_VERITY) == 0) into = file_system::unknown;
  if (unique)
    slot.store(std::uint64_t{found.stx_mnt_id} << 8 | static_cast<std::uint64_t>(into),
               std::memory_order_relaxed);
  return 0;
}

std::int64_t nanoseconds(const statx_timestamp& time) noexcept {
  return std::int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

stamps stamps_of(const struct statx& found) noexcept {
  return {makedev(found.stx_dev_major, found.stx_dev_minor),
          found.stx_ino,
          found.stx_size,
          nanoseconds(found.stx_ctime),
          nanoseconds(found.stx_mtime),
          (found.stx_mask & STATX_BTIME) != 0 ? nanoseconds(found.stx_btime) : 0};
}

// Whether a fault maps little of the range: looked at in its middle, through a mapping of our own, where madvise
// reports what would be a SIGBUS. False where storage has to be waited for: then no copy of all is to be made.
bool is_mapped_in_pieces(int fd, std::uint64_t offset, std::uint64_t length) noexcept {
  constexpr std::uint64_t huge_bytes = std::uint64_t{2} << 20, little = std::uint64_t{256} << 10;
  const std::uint64_t first = (offset + length / 2) & ~(huge_bytes - 1);
  if (first < offset || first + huge_bytes > offset + length) return true;
  std::byte any;
  for (const std::uint64_t at : {first, first + little})
    if (kernel::pread_cached(fd, &any, 1, at) == -EAGAIN) return false;  // storage would be waited for
  const long address = kernel::map(nullptr, huge_bytes, PROT_READ, MAP_SHARED, fd, first);
  if (kernel::failed(address)) return false;
  const auto touch = [&](std::uint64_t at) {
    return kernel::advise(reinterpret_cast<std::byte*>(address) + at, 1, MADV_POPULATE_READ) == 0;
  };
  const kernel::faults before = kernel::faults_of_thread();
  const bool touched = touch(0) && touch(little);
  const kernel::faults after = kernel::faults_of_thread();
  kernel::unmap(reinterpret_cast<void*>(address), huge_bytes);
  return touched && after.waited == before.waited && after.others - before.others > 1;
}

// A word holds a file's hash, and in its lowest bit what was seen.
std::array<std::atomic<std::uint64_t>, 64> folios_seen{};

}  // namespace

const char* name_of(file_kind kind) noexcept {
  switch (kind) {
    case file_kind::regular:
      return "regular file";
    case file_kind::directory:
      return "directory";
    case file_kind::stream:
      return "stream";
    case file_kind::block:
      return "block device";
    case file_kind::generated:
      return "made by the kernel while it is read";
  }
  return "?";
}

const char* name_of(file_system system) noexcept {
  switch (system) {
    case file_system::unknown:
      return "unknown";
    case file_system::ext4:
      return "ext4";
    case file_system::xfs:
      return "xfs";
    case file_system::btrfs:
      return "btrfs";
    case file_system::tmpfs:
      return "tmpfs";
    case file_system::hugetlbfs:
      return "hugetlbfs";
    case file_system::f2fs:
      return "f2fs";
    case file_system::bcachefs:
      return "bcachefs";
    case file_system::overlay:
      return "overlayfs";
    case file_system::nfs:
      return "nfs";
    case file_system::cifs:
      return "cifs";
    case file_system::fuse:
      return "fuse";
    case file_system::ninep:
      return "9p";
    case file_system::kernel_made:
      return "of the kernel's own making";
    case file_system::squashfs:
      return "squashfs";
    case file_system::erofs:
      return "erofs";
    case file_system::iso9660:
      return "iso9660";
  }
  return "?";
}

long read_stamps(int fd, const char* path, stamps& into) noexcept {
  struct statx found;
  if (const long error = kernel::stat(fd, path, &found); error != 0) return error;
  into = stamps_of(found);
  return 0;
}

long gather(int fd, facts& into) noexcept {
  struct statx found;
  if (const long error = kernel::stat(fd, nullptr, &found); error != 0) return error;
  into.at_open = stamps_of(found);
  into.owner = found.stx_uid;
  into.links = found.stx_nlink;
  into.verity = (found.stx_attributes & STATX_ATTR_VERITY) != 0;
  switch (found.stx_mode & S_IFMT) {
    case S_IFREG:
      into.kind = file_kind::regular;
      break;
    case S_IFDIR:
      into.kind = file_kind::directory;
      return 0;
    case S_IFBLK:
      into.kind = file_kind::block;
      return 0;
    default:
      into.kind = file_kind::stream;
      return 0;
  }
  if (const long error = find_system(fd, found, into.system); error != 0) return error;
  switch (into.system) {
    case file_system::kernel_made:
      into.kind = file_kind::generated;
      break;
    case file_system::unknown:
    case file_system::fuse:
    case file_system::ninep:
      // Size 0 may mean "nobody knows": read it to its end.
      if (into.at_open.size == 0) into.kind = file_kind::generated;
      break;
    case file_system::tmpfs:
    case file_system::hugetlbfs: {
      if (into.links != 0) break;  // only a memfd takes seals, which has no name
      const long seals = kernel::seals(fd);
      constexpr long enough = F_SEAL_WRITE | F_SEAL_SHRINK;  // F_SEAL_FUTURE_WRITE lets older mappings write
      into.sealed_memory = seals > 0 && (seals & enough) == enough;
      break;
    }
    case file_system::squashfs:
    case file_system::erofs:
    case file_system::iso9660: {
      into.read_only_kind = true;
      const loop_facts loop = loop_of(found.stx_dev_major, found.stx_dev_minor);
      into.loop_over_file = loop.over_file;
      into.loop_root_only = loop.root_only;
      break;
    }
    default:
      break;
  }
  into.at_rest = kernel::wall_now_ns() - into.at_open.change_ns > fault_max_ns;
  return 0;
}

void gather_folios(int fd, std::uint64_t offset, std::uint64_t length, facts& into) noexcept {
  const stamps& file = into.at_open;
  std::uint64_t hash = 0;
  for (const std::uint64_t each : {file.device, file.inode, static_cast<std::uint64_t>(file.change_ns), offset, length,
                                   static_cast<std::uint64_t>(kernel::coarse_now_ns() >> 30)}) {
    hash = (hash ^ each) * 0x9e3779b97f4a7c15u;
    hash ^= hash >> 29;
  }
  std::atomic<std::uint64_t>& slot = folios_seen[hash >> 58];
  const std::uint64_t seen = slot.load(std::memory_order_relaxed);  // one word: nothing else hangs on it
  if (seen != 0 && (seen | 1) == (hash | 1)) {
    into.small_folios = (seen & 1) != 0;
    return;
  }
  into.small_folios = is_mapped_in_pieces(fd, offset, length);
  slot.store((hash & ~std::uint64_t{1}) | std::uint64_t{into.small_folios}, std::memory_order_relaxed);
}

void gather_for_leases(int fd, facts& into) noexcept {
  if (into.kind != file_kind::regular || !leases_hold(into.system) || into.sealed_memory) return;
  into.under_overlay = below_overlay_upper(fd, into.at_open.device, into.links);
}

}  // namespace stillmap
