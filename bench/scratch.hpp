// SPDX-License-Identifier: Apache-2.0
//
// Files that benchmarks make and remove, and the one thing they all do with bytes: add them up.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace stillmap::bench {

constexpr std::size_t page_bytes = 4096;

// $STILLMAP_BENCH_DIR, or the current folder.
inline std::string folder() {
  const char* const given = std::getenv("STILLMAP_BENCH_DIR");
  return given != nullptr ? given : ".";
}

inline bool is_set(const char* variable) {
  return std::getenv(variable) != nullptr;
}

// How the page cache holds a file hangs on how it was written: one go makes large folios where the file
// system has them, a write(2) for each page makes small ones.
enum class written { whole, pieces };

[[noreturn]] inline void fail(const std::string& path, const char* what) {
  std::perror((path + ": " + what).c_str());
  std::exit(1);
}

class scratch_file {
 public:
  explicit scratch_file(std::uint64_t bytes, written how = written::whole)
      : path_(folder() + "/stillmap-bench-" + std::to_string(bytes) + (how == written::pieces ? "p" : "")),
        bytes_(bytes) {
    const int fd = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0) fail(path_, "open");
    std::vector<char> block(how == written::whole ? std::size_t{1} << 20 : page_bytes);
    for (std::size_t i = 0; i < block.size(); ++i) block[i] = static_cast<char>(i * 7 % 251);
    for (std::uint64_t done = 0; done < bytes;) {
      const ssize_t wrote = ::write(fd, block.data(), std::min<std::uint64_t>(block.size(), bytes - done));
      if (wrote <= 0) fail(path_, "write");
      done += static_cast<std::uint64_t>(wrote);
    }
    if (::fsync(fd) != 0) fail(path_, "fsync");
    ::close(fd);
  }
  scratch_file(const scratch_file&) = delete;
  scratch_file& operator=(const scratch_file&) = delete;
  ~scratch_file() { ::unlink(path_.c_str()); }

  const char* path() const { return path_.c_str(); }
  std::uint64_t bytes() const { return bytes_; }

 private:
  std::string path_;
  std::uint64_t bytes_;
};

// One file a size and way of writing for the whole run.
inline const scratch_file& file_of(std::int64_t bytes, written how = written::whole) {
  static std::map<std::pair<std::int64_t, written>, std::unique_ptr<scratch_file>> files;
  auto& file = files[{bytes, how}];
  if (!file) file = std::make_unique<scratch_file>(static_cast<std::uint64_t>(bytes), how);
  return *file;
}

// The library reads a file twice whose change time is younger than 10 s, for a store through a mapping may
// still be on its way. That is not the common case: files rest before they are measured.
inline void rest() {
  std::this_thread::sleep_for(std::chrono::seconds(11));
}

// Every byte, eight at a time: cheap enough that the way of getting at them shows.
inline std::uint64_t sum(const void* data, std::size_t bytes) {
  const auto* at = static_cast<const unsigned char*>(data);
  std::uint64_t total = 0, word;
  for (; bytes >= sizeof word; at += sizeof word, bytes -= sizeof word) {
    std::memcpy(&word, at, sizeof word);
    total += word;
  }
  for (; bytes > 0; ++at, --bytes) total += *at;
  return total;
}

// So that it is computed.
[[gnu::noinline]] inline void keep(std::uint64_t value) {
  asm volatile("" : : "r"(value));
}

}  // namespace stillmap::bench
