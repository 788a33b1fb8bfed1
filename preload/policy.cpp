// SPDX-License-Identifier: Apache-2.0
#include "policy.hpp"

#include <fcntl.h>
#include <fnmatch.h>
#include <linux/magic.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "linux/kernel.hpp"

namespace still::preload {
namespace {

namespace kernel = stillmap::kernel;

constexpr int type_mask = 0x0f;  // MAP_TYPE

// A pattern with a slash is for the whole path, another for its last part.
bool matches(const char* pattern, const char* path) noexcept {
  const char* const slash = std::strrchr(path, '/');
  const char* const name = std::strchr(pattern, '/') == nullptr && slash != nullptr ? slash + 1 : path;
  return ::fnmatch(pattern, name, 0) == 0;
}

bool matches_any(const char* lines, const char* path) noexcept {
  char pattern[4096];
  while (*lines != '\0') {
    const std::size_t length = std::strcspn(lines, "\n");
    if (length > 0 && length < sizeof pattern) {
      std::memcpy(pattern, lines, length);
      pattern[length] = '\0';
      if (matches(pattern, path)) return true;
    }
    lines += length + (lines[length] == '\n' ? 1 : 0);
  }
  return false;
}

bool name_of(int fd, char (&path)[4096]) noexcept {
  char link[40];
  std::snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  const long length = kernel::link_target(link, path, sizeof path - 1);
  if (length <= 0) return false;
  path[length] = '\0';
  return true;
}

// Formats whose readers map the file shared, and look for what others write.
bool is_watched(int fd) noexcept {
  unsigned char head[24];
  std::size_t got = 0;
  if (kernel::pread(fd, head, sizeof head, 0, got) != 0 || got < sizeof head) return false;
  static constexpr unsigned char lmdb[] = {0xde, 0xc0, 0xef, 0xbe};  // of its first page, behind the header
  return std::memcmp(head, "SQLite format 3", 16) == 0 || std::memcmp(head + 16, lmdb, sizeof lmdb) == 0 ||
         std::memcmp(head, "GVariant", 8) == 0 || std::memcmp(head, "LPKSHHRH", 8) == 0;
}

// By the mount that it was opened through; where /dev/shm is a folder like any other, by name.
bool is_in_shared_memory(const struct statx& file, int fd) noexcept {
  constexpr const char* name = "/dev/shm/";
  static const struct statx folder = [] {
    struct statx found {};
    kernel::stat(AT_FDCWD, name, &found);
    return found;
  }();
  if ((folder.stx_attributes & STATX_ATTR_MOUNT_ROOT) != 0) return folder.stx_mnt_id == file.stx_mnt_id;
  char path[4096];
  return name_of(fd, path) && std::strncmp(path, name, std::strlen(name)) == 0;
}

// "Regular" files of /proc and /sys: what is mapped there are devices.
bool is_made_by_kernel(const struct statx& file, int fd) noexcept {
  struct statfs found;
  if (file.stx_dev_major != 0 || kernel::filesystem(fd, &found) != 0) return false;
  return found.f_type == PROC_SUPER_MAGIC || found.f_type == SYSFS_MAGIC || found.f_type == DEBUGFS_MAGIC;
}

// An empty list is none.
const char* list_named(const char* variable) noexcept {
  const char* const lines = std::getenv(variable);
  return lines != nullptr && *lines != '\0' ? lines : nullptr;
}

report* map_report() noexcept {
  const char* const path = std::getenv(report_variable);
  if (path == nullptr || *path == '\0') return nullptr;
  const long fd = kernel::open_read_write(path);
  if (kernel::failed(fd)) return nullptr;
  const long place = kernel::map(nullptr, sizeof(report), PROT_READ | PROT_WRITE, MAP_SHARED, static_cast<int>(fd), 0);
  kernel::close(static_cast<int>(fd));
  return kernel::failed(place) ? nullptr : reinterpret_cast<report*>(place);
}

scope scope_named(const char* name) noexcept {
  if (name == nullptr) return scope::readonly;
  if (std::strcmp(name, "snapshot") == 0) return scope::snapshot;
  if (std::strcmp(name, "private") == 0) return scope::private_;
  return std::strcmp(name, "all") == 0 ? scope::all : scope::readonly;
}

still_consistency level_named(const char* name) noexcept {
  if (name != nullptr && std::strcmp(name, "verified") == 0) return STILL_VERIFIED;
  if (name != nullptr && std::strcmp(name, "point_in_time") == 0) return STILL_POINT_IN_TIME;
  return STILL_TORN;
}

settings read_settings() noexcept {
  settings result;
  // A program with more rights than its user: the loader leaves us out, and so do we.
  if (::getauxval(AT_SECURE) != 0) {
    result.mappings = scope::snapshot;
    return result;
  }
  result.mappings = scope_named(std::getenv(mappings_variable));
  result.require = level_named(std::getenv(require_variable));
  result.only = list_named(only_variable);
  result.except = list_named(except_variable);
  result.counts = map_report();
  return result;
}

bool is_excluded(const settings& how, const char* path) noexcept {
  return (how.only != nullptr && !matches_any(how.only, path)) ||
         (how.except != nullptr && matches_any(how.except, path));
}

}  // namespace

const settings& settings::instance() noexcept {
  static const settings one = read_settings();
  return one;
}

bool is_to_hold(const settings& how, const asked& what, struct statx& found, left_alone& why) noexcept {
  const int type = what.flags & type_mask;
  if (type == MAP_SNAPSHOT) return true;
  const auto leave = [&](left_alone reason) {
    why = reason;
    return false;
  };
  if (how.mappings == scope::snapshot || (type != MAP_PRIVATE && how.mappings == scope::private_))
    return leave(left_alone::not_asked);
  if ((what.protection & PROT_EXEC) != 0) return leave(left_alone::executable);
  if (kernel::stat(what.fd, nullptr, &found) != 0 || !S_ISREG(found.stx_mode))
    return leave(left_alone::no_regular_file);
  if (is_made_by_kernel(found, what.fd)) return leave(left_alone::no_regular_file);
  const bool all = how.mappings == scope::all;
  if (type != MAP_PRIVATE) {
    if ((what.protection & PROT_WRITE) != 0) return leave(left_alone::writable_shared);
    const long status = kernel::status_flags(what.fd);
    if (!all && (status < 0 || (status & O_ACCMODE) != O_RDONLY)) return leave(left_alone::open_for_writing);
  }
  if (!all && found.stx_nlink == 0) return leave(left_alone::no_name);
  if (!all && type != MAP_PRIVATE && is_in_shared_memory(found, what.fd)) return leave(left_alone::shared_memory);
  if (how.only != nullptr || how.except != nullptr) {
    char path[4096];
    if (name_of(what.fd, path) && is_excluded(how, path)) return leave(left_alone::excluded);
  }
  if (!all && type != MAP_PRIVATE && is_watched(what.fd)) return leave(left_alone::known_watcher);
  return true;
}

}  // namespace still::preload
