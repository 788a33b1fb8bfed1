// SPDX-License-Identifier: Apache-2.0
//
// Every way of getting at a file's bytes that is measured: what a user would take instead, then each of
// stillmap's. One call opens the file, lets `look` see all of its bytes, and closes it.
#pragma once

#include <sys/mman.h>
#include <sys/stat.h>
#include <boost/iostreams/device/mapped_file.hpp>
#include <stillmap/snapshot.hpp>

#include "scratch.hpp"

namespace stillmap::bench {

using look = std::uint64_t (*)(const void* data, std::size_t bytes);

// This thread's private memory that was faulted in before, as long as the largest file asked for yet.
inline char* recycled(std::size_t bytes) {
  thread_local std::vector<char> memory;
  if (memory.size() < bytes) memory.assign(bytes, 1);
  return memory.data();
}

// Open for reading; the size is asked for, as whoever maps or reads a whole file must.
struct opened {
  int fd;
  std::size_t bytes;

  explicit opened(const char* path) : fd(::open(path, O_RDONLY | O_CLOEXEC)) {
    struct stat found;
    if (fd < 0 || ::fstat(fd, &found) != 0) fail(path, "open");
    bytes = static_cast<std::size_t>(found.st_size);
  }
  opened(const opened&) = delete;
  opened& operator=(const opened&) = delete;
  ~opened() { ::close(fd); }

  std::size_t read_into(char* memory) const {
    std::size_t done = 0;
    while (done < bytes) {
      const ssize_t got = ::read(fd, memory + done, bytes - done);
      if (got <= 0) break;
      done += static_cast<std::size_t>(got);
    }
    return done;
  }
};

inline bool mapped(const char* path, look at, int flags) {
  void* data;
  std::size_t bytes;
  {
    const opened file(path);
    bytes = file.bytes;
    data = ::mmap(nullptr, bytes, PROT_READ, MAP_SHARED | flags, file.fd, 0);
  }
  if (data == MAP_FAILED) return false;
  keep(at(data, bytes));
  ::munmap(data, bytes);
  return true;
}

inline bool raw_mmap(const char* path, look at, const options&) {
  return mapped(path, at, 0);
}
inline bool raw_populate(const char* path, look at, const options&) {
  return mapped(path, at, MAP_POPULATE);
}
inline bool read_recycled(const char* path, look at, const options&) {
  const opened file(path);
  char* const memory = recycled(file.bytes);
  keep(at(memory, file.read_into(memory)));
  return true;
}
// Mapped anew, for malloc would recycle.
inline bool read_fresh(const char* path, look at, const options&) {
  const opened file(path);
  void* const memory =
      ::mmap(nullptr, file.bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return false;
  keep(at(memory, file.read_into(static_cast<char*>(memory))));
  ::munmap(memory, file.bytes);
  return true;
}
inline bool boost_mapped(const char* path, look at, const options&) {
  const boost::iostreams::mapped_file_source file(path);
  keep(at(file.data(), file.size()));
  return true;
}
inline bool still(const char* path, look at, const options& how) {
  std::error_code ec;
  const snapshot one = snapshot::open(path, how, ec);
  if (ec) return false;
  keep(at(one.data(), one.size()));
  return true;
}

struct way {
  const char* name;
  bool (*once)(const char* path, look at, const options& how);
  options how = {};
  std::int64_t least_bytes = 0;  // not for smaller files
  bool dear = false;             // fills or writes as much memory or disk as the file has: fewer repetitions
};

inline const std::vector<way>& ways() {
  static const std::vector<way> all = {
      {"raw_mmap", raw_mmap},
      {"mmap_populate", raw_populate},
      {"read_recycled", read_recycled},
      {"read_fresh", read_fresh, {}, 0, true},
      {"boost", boost_mapped},
      {"still_auto", still},
      {"still_torn", still, {.require = consistency::torn}},
      {"still_leased", still, {.backing = backing::leased}},
      {"still_copied", still, {.backing = backing::copied}, 0, true},
      {"still_cloned", still, {.backing = backing::cloned}, 0, true},
      {"still_spilled", still, {.backing = backing::spilled}, 0, true},
      {"still_paged", still, {.backing = backing::paged, .require = consistency::torn}, 4 << 20, true},
  };
  return all;
}

// The page cache, and the recycled memory, are given back to the host while they are idle: all is touched
// again before it is timed.
inline void warm(const char* path) {
  const opened file(path);
  keep(file.read_into(recycled(file.bytes)));
}

}  // namespace stillmap::bench
