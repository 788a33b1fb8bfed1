// SPDX-License-Identifier: Apache-2.0
//
// Read straight from /proc, with few allocations and one descriptor of its own, which is not counted.
#include "leaks.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>

namespace adversary {
namespace {

template <class Each>
void for_each_entry(const char* folder, Each each) {
  DIR* list = opendir(folder);
  if (!list) return;
  const int own = dirfd(list);
  while (const dirent* entry = readdir(list)) {
    if (entry->d_name[0] == '.') continue;
    each(std::atoi(entry->d_name), own);
  }
  closedir(list);
}

}  // namespace

footprint take_footprint() {
  footprint result;
  for_each_entry("/proc/self/fd", [&](int fd, int own) {
    if (fd == own) return;
    ++result.descriptors;
    const int flags = fcntl(fd, F_GETFD);
    if (fd > 2 && flags >= 0 && !(flags & FD_CLOEXEC)) ++result.inheritable;
  });
  for_each_entry("/proc/self/task", [&](int, int) { ++result.threads; });
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) ++result.mappings;
  return result;
}

std::size_t leases_held() {
  std::ifstream locks("/proc/locks");
  std::size_t count = 0;
  for (std::string line; std::getline(locks, line);) {
    std::istringstream words(line);
    std::string number, kind, state, type;
    int pid = 0;
    words >> number >> kind >> state >> type >> pid;
    if (kind == "LEASE" && pid == getpid()) ++count;
  }
  return count;
}

std::string describe_descriptors() {
  std::ostringstream out;
  for_each_entry("/proc/self/fd", [&](int fd, int own) {
    if (fd == own) return;
    char name[64], where[512] = {};
    std::snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    if (readlink(name, where, sizeof where - 1) > 0) out << "  " << fd << " -> " << where << "\n";
  });
  return out.str();
}

bool settles(bool (*ready)(const void*), const void* argument, int deadline_ms) {
  for (int waited = 0;; ++waited) {
    if (ready(argument)) return true;
    if (waited >= deadline_ms) return false;
    poll(nullptr, 0, 1);
  }
}

}  // namespace adversary
