// SPDX-License-Identifier: Apache-2.0
//
// The only file of the harness proper that calls the library.
#include "holders.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace adversary {
namespace {

still_options options_for(way how, const request& what) {
  still_options options = {};
  options.size = sizeof options;
  options.backing = how == way::leased    ? STILL_LEASED
                    : how == way::copied  ? STILL_COPIED
                    : how == way::sealed  ? STILL_SEALED
                    : how == way::cloned  ? STILL_CLONED
                    : how == way::spilled ? STILL_SPILLED
                    : how == way::paged   ? STILL_PAGED
                                          : STILL_AUTO;
  options.require = what.require;
  options.offset = what.offset;
  options.length = what.length;
  options.padding = what.padding;
  options.flags = what.flags;
  options.fork = what.fork;
  return options;
}

bool hold_plain(way how, const std::string& path, holding* out, refusal* why) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  struct stat facts;
  if (fd < 0 || fstat(fd, &facts) != 0) {
    *why = {errno, "plain open"};
    return false;
  }
  const auto size = static_cast<std::size_t>(facts.st_size);
  const int flags = how == way::plain_shared    ? MAP_SHARED
                    : how == way::plain_private ? MAP_PRIVATE
                                                : MAP_PRIVATE | MAP_ANONYMOUS;
  const int protection = how == way::flipped ? PROT_READ | PROT_WRITE : PROT_READ;
  void* map = mmap(nullptr, size, protection, flags, how == way::flipped ? -1 : fd, 0);
  if (map == MAP_FAILED) {
    *why = {errno, "plain mmap"};
    close(fd);
    return false;
  }
  const bool filled = how != way::flipped || pread(fd, map, size, 0) == static_cast<ssize_t>(size);
  close(fd);
  out->data = static_cast<const std::byte*>(map);
  out->size = size;
  out->map = map;
  out->map_bytes = size;
  if (!filled) *why = {EIO, "plain read"};
  return filled;
}

}  // namespace

const char* name_of(way how) {
  static constexpr const char* names[] = {"auto",    "leased", "copied",       "sealed",        "cloned",
                                          "spilled", "paged",  "plain_shared", "plain_private", "flipped"};
  return names[static_cast<int>(how)];
}

request fit(way how, const request& what) {
  request result = what;
  if (how == way::paged) result.require = STILL_TORN;
  return result;
}

std::vector<request> variants(std::uint64_t size) {
  std::vector<request> all;
  const auto add = [&](const char* name, auto change) {
    request one;
    one.name = name;
    change(one);
    all.push_back(one);
  };
  add("whole", [](request&) {});
  add("padding 64", [](request& r) { r.padding = 64; });
  if (size > 1) add("offset 1", [](request& r) { r.offset = 1; });
  add("by descriptor", [](request& r) { r.by_descriptor = true; });
  if (size > 4096)
    add("offset 4095, length, padding 64", [&](request& r) {
      r.offset = 4095;
      r.length = std::max<std::uint64_t>(1, (size - 4095) * 2 / 3);
      r.padding = 64;
    });
  add("strict", [](request& r) { r.flags = STILL_STRICT; });
  add("second owner", [](request& r) { r.second_owner = true; });
  if (size > 8192)
    add("offset 4096, length", [&](request& r) {
      r.offset = 4096;
      r.length = (size - 4096) / 2;
    });
  add("second snapshot", [](request& r) { r.second_snapshot = true; });
  add("populate, padding 1", [](request& r) {
    r.flags = STILL_POPULATE;
    r.padding = 1;
  });
  if (size > 8) add("length to the middle", [&](request& r) { r.length = size / 2 + 3; });
  add("synced", [](request& r) { r.flags = STILL_SYNCED; });
  add("carried over fork", [](request& r) { r.fork = STILL_FORK_CARRY; });
  add("point in time", [](request& r) { r.require = STILL_POINT_IN_TIME; });
  return all;
}

bool hold(way how, const std::string& path, const request& what, holding* out, refusal* why) {
  *out = {};
  if (how == way::plain_shared || how == way::plain_private || how == way::flipped)
    return hold_plain(how, path, out, why);
  const still_options options = options_for(how, what);
  still_snapshot* snapshot = nullptr;
  int error;
  if (what.by_descriptor) {
    const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
      *why = {errno, "cannot open " + path};
      return false;
    }
    error = still_open_fd(fd, &options, &snapshot);
    if (error) *why = {error, still_message()};
    close(fd);
  } else {
    error = still_open(path.c_str(), &options, &snapshot);
    if (error) *why = {error, still_message()};
  }
  if (error) return false;
  if (what.second_owner) {
    still_snapshot* other = still_share(snapshot);
    still_close(snapshot);
    snapshot = other;
  }
  out->snapshot = snapshot;
  out->data = static_cast<const std::byte*>(still_data(snapshot));
  out->size = still_size(snapshot);
  out->offset = what.offset;
  return true;
}

void holding::let_go() {
  still_close(snapshot);
  if (map) munmap(map, map_bytes);
  *this = {};
}

}  // namespace adversary
