// SPDX-License-Identifier: Apache-2.0
//
// Files that benchmarks make and remove, and the one thing they all do with bytes: add them up.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace stillmap::bench {

// $STILLMAP_BENCH_DIR, or the current folder.
inline std::string folder() {
  const char* const given = std::getenv("STILLMAP_BENCH_DIR");
  return given != nullptr ? given : ".";
}

class scratch_file {
 public:
  explicit scratch_file(std::uint64_t bytes)
      : path_(folder() + "/stillmap-bench-" + std::to_string(bytes)), bytes_(bytes) {
    const int fd = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0) fail("open");
    std::vector<char> block(std::size_t{1} << 20);
    for (std::size_t i = 0; i < block.size(); ++i) block[i] = static_cast<char>(i * 7 % 251);
    for (std::uint64_t done = 0; done < bytes;) {
      const ssize_t wrote = ::write(fd, block.data(), std::min<std::uint64_t>(block.size(), bytes - done));
      if (wrote <= 0) fail("write");
      done += static_cast<std::uint64_t>(wrote);
    }
    if (::fsync(fd) != 0) fail("fsync");
    ::close(fd);
  }
  scratch_file(const scratch_file&) = delete;
  scratch_file& operator=(const scratch_file&) = delete;
  ~scratch_file() { ::unlink(path_.c_str()); }

  const char* path() const { return path_.c_str(); }
  std::uint64_t bytes() const { return bytes_; }

 private:
  [[noreturn]] void fail(const char* what) const {
    std::perror((path_ + ": " + what).c_str());
    std::exit(1);
  }
  std::string path_;
  std::uint64_t bytes_;
};

// One file a size for the whole run.
inline const scratch_file& file_of(std::int64_t bytes) {
  static std::map<std::int64_t, std::unique_ptr<scratch_file>> files;
  auto& file = files[bytes];
  if (!file) file = std::make_unique<scratch_file>(static_cast<std::uint64_t>(bytes));
  return *file;
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

}  // namespace stillmap::bench
