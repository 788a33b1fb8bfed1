// SPDX-License-Identifier: Apache-2.0
//
// cloned and spilled: private files that hold the bytes, and what becomes of an open where such a file cannot
// be had.
#include <errno.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <stillmap/stillmap.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>

#include "live_leases.hpp"
#include "memory.hpp"
#include "stand_in.hpp"

namespace {

using stillmap::testing_support::answer;
using stillmap::testing_support::answer_no_more;
using stillmap::testing_support::live_leases;

constexpr std::size_t mib = std::size_t{1} << 20;

bool is_temporary_open(long number, const long (&a)[6]) {
  return number == SYS_openat && (a[2] & O_TMPFILE) == O_TMPFILE;
}

std::size_t open_descriptors() {
  std::size_t count = 0;
  for ([[maybe_unused]] const auto& each : std::filesystem::directory_iterator("/proc/self/fd")) ++count;
  return count;
}

std::size_t names_in(const std::filesystem::path& folder) {
  std::size_t count = 0;
  for ([[maybe_unused]] const auto& each : std::filesystem::directory_iterator(folder)) ++count;
  return count;
}

// A byte that depends on its place, so that none can stand in for another.
char byte_at(std::size_t at) {
  return static_cast<char>((at * 2654435761u) >> 13);
}

class PrivateFile : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const char* const folder = std::getenv((std::string("STILLMAP_TEST_") + GetParam()).c_str());
    if (folder == nullptr) GTEST_SKIP() << "no such file system here";
    path_ = std::string(folder) + "/private-file";
    fill(5 * mib + 123);
    charged_before_ = stillmap::memory::charged();
  }
  void TearDown() override {
    answer_no_more();
    EXPECT_EQ(stillmap::memory::charged(), charged_before_);
    EXPECT_EQ(live_leases(0), 0u);
    ::unlink(path_.c_str());
  }
  void fill(std::size_t bytes) {
    content_.resize(bytes);
    for (std::size_t i = 0; i < bytes; ++i) content_[i] = byte_at(i);
    std::ofstream(path_, std::ios::binary) << content_;
  }
  template <class Change>
  int open(still_snapshot** out, Change change) const {
    still_options options{};
    options.size = sizeof options;
    change(options);
    return still_open(path_.c_str(), &options, out);
  }
  int open(still_snapshot** out, still_backing backing) const {
    return open(out, [&](still_options& o) { o.backing = backing; });
  }
  void expect_bytes(const still_snapshot* one, std::size_t offset, std::size_t length) const {
    ASSERT_EQ(still_size(one), length);
    EXPECT_EQ(std::memcmp(still_data(one), content_.data() + offset, length), 0);
  }
  void expect_clone_or_skip(int error) const {
    if (error == STILL_ERROR_UNSUPPORTED) GTEST_SKIP() << still_message();
    ASSERT_EQ(error, 0) << still_message();
  }
  void overwrite() const {
    const int fd = ::open(path_.c_str(), O_WRONLY | O_CLOEXEC);
    ASSERT_GE(fd, 0);
    const std::string other(content_.size(), '#');
    ASSERT_EQ(::pwrite(fd, other.data(), other.size(), 0), static_cast<ssize_t>(other.size()));
    ASSERT_EQ(::ftruncate(fd, 10), 0);
    ::close(fd);
  }

  std::string path_, content_;
  std::uint64_t charged_before_ = 0;
};
INSTANTIATE_TEST_SUITE_P(On, PrivateFile, testing::Values("EXT4", "TMPFS", "XFS", "BTRFS"),
                         [](const auto& one) { return std::string(one.param); });

// The caller's own file without a name, by a descriptor that may write it. The caller is a writer like any
// other: what it writes later does not show.
TEST_P(PrivateFile, TakesTheCallersOwnFileWithoutAName) {
  const std::string folder = path_.substr(0, path_.rfind('/'));
  const bool in_memory = std::string(GetParam()) == "TMPFS";
  for (const std::size_t bytes : {std::size_t{5000}, content_.size()}) {
    const int fd = ::open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    ASSERT_GE(fd, 0);
    ASSERT_EQ(::pwrite(fd, content_.data(), bytes, 0), static_cast<ssize_t>(bytes));
    still_options options{};
    options.size = sizeof options;
    still_snapshot* one = nullptr;
    if (in_memory) {  // nothing proves what a store through a mapping does there
      EXPECT_NE(still_open_fd(fd, &options, &one), 0);
      options.require = STILL_TORN;
    }
    ASSERT_EQ(still_open_fd(fd, &options, &one), 0) << still_message();
    EXPECT_GE(still_when(one), in_memory ? STILL_TORN : STILL_VERIFIED);
    const std::string other(bytes, '#');
    ASSERT_EQ(::pwrite(fd, other.data(), bytes, 0), static_cast<ssize_t>(bytes));
    ASSERT_EQ(::ftruncate(fd, 1), 0);
    ::close(fd);
    ASSERT_EQ(still_size(one), bytes);
    EXPECT_EQ(std::memcmp(still_data(one), content_.data(), bytes), 0);
    still_close(one);
  }
}

TEST_P(PrivateFile, HoldsTheBytesWhateverBecomesOfTheFile) {
  for (const still_backing backing : {STILL_SPILLED, STILL_CLONED}) {
    fill(5 * mib + 123);
    for (const std::size_t offset : {std::size_t{0}, std::size_t{4096}, std::size_t{70'001}}) {
      still_snapshot* one = nullptr;
      const int error = open(&one, [&](still_options& o) {
        o.backing = backing;
        o.offset = offset;
        o.length = offset == 0 ? 0 : 100'000;
        o.padding = offset == 4096 ? 0 : 64;
      });
      if (backing == STILL_CLONED && error == STILL_ERROR_UNSUPPORTED) break;
      ASSERT_EQ(error, 0) << still_message();
      const std::size_t length = offset == 0 ? content_.size() : 100'000;
      EXPECT_EQ(still_how(one), backing);
      EXPECT_GE(still_when(one), backing == STILL_CLONED ? STILL_POINT_IN_TIME : STILL_VERIFIED);
      EXPECT_EQ(still_current(one), STILL_PRIVATE);
      EXPECT_LE(still_private_bytes(one), 8192u) << "of the page cache, but for the padding";
      expect_bytes(one, offset, length);
      overwrite();
      expect_bytes(one, offset, length);
      if (offset != 4096) {
        const char zeros[64] = {};
        EXPECT_EQ(std::memcmp(static_cast<const char*>(still_data(one)) + length, zeros, 64), 0);
      }
      EXPECT_EQ(still_changed(one), 1);
      still_close(one);
      fill(5 * mib + 123);
    }
  }
}

TEST_P(PrivateFile, LeavesNoDescriptorAndNoName) {
  const std::filesystem::path folder = std::filesystem::path(path_).parent_path();
  still_snapshot* one = nullptr;
  ASSERT_EQ(open(&one, STILL_SPILLED), 0) << still_message();  // the thread is there from now on
  still_close(one);
  const std::size_t descriptors = open_descriptors(), names = names_in(folder);
  for (const still_backing backing : {STILL_SPILLED, STILL_CLONED}) {
    if (open(&one, backing) != 0) continue;
    EXPECT_EQ(open_descriptors(), descriptors);
    EXPECT_EQ(names_in(folder), names);
    still_close(one);
  }
}

TEST_P(PrivateFile, IsThereForAnEmptyFileToo) {
  fill(0);
  for (const still_backing backing : {STILL_SPILLED, STILL_CLONED}) {
    still_snapshot* one = nullptr;
    if (const int error = open(&one, backing); error != 0) {
      EXPECT_EQ(backing, STILL_CLONED) << still_message();
      EXPECT_EQ(error, STILL_ERROR_UNSUPPORTED);
      continue;
    }
    EXPECT_EQ(still_size(one), 0u);
    EXPECT_NE(still_data(one), nullptr);
    still_close(one);
  }
}

TEST_P(PrivateFile, CloneWorksBesideAWriterAndIsPointInTime) {
  const int writer = ::open(path_.c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_GE(writer, 0);
  still_snapshot* one = nullptr;
  const int error = open(&one, [](still_options& o) { o.require = STILL_POINT_IN_TIME; });
  if (error != 0) {
    EXPECT_EQ(error, STILL_ERROR_BUSY_WRITER) << "where blocks cannot be shared";
  } else {
    EXPECT_EQ(still_how(one), STILL_CLONED);
    EXPECT_EQ(still_when(one), STILL_POINT_IN_TIME);
    still_identity_t key{};
    key.size = sizeof key;
    ASSERT_EQ(still_identity(one, &key), 0);
    EXPECT_EQ(key.exact, 0u) << "there was a writer";
    ASSERT_EQ(::pwrite(writer, "######", 6, 0), 6);
    expect_bytes(one, 0, content_.size());
    still_close(one);
  }
  ::close(writer);
}

TEST_P(PrivateFile, BeyondTheBudgetTheBytesAreSpilled) {
  still_snapshot* one = nullptr;
  ASSERT_EQ(open(&one, [](still_options& o) { o.memory_budget = mib; }), 0) << still_message();
  EXPECT_TRUE(still_how(one) == STILL_SPILLED || still_how(one) == STILL_CLONED);
  EXPECT_GE(still_when(one), STILL_VERIFIED);
  expect_bytes(one, 0, content_.size());
  still_close(one);
}

TEST_P(PrivateFile, AFullDiskIsAnErrorOfTheOpen) {
  for (const long full : {ENOSPC, EDQUOT}) {
    answer([full](long number, const long(&)[6], long& result) {
      result = -full;
      return number == SYS_fallocate;
    });
    still_snapshot* one = nullptr;
    EXPECT_EQ(open(&one, STILL_SPILLED), full);
    EXPECT_NE(std::strstr(still_message(), path_.c_str()), nullptr) << still_message();
  }
}

TEST_P(PrivateFile, ADiskThatFailsWhenTheBytesAreWrittenBackIsAnErrorOfTheOpen) {
  answer([](long number, const long(&)[6], long& result) {
    result = -EIO;
    return number == SYS_msync;
  });
  still_snapshot* one = nullptr;
  EXPECT_EQ(open(&one, STILL_SPILLED), EIO);
}

TEST_P(PrivateFile, WithoutAFolderTheNextWayIsTakenOrTheErrorSaysSo) {
  answer([](long number, const long(&a)[6], long& result) {
    result = -EACCES;
    return is_temporary_open(number, a);
  });
  still_snapshot* one = nullptr;
  EXPECT_EQ(open(&one, STILL_SPILLED), EACCES);
  EXPECT_NE(std::strstr(still_message(), "STILLMAP_TMPDIR"), nullptr) << still_message();
  ASSERT_EQ(open(&one,
                 [](still_options& o) {
                   o.require = STILL_POINT_IN_TIME;
                   o.flags = STILL_STRICT;
                 }),
            0)
      << still_message();
  EXPECT_EQ(still_how(one), STILL_COPIED);
  expect_bytes(one, 0, content_.size());
  still_close(one);
}

// Sends content through a pipe or a socket and opens a snapshot of what arrives.
class SpilledStream : public testing::Test {
 protected:
  static constexpr std::size_t budget = 8 * mib;

  void send_all(int fd, std::size_t bytes) {
    std::string block(mib, 0);
    for (std::size_t done = 0; done < bytes;) {
      const std::size_t step = std::min(block.size(), bytes - done);
      for (std::size_t i = 0; i < step; i += 64) block[i] = byte_at(done + i);
      const ssize_t sent = ::write(fd, block.data(), step);
      ASSERT_GT(sent, 0);
      done += static_cast<std::size_t>(sent);
      ASSERT_EQ(sent % 64, 0) << "the pattern goes by 64";
    }
    ::close(fd);
  }
  int open(int fd, std::size_t bytes, still_snapshot** out, const still_options& options, int writer) {
    std::thread sender([&] { send_all(writer, bytes); });
    const int error = still_open_fd(fd, &options, out);
    ::close(fd);  // whoever still writes is told
    sender.join();
    return error;
  }
  static still_options options() {
    still_options result{};
    result.size = sizeof result;
    result.memory_budget = budget;
    return result;
  }
};

TEST_F(SpilledStream, ThatOutgrowsTheBudgetGoesToADisk) {
  for (const bool socket : {false, true}) {
    constexpr std::size_t bytes = 100 * mib;
    int ends[2];
    ASSERT_EQ(socket ? ::socketpair(AF_UNIX, SOCK_STREAM, 0, ends) : ::pipe(ends), 0);
    still_options wanted = options();
    wanted.padding = 64;
    still_snapshot* one = nullptr;
    const std::uint64_t charged = stillmap::memory::charged();
    const int error = open(ends[0], bytes, &one, wanted, ends[1]);
    ASSERT_EQ(error, 0) << still_message();
    EXPECT_EQ(still_how(one), STILL_SPILLED);
    EXPECT_EQ(still_when(one), STILL_VERIFIED);
    EXPECT_EQ(stillmap::memory::charged(), charged) << "what was read before is memory no more";
    ASSERT_EQ(still_size(one), bytes);
    const char* const data = static_cast<const char*>(still_data(one));
    for (std::size_t i = 0; i < bytes; i += 64) ASSERT_EQ(data[i], byte_at(i)) << i;
    for (std::size_t i = 0; i < 64; ++i) EXPECT_EQ(data[bytes + i], 0);
    still_close(one);
  }
}

TEST_F(SpilledStream, WithinTheBudgetStaysInMemory) {
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  still_snapshot* one = nullptr;
  ASSERT_EQ(open(ends[0], mib, &one, options(), ends[1]), 0) << still_message();
  EXPECT_EQ(still_how(one), STILL_COPIED);
  EXPECT_EQ(still_size(one), mib);
  still_close(one);
}

TEST_F(SpilledStream, ARangeIsReadAsFarAsItReaches) {
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  still_options wanted = options();
  wanted.offset = 12 * mib;
  wanted.length = 3 * mib;
  still_snapshot* one = nullptr;
  ASSERT_EQ(open(ends[0], 15 * mib, &one, wanted, ends[1]), 0) << still_message();
  EXPECT_EQ(still_how(one), STILL_SPILLED);
  ASSERT_EQ(still_size(one), 3 * mib);
  const char* const data = static_cast<const char*>(still_data(one));
  for (std::size_t i = 0; i < 3 * mib; i += 64) ASSERT_EQ(data[i], byte_at(12 * mib + i)) << i;
  still_close(one);
}

// The caller's own unlinked file: its descriptor is a writer, and stays the caller's.
TEST_P(PrivateFile, AnUnlinkedFileThatTheCallerHandsInIsHeld) {
  const std::string folder = std::filesystem::path(path_).parent_path();
  const int fd = ::open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  ASSERT_GE(fd, 0);
  ASSERT_EQ(::write(fd, content_.data(), content_.size()), static_cast<ssize_t>(content_.size()));
  still_options options{};
  options.size = sizeof options;
  options.require = std::string(GetParam()) == "TMPFS" ? STILL_TORN : STILL_VERIFIED;
  still_snapshot* one = nullptr;
  ASSERT_EQ(still_open_fd(fd, &options, &one), 0) << still_message();
  ASSERT_EQ(::ftruncate(fd, 0), 0);
  ASSERT_EQ(::pwrite(fd, "#", 1, 0), 1);
  expect_bytes(one, 0, content_.size());
  still_close(one);
  ::close(fd);
}

}  // namespace
