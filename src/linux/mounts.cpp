// SPDX-License-Identifier: Apache-2.0
#include "linux/mounts.hpp"

#include <sys/sysmacros.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <mutex>
#include <new>
#include <string>
#include <string_view>
#include <vector>

#include "linux/descriptor.hpp"

namespace stillmap {
namespace {

struct mount {
  std::string root;   // what of the file system is mounted
  std::string point;  // where
};

struct upper {
  std::uint64_t device;
  std::string path;  // within its file system
};

// mountinfo writes space, tab, newline and backslash as \ooo; overlay options escape once more with a
// backslash.
std::string unescape(std::string_view text) {
  std::string plain;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '\\') {
      plain += text[i];
    } else if (i + 3 < text.size() && text[i + 1] >= '0' && text[i + 1] <= '3') {
      plain += static_cast<char>((text[i + 1] - '0') * 64 + (text[i + 2] - '0') * 8 + (text[i + 3] - '0'));
      i += 3;
    } else if (i + 1 < text.size()) {
      plain += text[++i];
    }
  }
  return plain;
}

std::string read_whole(const char* path) {
  std::string text;
  const descriptor file(static_cast<int>(kernel::open_read_only(path, 0)));
  if (!file) return text;
  std::size_t used = 0;
  for (;;) {
    text.resize(used + 16384);
    const long got = kernel::read(file.get(), text.data() + used, 16384);
    if (got <= 0) break;
    used += static_cast<std::size_t>(got);
  }
  text.resize(used);
  return text;
}

std::string_view take_field(std::string_view& line) {
  const std::size_t end = line.find(' ');
  const std::string_view field = line.substr(0, end);
  line.remove_prefix(end == std::string_view::npos ? line.size() : end + 1);
  return field;
}

bool lies_below(std::string_view path, std::string_view folder) {
  if (folder == "/") return true;
  return path.starts_with(folder) && (path.size() == folder.size() || path[folder.size()] == '/');
}

struct table {
  std::vector<mount> mounts;
  std::vector<upper> uppers;
  bool unknown_upper = false;  // there may be one anywhere

  // The path within its file system; the mount made last wins where several cover the path.
  std::string within(std::string_view path) const {
    const mount* best = nullptr;
    for (const mount& candidate : mounts) {
      if (lies_below(path, candidate.point) &&
          (best == nullptr || candidate.point.size() >= best->point.size()))
        best = &candidate;
    }
    if (best == nullptr) return std::string(path);
    std::string_view rest = path;
    if (best->point != "/") rest.remove_prefix(best->point.size());
    return (best->root == "/" ? std::string() : best->root) + std::string(rest);
  }

  void read() {
    mounts.clear();
    uppers.clear();
    unknown_upper = false;
    std::vector<std::string> upper_paths;
    const std::string text = read_whole("/proc/self/mountinfo");
    if (text.empty()) unknown_upper = true;  // no /proc, or no descriptor to read it with
    for (std::string_view rest = text; !rest.empty();) {
      const std::size_t end = rest.find('\n');
      std::string_view line = rest.substr(0, end);
      rest.remove_prefix(end == std::string_view::npos ? rest.size() : end + 1);
      // id parent major:minor root point options [optional...] - type source super-options
      // (proc_pid_mountinfo(5))
      for (int skipped = 0; skipped < 3; ++skipped) take_field(line);
      const std::string_view root = take_field(line), point = take_field(line);
      mounts.push_back({unescape(root), unescape(point)});
      const std::size_t dash = line.find(" - ");
      if (dash == std::string_view::npos) continue;
      line.remove_prefix(dash + 3);
      if (take_field(line) != "overlay") continue;
      take_field(line);
      for (std::string_view options = line; !options.empty();) {
        std::size_t comma = 0;
        while (comma < options.size() && options[comma] != ',') comma += options[comma] == '\\' ? 2 : 1;
        const std::string_view option = options.substr(0, comma);
        options.remove_prefix(std::min(options.size(), comma + 1));
        if (option.starts_with("upperdir=")) upper_paths.push_back(unescape(option.substr(9)));
      }
    }
    for (const std::string& path : upper_paths) {
      struct statx found;
      // mountinfo shows what mount(2) was given: a relative path was relative to its caller's folder.
      if (path.empty() || path[0] != '/') unknown_upper = true;
      // One that does not resolve belongs to another root: that overlay's files are not ours to see.
      if (kernel::stat(-1, path.c_str(), &found) == 0)
        uppers.push_back({makedev(found.stx_dev_major, found.stx_dev_minor), within(path)});
    }
  }
};

struct cache {
  std::mutex mutex;
  table mounts;
  std::int64_t read_again_ns = 0;
};

cache& shared_cache() noexcept {  // never destroyed: threads may still ask at exit
  alignas(cache) static std::byte place[sizeof(cache)];
  static cache* const instance = new (place) cache;
  return *instance;
}

}  // namespace

bool below_overlay_upper(int fd, std::uint64_t device, std::uint32_t links) noexcept try {
  cache& shared = shared_cache();
  const std::lock_guard lock(shared.mutex);
  const std::int64_t now = kernel::now_ns();
  if (now >= shared.read_again_ns) {
    shared.mounts.read();
    const std::int64_t took = kernel::now_ns() - now;
    shared.read_again_ns = now + took + std::max<std::int64_t>(1'000'000, 100 * took);
  }
  if (shared.mounts.unknown_upper) return true;
  const bool upper_on_device = [&] {
    for (const upper& one : shared.mounts.uppers)
      if (one.device == device) return true;
    return false;
  }();
  if (!upper_on_device) return false;
  if (links != 1) return true;  // another of its names may lie there
  char link[32];
  std::snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  char target[4096];
  const long length = kernel::link_target(link, target, sizeof target);
  if (length <= 0 || length == static_cast<long>(sizeof target)) return true;
  const std::string inside = shared.mounts.within({target, static_cast<std::size_t>(length)});
  for (const upper& one : shared.mounts.uppers)
    if (one.device == device && lies_below(inside, one.path)) return true;
  return false;
} catch (const std::bad_alloc&) {
  return true;  // unknown: then no lease
}

void lock_mounts_for_fork() noexcept {
  shared_cache().mutex.lock();
}
void unlock_mounts_after_fork() noexcept {
  shared_cache().mutex.unlock();
}

loop_facts loop_of(std::uint32_t device_major, std::uint32_t device_minor) noexcept try {
  loop_facts result;
  // No block device below: erofs mounts a file without a loop device (Linux 6.12).
  if (device_major == 0) return {.over_file = true, .root_only = false};
  char device[48];
  std::snprintf(device, sizeof device, "/sys/dev/block/%u:%u", device_major, device_minor);
  for (const char* const place : {"/loop/backing_file", "/../loop/backing_file"}) {
    std::string backing = read_whole((std::string(device) + place).c_str());
    if (backing.empty()) continue;
    result.over_file = true;
    while (!backing.empty() && backing.back() == '\n') backing.pop_back();
    struct statx found;
    result.root_only = kernel::stat(-1, backing.c_str(), &found) == 0 && found.stx_uid == 0 &&
                       (found.stx_mode & (S_IWGRP | S_IWOTH)) == 0;
    return result;
  }
  // Device mapper and the like: over a file if one of the devices below may be.
  std::error_code ec;
  for (const auto& below : std::filesystem::directory_iterator(std::string(device) + "/slaves", ec)) {
    const std::filesystem::path& path = below.path();
    if (std::filesystem::exists(path / "loop", ec) || std::filesystem::exists(path / "../loop", ec) ||
        !std::filesystem::is_empty(path / "slaves", ec) || ec)
      return {.over_file = true, .root_only = false};
  }
  return result;
} catch (const std::exception&) {
  return {.over_file = true, .root_only = false};
}

}  // namespace stillmap
