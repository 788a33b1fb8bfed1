// SPDX-License-Identifier: Apache-2.0
#include "linux/writers.hpp"

#include <ctype.h>
#include <dirent.h>
#include <sys/sysmacros.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "linux/kernel.hpp"

namespace stillmap {
namespace {

constexpr std::int64_t time_max_ns = 50'000'000;  // an error message is not worth more
constexpr int named_max = 3;

struct folder_closer {
  void operator()(DIR* folder) const noexcept { ::closedir(folder); }
};
using folder = std::unique_ptr<DIR, folder_closer>;
struct file_closer {
  void operator()(std::FILE* file) const noexcept { std::fclose(file); }
};
using file = std::unique_ptr<std::FILE, file_closer>;

bool is_number(const char* name) noexcept {
  return isdigit(static_cast<unsigned char>(name[0])) != 0;
}

std::string program_name(const std::string& process_folder) {
  char name[64] = "";
  if (const file comm{std::fopen((process_folder + "/comm").c_str(), "re")}) {
    if (std::fgets(name, sizeof name, comm.get()) == nullptr) name[0] = '\0';
  }
  std::string result = name;
  while (!result.empty() && result.back() == '\n') result.pop_back();
  return result.empty() ? "process" : result;
}

// A line of /proc/PID/fdinfo/N (proc_pid_fdinfo(5)).
using line_test = bool (*)(const char* line);

bool opened_for_writing(const char* line) {
  unsigned flags = 0;
  return std::sscanf(line, "flags: %o", &flags) == 1 && (flags & O_ACCMODE) != O_RDONLY;
}

// "lock:" lines are as in /proc/locks, but under the descriptor that bears the lock: for one of an open file
// description /proc/locks names no process.
bool locked_exclusively(const char* line) {
  char kind[16], grip[16], type[16];
  return std::sscanf(line, "lock: %*s %15s %15s %15s", kind, grip, type) == 3 &&
         std::strcmp(kind, "LEASE") != 0 && std::strcmp(type, "WRITE") == 0;
}

bool descriptor_shows(const std::string& process_folder, const char* number, line_test wanted) {
  const file info{std::fopen((process_folder + "/fdinfo/" + number).c_str(), "re")};
  if (!info) return false;
  char line[128];
  while (std::fgets(line, sizeof line, info.get()) != nullptr) {
    if (wanted(line)) return true;
  }
  return false;
}

bool has_descriptor(const std::string& process_folder, std::uint64_t device, std::uint64_t inode,
                    line_test wanted) {
  const folder descriptors{::opendir((process_folder + "/fd").c_str())};
  if (!descriptors) return false;
  while (const dirent* entry = ::readdir(descriptors.get())) {
    if (!is_number(entry->d_name)) continue;
    struct statx found;
    if (kernel::stat(-1, (process_folder + "/fd/" + entry->d_name).c_str(), &found) != 0) continue;
    if (found.stx_ino == inode && makedev(found.stx_dev_major, found.stx_dev_minor) == device &&
        descriptor_shows(process_folder, entry->d_name, wanted))
      return true;
  }
  return false;
}

// A shared mapping counts as a writer to the kernel where its descriptor was open for writing, readable or
// not; /proc shows that only for those that are writable now.
bool has_mapping(const std::string& process_folder, std::uint64_t inode) {
  const file maps{std::fopen((process_folder + "/maps").c_str(), "re")};
  if (!maps) return false;
  char line[512];
  while (std::fgets(line, sizeof line, maps.get()) != nullptr) {
    char rights[8];
    unsigned long long number = 0;
    if (std::sscanf(line, "%*s %7s %*s %*s %llu", rights, &number) == 2 && number == inode &&
        rights[1] == 'w' && rights[3] == 's')
      return true;
  }
  return false;
}

// Those with a descriptor of the file that shows `wanted`, or, where `mappings`, a writable mapping of it.
std::string holders_of(std::uint64_t device, std::uint64_t inode, line_test wanted, bool mappings) {
  std::string names;
  const std::int64_t deadline = kernel::now_ns() + time_max_ns;
  const folder processes{::opendir("/proc")};
  if (!processes) return names;
  int named = 0;
  while (const dirent* entry = ::readdir(processes.get())) {
    if (!is_number(entry->d_name)) continue;
    if (kernel::now_ns() > deadline || named == named_max) break;
    const std::string process_folder = std::string("/proc/") + entry->d_name;
    const bool by_descriptor = has_descriptor(process_folder, device, inode, wanted);
    if (!by_descriptor && !(mappings && has_mapping(process_folder, inode))) continue;
    if (!names.empty()) names += ", ";
    if (!by_descriptor) names += "a mapping of ";
    if (std::atoi(entry->d_name) == kernel::process()) {
      names += "this process";
    } else {
      names += program_name(process_folder) + " (" + entry->d_name + ")";
    }
    ++named;
  }
  return names;
}

}  // namespace

std::string writers_of(std::uint64_t device, std::uint64_t inode) {
  return holders_of(device, inode, opened_for_writing, true);
}

std::string lockers_of(std::uint64_t device, std::uint64_t inode) {
  return holders_of(device, inode, locked_exclusively, false);
}

}  // namespace stillmap
