// SPDX-License-Identifier: Apache-2.0
#include "private_file.hpp"

#include <errno.h>
#include <linux/magic.h>
#include <sys/statfs.h>

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "files_thread.hpp"
#include "linux/kernel.hpp"
#include "memory.hpp"
#include "settings.hpp"
#include "source.hpp"

namespace stillmap::private_file {
namespace {

constexpr std::size_t path_max = 4096;

// The folder above, in place. False at the root.
bool to_parent(char* path) noexcept {
  char* const slash = std::strrchr(path, '/');
  if (slash == nullptr || path[1] == '\0') return false;
  slash[slash == path ? 1 : 0] = '\0';
  return true;
}

// The folder that the file was opened in. False where it has none: a pipe, a memfd.
bool folder_of(int fd, char (&path)[path_max]) noexcept {
  char link[32];
  std::snprintf(link, sizeof link, "/proc/thread-self/fd/%d", fd);
  const long length = kernel::link_target(link, path, path_max - 1);
  if (length <= 0 || path[0] != '/') return false;
  path[length] = '\0';
  return to_parent(path);
}

bool mount_of(const char* path, std::uint64_t& id) noexcept {
  struct statx found;
  if (kernel::stat(-1, path, &found) != 0) return false;
  id = found.stx_mnt_id;
  return true;
}

// The topmost folder of the mount that `path` lies in, in place. False where that is `path`.
bool to_mount_root(char (&path)[path_max]) noexcept {
  std::uint64_t mount = 0, above_mount = 0;
  if (!mount_of(path, mount)) return false;
  char above[path_max];
  bool moved = false;
  std::strcpy(above, path);
  while (to_parent(above) && mount_of(above, above_mount) && above_mount == mount) {
    std::strcpy(path, above);
    moved = true;
  }
  return moved;
}

bool is_memory(int fd) noexcept {
  struct statfs found;
  return kernel::filesystem(fd, &found) == 0 &&
         (found.f_type == TMPFS_MAGIC || found.f_type == RAMFS_MAGIC || found.f_type == HUGETLBFS_MAGIC);
}

enum class purpose { clone, spill };

// Offers use(file) a new file in one folder after another until it returns 0; else the error of the last that
// it was offered, or of the last folder.
template <class Use>
long in_some_folder(int beside, purpose what, Use use) noexcept {
  long error = -ENOENT;
  bool offered = false;
  const auto attempt = [&](const char* folder, bool memory_too) {
    descriptor file(static_cast<int>(kernel::open_temporary(folder)));
    if (!file) {
      // O_TMPFILE is not to be had there, or not for us.
      if (!offered) error = -EACCES;
      return false;
    }
    if (what == purpose::spill && !memory_too && is_memory(file.get())) return false;
    offered = true;
    error = use(file);
    return error == 0;
  };
  const std::string& configured = settings::instance().temporary_folder;
  if (!configured.empty() && attempt(configured.c_str(), true)) return 0;
  char folder[path_max];
  if (folder_of(beside, folder)) {
    if (attempt(folder, false)) return 0;
    if (to_mount_root(folder) && attempt(folder, false)) return 0;
  }
  if (what == purpose::spill && (attempt("/var/tmp", false) || attempt("/tmp", false))) return 0;
  return error;
}

// In a files thread.
long duplicate(const source& from, int thread, descriptor& into) noexcept {
  const long fd = files_thread::descriptor_of(from.fd, thread);
  if (fd < 0) return fd;
  into = descriptor(static_cast<int>(fd));
  stamps now;
  if (const long error = read_stamps(into.get(), nullptr, now); error != 0) return error;
  return now.device == from.device && now.inode == from.inode ? 0 : -ESTALE;
}

}  // namespace

long with_clone(const source& from, long (*use)(int fd, void* context) noexcept, void* context) noexcept {
  long result = -EAGAIN;  // where no thread is to be had
  const int thread = kernel::thread();
  files_thread::run([&]() noexcept {
    descriptor original;
    result = duplicate(from, thread, original);
    if (result != 0) return;
    long used = 0;
    result = in_some_folder(original.get(), purpose::clone, [&](descriptor& twin) noexcept {
      const long error = kernel::clone_file(original.get(), twin.get());
      if (error == 0) used = use(twin.get(), context);
      return error;
    });
    if (result == 0) result = used;
  });
  return result;
}

mapping map_congruent(int fd, int protection, std::uint64_t offset, std::size_t bytes, const std::byte* like,
                      long& error) noexcept {
  mapping reserved(memory::map_congruent(bytes, like), bytes);
  error = -ENOMEM;
  if (!reserved) return {};
  error = kernel::map(reserved.data(), bytes, protection, MAP_SHARED | MAP_FIXED, fd, offset);
  if (kernel::failed(error)) return {};
  error = 0;
  return reserved;
}

mapping map_spill(const source& from, std::size_t bytes, const std::byte* like, long& error) noexcept {
  mapping result;
  const std::size_t whole = memory::page_ceiling(bytes);
  error = -EAGAIN;
  const int thread = kernel::thread();
  files_thread::run([&]() noexcept {
    descriptor original;
    error = duplicate(from, thread, original);
    if (error != 0) return;
    error = in_some_folder(original.get(), purpose::spill, [&](descriptor& file) noexcept {
      if (const long full = kernel::allocate(file.get(), whole); full != 0) return full;
      long failed = 0;
      result = map_congruent(file.get(), PROT_READ | PROT_WRITE, 0, whole, like, failed);
      return failed;
    });
  });
  return result;
}

long settle_spill(void* address, std::size_t bytes) noexcept {
  if (const long error = kernel::sync_mapping(address, bytes); error != 0) return error;
  return kernel::protect(address, bytes, PROT_READ);
}

long growing::grow(std::size_t bytes) noexcept {
  constexpr std::size_t step_min = std::size_t{64} << 20;
  if (bytes <= room()) return 0;
  const std::size_t needed = memory::page_ceiling(bytes);
  std::size_t larger = std::max(needed, room() + std::max(step_min, memory::page_floor(room() / 4)));
  const auto allocate = [&](int fd) noexcept {
    const long error = kernel::allocate(fd, larger);
    if (error == 0 || larger == needed) return error;
    larger = needed;  // no room for a step ahead
    return kernel::allocate(fd, larger);
  };
  long address = 0;
  if (memory_) {
    if (const long error = allocate(file_.get()); error != 0) return error;
    address = kernel::grow(memory_.data(), room(), larger);
    if (kernel::failed(address)) return address;
    memory_.release();
  } else {
    const long error = in_some_folder(beside_, purpose::spill, [&](descriptor& file) noexcept {
      if (const long full = allocate(file.get()); full != 0) return full;
      address = kernel::map(nullptr, larger, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0);
      if (kernel::failed(address)) return address;
      file_ = std::move(file);
      return 0L;
    });
    if (error != 0) return error;
  }
  memory_ = mapping(reinterpret_cast<std::byte*>(address), larger);
  return 0;
}

mapping growing::take(std::size_t bytes) noexcept {
  const std::size_t kept = memory::page_ceiling(std::max<std::size_t>(bytes, 1));
  const std::size_t had = room();
  std::byte* const data = memory_.release();
  if (kept < had) {
    kernel::unmap(data + kept, had - kept);
    kernel::set_size(file_.get(), kept);
  }
  return mapping(data, kept);
}

}  // namespace stillmap::private_file
