// SPDX-License-Identifier: Apache-2.0
//
// still_mmap and its kin, written from what stillmap.h promises: arguments and errors are those of mmap(2),
// the bytes hold still, and nothing is left behind.
#include <errno.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <stillmap/stillmap.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "fault_guard.hpp"
#include "live_leases.hpp"
#include "memory.hpp"
#include "ranges/mapping.hpp"
#include "ranges/tree.hpp"
#include "settings.hpp"
#include "stand_in.hpp"

namespace stillmap {
namespace {

using testing_support::answer;
using testing_support::answer_no_more;
using testing_support::live_leases;
using testing_support::try_read;

constexpr std::size_t page = 4096;
#ifdef __SANITIZE_THREAD__
constexpr bool watched_by_tsan = true;
#else
constexpr bool watched_by_tsan = false;
#endif

std::string pattern(std::size_t bytes, unsigned seed = 0) {
  std::string text(bytes, '\0');
  for (std::size_t i = 0; i < bytes; ++i)
    text[i] = static_cast<char>((i * 2654435761u + seed * 40503u + i / page) >> 13);
  return text;
}
std::size_t pages_of(std::size_t bytes) {
  return (bytes + page - 1) / page * page;
}
// 0, or the errno of a call that says MAP_FAILED.
int error_of_map(void* result, std::size_t length) {
  if (result == MAP_FAILED) return errno;
  still_munmap(result, length);
  return 0;
}
bool is_ours(const void* at, std::size_t bytes) {
  const auto begin = reinterpret_cast<ranges::address>(at);
  return ranges::are_ours(begin, begin + bytes);
}
// Nothing is mapped at any page of it. A sanitizer maps memory of its own all the time, and at once where there
// is a hole.
bool is_hole(void* at, std::size_t bytes) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  return !is_ours(at, bytes);
#endif
  unsigned char there;
  for (std::size_t done = 0; done < bytes; done += page)
    if (::mincore(static_cast<char*>(at) + done, page, &there) == 0 || errno != ENOMEM) return false;
  return true;
}
bool is_readable(const void* at) {
  return try_read(static_cast<const std::byte*>(at)).has_value();
}
std::size_t lines_of_maps() {
  std::ifstream maps("/proc/self/maps");
  std::size_t count = 0;
  for (std::string line; std::getline(maps, line);) ++count;
  return count;
}
void* reserve_pages(std::size_t bytes, int protection = PROT_NONE) {
  return ::mmap(nullptr, bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
}

// A folder on one of the file systems, and what must be as before at the end.
class MmapOn : public testing::Test {
 protected:
  void enter(const char* system) {
    const char* const folder = std::getenv((std::string("STILLMAP_TEST_") + system).c_str());
    if (folder == nullptr) GTEST_SKIP() << "no such file system here";
    path_ = std::string(folder) + "/mapped";
    charged_before_ = memory::charged();
  }
  void TearDown() override {
    answer_no_more();
    EXPECT_EQ(live_leases(0), 0u);
    EXPECT_EQ(memory::charged(), charged_before_);
    ::unlink(path_.c_str());
  }
  void make(std::string content) {
    content_ = std::move(content);
    ::unlink(path_.c_str());
    std::ofstream(path_, std::ios::binary) << content_;
    const int fd = open_it();
    ::fdatasync(fd);
    ::close(fd);
  }
  int open_it(int flags = O_RDONLY) const { return ::open(path_.c_str(), flags | O_CLOEXEC); }
  char* map(std::size_t length, int protection = PROT_READ, std::size_t offset = 0, int flags = 0,
            void* where = nullptr) const {
    const int fd = open_it();
    void* const result =
        still_mmap(where, length, protection, MAP_SNAPSHOT | flags, fd, static_cast<off_t>(offset));
    const int error = errno;
    ::close(fd);
    errno = error;
    EXPECT_NE(result, MAP_FAILED) << std::strerror(error) << ": " << still_message();
    return result == MAP_FAILED ? nullptr : static_cast<char*>(result);
  }
  // Bytes [from, from + bytes) of the file as it was made, at `at`.
  testing::AssertionResult shows(const char* at, std::size_t from, std::size_t bytes) const {
    if (at == nullptr) return testing::AssertionFailure() << "not mapped";
    if (std::memcmp(at, content_.data() + from, bytes) == 0) return testing::AssertionSuccess();
    std::size_t i = 0;
    while (at[i] == content_[from + i]) ++i;
    return testing::AssertionFailure() << "another byte at " << i << " of " << bytes;
  }
  // As a writer that waits for whoever holds a lease.
  void write_over() const {
    const int fd = open_it(O_WRONLY);
    ASSERT_GE(fd, 0);
    const std::string other(content_.size(), '#');
    EXPECT_EQ(::pwrite(fd, other.data(), other.size(), 0), static_cast<ssize_t>(other.size()));
    ::close(fd);
  }
  std::string file_now() const {
    std::ifstream file(path_, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }

  std::string path_, content_;
  std::uint64_t charged_before_ = 0;
};

// On each file system: copied and leased ones, with and without a last page that is not whole, and one that
// is large enough to be cloned when a writer comes.
class Mmap : public MmapOn, public testing::WithParamInterface<std::tuple<const char*, std::size_t>> {
 protected:
  void SetUp() override {
    enter(std::get<0>(GetParam()));
    if (IsSkipped()) return;
    make(pattern(std::get<1>(GetParam())));
    size_ = content_.size();
    whole_ = pages_of(size_);
    middle_ = whole_ / 2 / page * page;
  }
  bool leased() const { return size_ > (std::size_t{512} << 10); }

  std::size_t size_ = 0, whole_ = 0, middle_ = 0;
};
INSTANTIATE_TEST_SUITE_P(
    On, Mmap,
    testing::Combine(testing::Values("EXT4", "TMPFS", "XFS", "BTRFS"),
                     testing::Values(std::size_t{4 * page}, 4 * page + 100, (std::size_t{1} << 20),
                                     (std::size_t{1} << 20) + 100, (std::size_t{5} << 20) + 100)),
    [](const auto& one) {
      return std::string(std::get<0>(one.param)) + "_" + std::to_string(std::get<1>(one.param));
    });

TEST_P(Mmap, ShowsTheBytesAndZerosBehindThem) {
  char* const at = map(size_);
  EXPECT_TRUE(shows(at, 0, size_));
  for (std::size_t i = size_; i < whole_; ++i) ASSERT_EQ(at[i], 0) << i;
  EXPECT_EQ(live_leases(leased() ? 1 : 0), leased() ? 1u : 0u);
  EXPECT_TRUE(is_ours(at, size_));
  EXPECT_EQ(still_munmap(at, size_), 0);
  EXPECT_TRUE(is_hole(at, whole_));
  EXPECT_FALSE(is_ours(at, whole_));
}

TEST_P(Mmap, HoldsStillUnderAWriter) {
  char* const at = map(size_);
  write_over();
  EXPECT_TRUE(shows(at, 0, size_));
  EXPECT_EQ(file_now(), std::string(size_, '#'));
  EXPECT_EQ(still_munmap(at, size_), 0);
}

TEST_P(Mmap, HoldsStillUnderAnotherProcess) {
  const std::string quoted = "'" + path_ + "'";
  const std::string commands[] = {
      "printf '####' | dd of=" + quoted + " bs=1 seek=5000 conv=notrunc status=none",
      ": > " + quoted,
      "perl -e 'truncate($ARGV[0], 0) or die $!' " + quoted,
      "rm " + quoted,
      "printf 'another' > " + quoted + ".other; mv " + quoted + ".other " + quoted,
  };
  for (const std::string& command : commands) {
    make(pattern(size_));
    char* const at = map(size_);
    ASSERT_EQ(std::system(command.c_str()), 0);
    EXPECT_TRUE(shows(at, 0, size_)) << command;
    for (std::size_t i = size_; i < whole_; ++i) ASSERT_EQ(at[i], 0) << i;
    EXPECT_EQ(still_munmap(at, size_), 0);
  }
}

TEST_P(Mmap, HoldsStillUnderTruncationAndASharedMapping) {
  char* at = map(size_);
  ASSERT_EQ(::truncate(path_.c_str(), 0), 0);
  EXPECT_TRUE(shows(at, 0, size_));
  EXPECT_EQ(still_munmap(at, size_), 0);

  make(pattern(size_, 7));
  at = map(size_);
  const int fd = open_it(O_RDWR);
  auto* const shared = static_cast<char*>(::mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
  ::close(fd);
  std::memset(shared, '!', size_);
  EXPECT_TRUE(shows(at, 0, size_));
  ::munmap(shared, size_);
  EXPECT_EQ(still_munmap(at, size_), 0);
}

TEST_P(Mmap, EveryPartOfTheFile) {
  struct part {
    std::size_t offset, length;
  };
  for (const part one : {part{0, 1}, part{0, page}, part{page, page + 1}, part{page, size_ - page},
                         part{middle_, size_ - middle_}, part{whole_ - page, size_ - (whole_ - page)},
                         part{page, 3 * page - 1}}) {
    char* const at = map(one.length, PROT_READ, one.offset);
    const std::size_t there = std::min(pages_of(one.length), size_ - one.offset);
    EXPECT_TRUE(shows(at, one.offset, std::min(one.length, there))) << one.offset << " " << one.length;
    write_over();
    EXPECT_TRUE(shows(at, one.offset, std::min(one.length, there))) << one.offset << " " << one.length;
    EXPECT_EQ(still_munmap(at, one.length), 0);
    EXPECT_TRUE(is_hole(at, pages_of(one.length)));
    make(content_);
  }
}

TEST_P(Mmap, BehindTheEndOfTheFileIsASignal) {
  const std::size_t length = whole_ + 3 * page;
  char* const at = map(length);
  EXPECT_TRUE(shows(at, 0, size_));
  for (std::size_t i = size_; i < whole_; ++i) ASSERT_EQ(at[i], 0) << i;
  for (std::size_t i = whole_; i < length; i += page) EXPECT_FALSE(is_readable(at + i)) << i;
  // A file that grows shows nothing of it.
  std::ofstream(path_, std::ios::binary | std::ios::app) << std::string(10 * page, '+');
  for (std::size_t i = whole_; i < length; i += page) EXPECT_FALSE(is_readable(at + i)) << i;
  EXPECT_TRUE(shows(at, 0, size_));
  EXPECT_EQ(still_munmap(at, length), 0);
  EXPECT_TRUE(is_hole(at, length));
}

TEST_P(Mmap, TheDescriptorMayBeOpenForWritingAndClosed) {
  const int fd = open_it(O_RDWR);
  void* const result = still_mmap(nullptr, size_, PROT_READ, MAP_SNAPSHOT, fd, 0);
  const int error = errno;
  // Its own writer stands in the way of a lease; a copy is verified by stamps, where there are some.
  if (result == MAP_FAILED) {
    EXPECT_TRUE(error == EAGAIN || error == ENODEV) << std::strerror(error);
    EXPECT_STREQ(std::get<0>(GetParam()), "TMPFS");
    ::close(fd);
    return;
  }
  auto* const at = static_cast<char*>(result);
  EXPECT_EQ(::pwrite(fd, "other", 5, 0), 5);
  EXPECT_TRUE(shows(at, 0, size_));
  ::close(fd);
  EXPECT_TRUE(shows(at, 0, size_));
  EXPECT_EQ(still_munmap(at, size_), 0);
}

TEST_P(Mmap, WritableIsAPrivateCopy) {
  char* const at = map(size_, PROT_READ | PROT_WRITE);
  EXPECT_EQ(live_leases(0), 0u);
  EXPECT_TRUE(shows(at, 0, size_));
  std::memcpy(at + size_ - 5, "mine!", 5);
  at[0] = 'M';
  EXPECT_EQ(file_now(), content_);
  write_over();
  EXPECT_TRUE(shows(at + 1, 1, size_ - 6));
  EXPECT_EQ(at[0], 'M');
  EXPECT_EQ(std::memcmp(at + size_ - 5, "mine!", 5), 0);
  EXPECT_EQ(still_munmap(at, size_), 0);
}

TEST_P(Mmap, NoAccessAndExecutable) {
  char* at = map(size_, PROT_NONE);
  EXPECT_FALSE(is_readable(at));
  EXPECT_FALSE(is_readable(at + size_ - 1));
  write_over();
  EXPECT_EQ(still_mprotect(at, size_, PROT_READ), 0);
  EXPECT_TRUE(shows(at, 0, size_));
  EXPECT_EQ(still_munmap(at, size_), 0);

  make(content_);
  at = map(size_, PROT_READ | PROT_EXEC);
  EXPECT_TRUE(shows(at, 0, size_));
  write_over();
  EXPECT_TRUE(shows(at, 0, size_));
  EXPECT_EQ(still_munmap(at, size_), 0);
}

TEST_P(Mmap, AtAHint) {
  void* const place = reserve_pages(whole_);
  ::munmap(place, whole_);
  char* const at = map(size_, PROT_READ, 0, 0, place);
  EXPECT_TRUE(shows(at, 0, size_));
  char* const other = map(size_, PROT_READ, 0, 0, at);  // taken: somewhere else
  EXPECT_NE(other, at);
  EXPECT_TRUE(shows(other, 0, size_));
  EXPECT_EQ(still_munmap(at, size_), 0);
  EXPECT_EQ(still_munmap(other, size_), 0);
}

TEST_P(Mmap, FixedOverNothingAndOverAnonymousMemory) {
  auto* const place = static_cast<char*>(reserve_pages(whole_ + 2 * page, PROT_READ | PROT_WRITE));
  std::memset(place, 'a', whole_ + 2 * page);
  ASSERT_EQ(map(size_, PROT_READ, 0, MAP_FIXED, place + page), place + page);
  EXPECT_TRUE(shows(place + page, 0, size_));
  write_over();
  EXPECT_TRUE(shows(place + page, 0, size_));
  EXPECT_EQ(place[page - 1], 'a');
  EXPECT_EQ(place[page + whole_], 'a');
  EXPECT_EQ(still_munmap(place + page, size_), 0);
  make(content_);
  ASSERT_EQ(map(size_, PROT_READ, 0, MAP_FIXED, place + page), place + page);
  EXPECT_TRUE(shows(place + page, 0, size_));
  EXPECT_EQ(still_munmap(place, whole_ + 2 * page), 0);
}

TEST_P(Mmap, FixedOverAnotherSnapshot) {
  char* const first = map(size_);
  ASSERT_NE(first, nullptr);
  // Over a part of it, that part being another part of the file.
  ASSERT_EQ(map(page, PROT_READ, 0, MAP_FIXED, first + page), first + page);
  EXPECT_TRUE(shows(first, 0, page));
  EXPECT_TRUE(shows(first + page, 0, page));
  EXPECT_TRUE(shows(first + 2 * page, 2 * page, size_ - 2 * page));
  write_over();
  EXPECT_TRUE(shows(first, 0, page));
  EXPECT_TRUE(shows(first + page, 0, page));
  EXPECT_TRUE(shows(first + 2 * page, 2 * page, size_ - 2 * page));
  // Over all of it, and a writer comes to what was below.
  make(pattern(size_, 3));
  ASSERT_EQ(map(size_, PROT_READ, 0, MAP_FIXED, first), first);
  EXPECT_TRUE(shows(first, 0, size_));
  ASSERT_EQ(map(size_, PROT_READ, 0, MAP_FIXED, first), first);
  write_over();
  EXPECT_TRUE(shows(first, 0, size_));
  EXPECT_EQ(still_munmap(first, size_), 0);
  EXPECT_FALSE(is_ours(first, whole_));
}

TEST_P(Mmap, FixedNoReplaceRefuses) {
  char* const first = map(size_);
  const int fd = open_it();
  EXPECT_EQ(still_mmap(first, page, PROT_READ, MAP_SNAPSHOT | MAP_FIXED_NOREPLACE, fd, 0), MAP_FAILED);
  EXPECT_EQ(errno, EEXIST);
  EXPECT_EQ(still_mmap(first, page, PROT_READ, MAP_SNAPSHOT | MAP_FIXED | MAP_FIXED_NOREPLACE, fd, 0),
            MAP_FAILED);
  EXPECT_EQ(errno, EEXIST);
  EXPECT_TRUE(shows(first, 0, size_));
  EXPECT_EQ(still_munmap(first, size_), 0);
  EXPECT_EQ(still_mmap(first, size_, PROT_READ, MAP_SNAPSHOT | MAP_FIXED_NOREPLACE, fd, 0), first);
  EXPECT_TRUE(shows(first, 0, size_));
  EXPECT_EQ(still_munmap(first, size_), 0);
  ::close(fd);
}

TEST_P(Mmap, OtherFlags) {
  for (const int flags :
       {MAP_POPULATE, MAP_NORESERVE, MAP_POPULATE | MAP_NORESERVE, MAP_STACK, MAP_NONBLOCK}) {
    for (const std::size_t length : {size_, whole_ + 2 * page}) {
      char* const at = map(length, PROT_READ, 0, flags);
      EXPECT_TRUE(shows(at, 0, size_));
      EXPECT_EQ(still_munmap(at, length), 0);
    }
  }
}

TEST_P(Mmap, LockedIsLockedAlsoBehindTheEnd) {
  if (size_ > (std::size_t{2} << 20)) GTEST_SKIP() << "more than RLIMIT_MEMLOCK may allow";
  for (const std::size_t length : {size_, whole_ + 2 * page}) {
    for (const int protection : {PROT_READ, PROT_READ | PROT_WRITE, PROT_NONE}) {
      const int fd = open_it();
      void* const kernels = ::mmap(nullptr, length, protection, MAP_PRIVATE | MAP_LOCKED, fd, 0);
      ASSERT_NE(kernels, MAP_FAILED);
      ::munmap(kernels, length);
      void* const at = still_mmap(nullptr, length, protection, MAP_SNAPSHOT | MAP_LOCKED, fd, 0);
      EXPECT_NE(at, MAP_FAILED) << std::strerror(errno) << " " << length << " " << protection;
      ::close(fd);
      if (at == MAP_FAILED) continue;
      if (protection != PROT_NONE) {
        EXPECT_TRUE(shows(static_cast<char*>(at), 0, size_));
      }
      EXPECT_EQ(still_munmap(at, length), 0);
    }
  }
}

TEST_P(Mmap, SeveralMappingsOfOneFileAndASnapshot) {
  char* const whole = map(size_);
  char* const rear = map(size_ - page, PROT_READ, page);
  char* const again = map(size_);
  char* const written = map(size_, PROT_READ | PROT_WRITE);
  still_options options{};
  options.size = sizeof options;
  options.fork = STILL_FORK_CARRY;
  still_snapshot* opened = nullptr;
  ASSERT_EQ(still_open(path_.c_str(), &options, &opened), 0) << still_message();
  written[0] = 'W';
  EXPECT_EQ(still_munmap(whole, size_), 0);
  EXPECT_TRUE(shows(static_cast<const char*>(still_data(opened)), 0, size_));
  EXPECT_TRUE(shows(again, 0, size_));
  write_over();
  EXPECT_TRUE(shows(rear, page, size_ - page));
  EXPECT_TRUE(shows(again, 0, size_));
  EXPECT_TRUE(shows(written + 1, 1, size_ - 1));
  EXPECT_TRUE(shows(static_cast<const char*>(still_data(opened)), 0, size_));
  EXPECT_EQ(still_munmap(again, size_), 0);
  EXPECT_TRUE(shows(static_cast<const char*>(still_data(opened)), 0, size_));
  still_close(opened);
  EXPECT_TRUE(shows(rear, page, size_ - page));
  EXPECT_EQ(still_munmap(rear, size_ - page), 0);
  EXPECT_EQ(still_munmap(written, size_), 0);
}

// A snapshot that is opened must not stand on what somebody else will unmap.
TEST_P(Mmap, AnOpenedSnapshotDoesNotShareAPlacedMapping) {
  still_options options{};
  options.size = sizeof options;
  options.fork = STILL_FORK_CARRY;
  options.length = size_;
  options.padding = static_cast<std::uint32_t>(whole_ - size_);
  char* const at = map(size_);
  still_snapshot* opened = nullptr;
  ASSERT_EQ(still_open(path_.c_str(), &options, &opened), 0) << still_message();
  EXPECT_NE(still_data(opened), at);
  EXPECT_EQ(still_munmap(at, size_), 0);
  EXPECT_EQ(try_read(static_cast<const std::byte*>(still_data(opened))), std::byte(content_[0]));
  still_close(opened);
}

TEST_P(Mmap, PartsMayGoBeforeAWriterComes) {
  for (const int which : {0, 1, 2}) {
    char* const at = map(size_);
    const std::size_t begin = which == 0 ? 0 : which == 1 ? page : middle_;
    const std::size_t end = which == 0 ? middle_ : which == 1 ? middle_ : whole_;
    ASSERT_EQ(still_munmap(at + begin, end - begin), 0);
    EXPECT_TRUE(is_hole(at + begin, end - begin));
    EXPECT_FALSE(is_ours(at + begin, end - begin));
    // Somebody else's memory lands there.
    void* const foreign = ::mmap(at + begin, end - begin, PROT_READ | PROT_WRITE,
                                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    ASSERT_EQ(foreign, at + begin);
    std::memset(foreign, 'f', end - begin);
    write_over();
    EXPECT_TRUE(shows(at, 0, begin));
    if (end < size_) {
      EXPECT_TRUE(shows(at + end, end, size_ - end));
    }
    for (std::size_t i = begin; i < end; ++i) ASSERT_EQ(at[i], 'f') << i;
    EXPECT_EQ(::madvise(foreign, end - begin, MADV_DONTNEED), 0);
    EXPECT_EQ(at[begin], 0);
    EXPECT_EQ(still_munmap(at, size_), 0);
    EXPECT_TRUE(is_hole(at, whole_));
    EXPECT_FALSE(is_ours(at, whole_));
    make(content_);
  }
}

TEST_P(Mmap, PartsMayGoAfterAWriterCame) {
  for (const int which : {0, 1, 2}) {
    char* const at = map(size_);
    const std::size_t begin = which == 0 ? 0 : which == 1 ? page : middle_;
    const std::size_t end = which == 0 ? middle_ : which == 1 ? middle_ : whole_;
    write_over();
    ASSERT_EQ(still_munmap(at + begin, end - begin), 0);
    EXPECT_TRUE(is_hole(at + begin, end - begin));
    EXPECT_TRUE(shows(at, 0, begin));
    if (end < size_) {
      EXPECT_TRUE(shows(at + end, end, size_ - end));
    }
    // The rest in two more parts.
    if (begin > 0) {
      EXPECT_EQ(still_munmap(at, begin), 0);
    }
    if (end < whole_) {
      EXPECT_EQ(still_munmap(at + end, whole_ - end), 0);
    }
    EXPECT_TRUE(is_hole(at, whole_));
    EXPECT_FALSE(is_ours(at, whole_));
    make(content_);
  }
}

// The keeper must not put anything where the mapping was.
TEST_P(Mmap, WhatLandsWhereItWasIsLeftAlone) {
  char* const at = map(size_);
  char* const other = map(size_);  // keeps the lease
  ASSERT_EQ(still_munmap(at, size_), 0);
  void* const foreign =
      ::mmap(at, whole_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
  ASSERT_EQ(foreign, at);
  std::memset(foreign, 'f', whole_);
  write_over();
  for (std::size_t i = 0; i < whole_; ++i) ASSERT_EQ(at[i], 'f') << i;
  EXPECT_TRUE(shows(other, 0, size_));
  EXPECT_EQ(still_munmap(other, size_), 0);
  ::munmap(foreign, whole_);
}

TEST_P(Mmap, OneCallUnmapsSeveralAndTheGapsBetween) {
  const std::size_t arena = 3 * whole_ + 4 * page;
  auto* const place = static_cast<char*>(reserve_pages(arena));
  ::munmap(place + whole_ + page, page);  // a hole, among memory of others
  char* const first = map(size_, PROT_READ, 0, MAP_FIXED, place + page);
  char* const second = map(size_, PROT_READ, 0, MAP_FIXED, place + whole_ + 2 * page);
  char* const third = map(size_, PROT_READ, 0, MAP_FIXED, place + 2 * whole_ + 3 * page);
  ASSERT_TRUE(first != nullptr && second != nullptr && third != nullptr);
  // From the middle of the first to the middle of the third.
  ASSERT_EQ(still_munmap(first + middle_, static_cast<std::size_t>(third + page - (first + middle_))), 0);
  EXPECT_TRUE(is_hole(first + middle_, static_cast<std::size_t>(third + page - (first + middle_))));
  EXPECT_FALSE(is_ours(first + middle_, static_cast<std::size_t>(third + page - (first + middle_))));
  write_over();
  EXPECT_TRUE(shows(first, 0, middle_));
  EXPECT_TRUE(shows(third + page, page, size_ - page));
  // Around the hole, in which others' memory may lie by now.
  EXPECT_EQ(still_munmap(place, static_cast<std::size_t>(first + middle_ - place)), 0);
  EXPECT_EQ(still_munmap(third + page, static_cast<std::size_t>(place + arena - (third + page))), 0);
  EXPECT_FALSE(is_ours(place, arena));
}

TEST_P(Mmap, MadeWritableItIsPrivateFirst) {
  char* const at = map(size_);
  ASSERT_EQ(still_mprotect(at, size_, PROT_READ | PROT_WRITE), 0) << std::strerror(errno);
  EXPECT_EQ(live_leases(0), 0u);
  EXPECT_TRUE(shows(at, 0, size_));
  std::memset(at, 'w', size_);
  EXPECT_EQ(file_now(), content_);
  write_over();
  for (std::size_t i = 0; i < size_; ++i) ASSERT_EQ(at[i], 'w');
  EXPECT_EQ(still_munmap(at, size_), 0);
}

TEST_P(Mmap, APartMadeWritable) {
  for (const bool after : {false, true}) {
    char* const at = map(size_);
    if (after) write_over();
    ASSERT_EQ(still_mprotect(at + page, page, PROT_READ | PROT_WRITE), 0) << std::strerror(errno);
    std::memset(at + page, 'w', page);
    if (!after) {
      EXPECT_EQ(file_now(), content_);
    }
    write_over();
    EXPECT_TRUE(shows(at, 0, page));
    EXPECT_TRUE(shows(at + 2 * page, 2 * page, size_ - 2 * page));
    EXPECT_EQ(at[page], 'w');
    // And then without access, and back.
    EXPECT_EQ(still_mprotect(at, size_, PROT_NONE), 0);
    EXPECT_FALSE(is_readable(at));
    EXPECT_EQ(still_mprotect(at, size_, PROT_READ), 0);
    EXPECT_TRUE(shows(at, 0, page));
    EXPECT_EQ(at[page], 'w');
    EXPECT_EQ(still_munmap(at, size_), 0);
    make(content_);
  }
}

TEST_P(Mmap, NoAccessThenWritable) {
  for (const bool after : {false, true}) {
    char* const at = map(size_);
    if (after) write_over();
    ASSERT_EQ(still_mprotect(at, size_, PROT_NONE), 0);
    ASSERT_EQ(still_mprotect(at + page, page, PROT_READ | PROT_WRITE), 0) << std::strerror(errno);
    EXPECT_FALSE(is_readable(at));
    EXPECT_FALSE(is_readable(at + 2 * page));
    EXPECT_TRUE(shows(at + page, page, page));
    at[page] = 'w';
    ASSERT_EQ(still_mprotect(at, size_, PROT_READ), 0);
    EXPECT_TRUE(shows(at, 0, page));
    EXPECT_TRUE(shows(at + page + 1, page + 1, size_ - page - 1));
    EXPECT_EQ(still_munmap(at, size_), 0);
    make(content_);
  }
}

TEST_P(Mmap, SharedOnesCannotBeMadeWritable) {
  const int fd = open_it();
  ranges::terms asked;
  asked.shared = true;
  ranges::holding how;
  const long result = ranges::map_snapshot(nullptr, size_, PROT_READ, MAP_SHARED, fd, 0, asked, how);
  ::close(fd);
  ASSERT_FALSE(kernel::failed(result));
  auto* const at = reinterpret_cast<char*>(result);
  EXPECT_EQ(still_mprotect(at, size_, PROT_READ | PROT_WRITE), -1);
  EXPECT_EQ(errno, EACCES);
  EXPECT_EQ(live_leases(leased() ? 1 : 0), leased() ? 1u : 0u);
  EXPECT_EQ(still_munmap(at, page), 0);  // the parts bear it as well
  EXPECT_EQ(still_mprotect(at + page, page, PROT_WRITE), -1);
  EXPECT_EQ(errno, EACCES);
  void* const place = reserve_pages(whole_);
  ASSERT_EQ(still_mremap(at + page, whole_ - page, whole_ - page, MREMAP_MAYMOVE | MREMAP_FIXED, place),
            place);
  EXPECT_EQ(still_mprotect(place, page, PROT_READ | PROT_WRITE), -1);
  EXPECT_EQ(errno, EACCES);
  EXPECT_TRUE(shows(static_cast<char*>(place), page, size_ - page));
  EXPECT_EQ(still_munmap(place, whole_), 0);
}

TEST_P(Mmap, AdviceLosesNoByte) {
  struct advised {
    int advice, error;
  };
  const advised all[] = {{MADV_DONTNEED, 0},
                         {MADV_FREE, EINVAL},
                         {MADV_WIPEONFORK, EINVAL},
                         {MADV_REMOVE, EACCES},
                         {MADV_WILLNEED, 0},
                         {MADV_RANDOM, 0},
                         {MADV_SEQUENTIAL, 0},
                         {MADV_NORMAL, 0},
                         {MADV_DONTFORK, 0},
                         {MADV_DOFORK, 0},
                         {MADV_COLD, 0},
                         {MADV_PAGEOUT, 0},
                         {MADV_POPULATE_READ, 0},
                         {MADV_DONTDUMP, 0},
                         {MADV_DODUMP, 0},
                         {24 /* DONTNEED_LOCKED */, 0}};
  for (const int stage : {0, 1, 2}) {
    char* const at = map(size_);
    if (stage == 1) write_over();
    if (stage == 2) {
      ASSERT_EQ(still_mprotect(at, size_, PROT_READ | PROT_WRITE), 0);
    }
    for (const advised& one : all) {
      for (const auto& [begin, length] : {std::pair<std::size_t, std::size_t>{0, size_}, {page, page}}) {
        errno = 0;
        EXPECT_EQ(still_madvise(at + begin, length, one.advice), one.error == 0 ? 0 : -1) << one.advice;
        EXPECT_EQ(errno, one.error) << one.advice << " stage " << stage;
      }
      ASSERT_TRUE(shows(at, 0, size_)) << one.advice << " stage " << stage;
    }
    EXPECT_EQ(still_madvise(at, size_, 9999), -1);
    EXPECT_EQ(errno, EINVAL);
    EXPECT_EQ(still_madvise(at + 1, page, MADV_DONTNEED), -1);
    EXPECT_EQ(errno, EINVAL);
    write_over();
    EXPECT_TRUE(shows(at, 0, size_));
    EXPECT_EQ(still_munmap(at, size_), 0);
    make(content_);
  }
}

TEST_P(Mmap, AdviceOnOthersBesideOurs) {
  auto* const place = static_cast<char*>(reserve_pages(whole_ + 2 * page, PROT_READ | PROT_WRITE));
  std::memset(place, 'a', whole_ + 2 * page);
  ASSERT_EQ(map(size_, PROT_READ, 0, MAP_FIXED, place + page), place + page);
  EXPECT_EQ(still_madvise(place, whole_ + 2 * page, MADV_DONTNEED), 0);
  EXPECT_EQ(place[0], 0);
  EXPECT_EQ(place[page + whole_], 0);
  EXPECT_TRUE(shows(place + page, 0, size_));
  EXPECT_EQ(still_munmap(place, whole_ + 2 * page), 0);
}

TEST_P(Mmap, MadeShorter) {
  for (const bool after : {false, true}) {
    char* const at = map(size_);
    if (after) write_over();
    EXPECT_EQ(still_mremap(at, size_, size_, 0, nullptr), at);
    EXPECT_EQ(still_mremap(at, size_, page + 1, MREMAP_MAYMOVE, nullptr), at);
    EXPECT_TRUE(is_hole(at + 2 * page, whole_ - 2 * page));
    write_over();
    EXPECT_TRUE(shows(at, 0, 2 * page));
    EXPECT_EQ(still_munmap(at, 2 * page), 0);
    EXPECT_FALSE(is_ours(at, whole_));
    make(content_);
  }
}

TEST_P(Mmap, Moved) {
  for (const int stage : {0, 1, 2}) {
    for (const std::size_t length : {whole_, whole_ - page, page}) {
      char* const at = map(size_);
      if (stage == 1) write_over();
      if (stage == 2) {
        ASSERT_EQ(still_mprotect(at, size_, PROT_READ | PROT_WRITE), 0);
      }
      auto* const place = static_cast<char*>(reserve_pages(whole_ + page, PROT_READ | PROT_WRITE));
      std::memset(place, 'a', whole_ + page);
      ASSERT_EQ(still_mremap(at, whole_, length, MREMAP_MAYMOVE | MREMAP_FIXED, place), place)
          << std::strerror(errno) << " stage " << stage << " " << length;
      EXPECT_TRUE(is_hole(at, whole_));
      EXPECT_FALSE(is_ours(at, whole_));
      EXPECT_TRUE(is_ours(place, length));
      write_over();
      EXPECT_TRUE(shows(place, 0, std::min(length, size_)));
      EXPECT_EQ(place[length], 'a');
      EXPECT_EQ(still_munmap(place, whole_ + page), 0);
      EXPECT_FALSE(is_ours(place, whole_));
      make(content_);
    }
  }
}

// Linux moves several mappings with one call from 6.17 on only; ours is one to its user on every kernel.
TEST_P(Mmap, MovedOnAKernelThatMovesOneMappingAtATime) {
  answer([](long number, const long(&a)[6], long& result) {
    if (number != SYS_mremap || (a[3] & MREMAP_FIXED) == 0) return false;
    std::ifstream maps("/proc/self/maps");
    for (std::string line; std::getline(maps, line);) {
      unsigned long begin = 0, end = 0;
      if (std::sscanf(line.c_str(), "%lx-%lx", &begin, &end) != 2) continue;
      const auto from = static_cast<unsigned long>(a[0]);
      if (begin <= from && from < end) {
        result = -EFAULT;
        return from + static_cast<unsigned long>(a[1]) > end;
      }
    }
    return false;
  });
  for (const bool after : {false, true}) {
    char* const at = map(size_);
    if (after) write_over();
    auto* const place = static_cast<char*>(reserve_pages(whole_));
    ASSERT_EQ(still_mremap(at, size_, size_, MREMAP_MAYMOVE | MREMAP_FIXED, place), place)
        << std::strerror(errno);
    write_over();
    EXPECT_TRUE(shows(place, 0, size_));
    EXPECT_TRUE(is_hole(at, whole_));
    EXPECT_EQ(still_munmap(place, whole_), 0);
    make(content_);
  }
}

TEST_P(Mmap, MovedOverAnotherSnapshot) {
  char* const from = map(size_);
  char* const to = map(size_);
  ASSERT_EQ(still_mremap(from, page, page, MREMAP_MAYMOVE | MREMAP_FIXED, to + page), to + page);
  write_over();
  EXPECT_TRUE(shows(to, 0, page));
  EXPECT_TRUE(shows(to + page, 0, page));
  EXPECT_TRUE(shows(to + 2 * page, 2 * page, size_ - 2 * page));
  EXPECT_TRUE(is_hole(from, page));
  EXPECT_TRUE(shows(from + page, page, size_ - page));
  // Other memory over it.
  void* const foreign = reserve_pages(page, PROT_READ | PROT_WRITE);
  *static_cast<char*>(foreign) = 'f';
  ASSERT_EQ(still_mremap(foreign, page, page, MREMAP_MAYMOVE | MREMAP_FIXED, to), to);
  EXPECT_EQ(to[0], 'f');
  EXPECT_FALSE(is_ours(to, page));
  EXPECT_TRUE(shows(to + page, 0, page));
  EXPECT_EQ(still_munmap(to, size_), 0);
  EXPECT_EQ(still_munmap(from + page, size_ - page), 0);
}

TEST_P(Mmap, WhatRemappingRefuses) {
  char* const at = map(size_);
  char* const other = map(size_);
  void* const place = reserve_pages(2 * whole_);
  void* const foreign = reserve_pages(page);
  struct refused {
    void* from;
    std::size_t old_length, new_length;
    int flags;
    void* to;
    int error;
  };
  const refused all[] = {
      {at, whole_, whole_ + page, 0, nullptr, ENOMEM},
      {at, whole_, whole_ + page, MREMAP_MAYMOVE, nullptr, ENOMEM},
      {at, 0, whole_, MREMAP_MAYMOVE, nullptr, EINVAL},
      {at, whole_, 0, MREMAP_MAYMOVE, nullptr, EINVAL},
      {at, whole_, whole_, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, nullptr, EINVAL},
      {at, whole_, whole_, MREMAP_FIXED, place, EINVAL},
      {at, whole_, whole_, MREMAP_MAYMOVE | MREMAP_FIXED, at + page, EINVAL},
      {at, whole_, whole_, MREMAP_MAYMOVE | MREMAP_FIXED, at, EINVAL},
      {at, whole_, whole_, MREMAP_MAYMOVE | MREMAP_FIXED, static_cast<char*>(place) + 1, EINVAL},
      {at + 1, whole_, whole_, MREMAP_MAYMOVE, nullptr, EINVAL},
      // What is refused leaves what is at its target alone.
      {foreign, page, page, MREMAP_FIXED, other, EINVAL},
      {foreign, page, 0, MREMAP_MAYMOVE | MREMAP_FIXED, other, EINVAL},
      {static_cast<char*>(foreign) + 1, page, page, MREMAP_MAYMOVE | MREMAP_FIXED, other, EINVAL},
      {foreign, page, page, 64 | MREMAP_MAYMOVE | MREMAP_FIXED, other, EINVAL},
  };
  for (const refused& one : all) {
    errno = 0;
    EXPECT_EQ(still_mremap(one.from, one.old_length, one.new_length, one.flags, one.to), MAP_FAILED);
    EXPECT_EQ(errno, one.error) << &one - all;
    EXPECT_TRUE(shows(at, 0, size_)) << &one - all;
    ASSERT_TRUE(is_readable(other)) << &one - all;
    EXPECT_TRUE(shows(other, 0, size_)) << &one - all;
  }
  write_over();
  EXPECT_TRUE(shows(at, 0, size_));
  EXPECT_TRUE(shows(other, 0, size_));
  EXPECT_EQ(still_munmap(at, size_), 0);
  EXPECT_EQ(still_munmap(other, size_), 0);
  ::munmap(place, 2 * whole_);
  ::munmap(foreign, page);
}

// mmap(2) checks its arguments before it takes anything away.
TEST_P(Mmap, APlainMappingThatIsRefusedTakesNothingAway) {
  char* const at = map(size_);
  const int fd = open_it();
  const int write_only = ::open("/dev/null", O_WRONLY | O_CLOEXEC);
  struct refused {
    std::size_t length;
    int flags, fd;
    off_t offset;
  };
  const refused all[] = {
      {whole_, MAP_PRIVATE, -1, 0}, {whole_, MAP_PRIVATE, fd, 1}, {whole_, MAP_SHARED, write_only, 0},
      {whole_, 0, fd, 0},           {0, MAP_PRIVATE, fd, 0},
  };
  for (const refused& one : all) {
    EXPECT_EQ(still_mmap(at, one.length, PROT_READ, one.flags | MAP_FIXED, one.fd, one.offset), MAP_FAILED);
    ASSERT_TRUE(is_readable(at)) << &one - all;
    EXPECT_TRUE(shows(at, 0, size_)) << &one - all;
    EXPECT_TRUE(is_ours(at, whole_)) << &one - all;
  }
  if (!watched_by_tsan) {
    EXPECT_EQ(still_munmap(at, std::size_t{1} << 62), -1);
    EXPECT_EQ(errno, EINVAL);
  }
  EXPECT_EQ(still_munmap(at + 1, whole_), -1);
  EXPECT_EQ(errno, EINVAL);
  EXPECT_EQ(still_munmap(at, 0), -1);
  EXPECT_EQ(errno, EINVAL);
  EXPECT_TRUE(is_ours(at, whole_));
  ASSERT_TRUE(is_readable(at));
  EXPECT_TRUE(shows(at, 0, size_));
  ::close(write_only);
  ::close(fd);
  EXPECT_EQ(still_munmap(at, size_), 0);
}

TEST_P(Mmap, AForkedChildHasTheBytes) {
  char* const at = map(size_);
  char* const mine = map(size_, PROT_READ | PROT_WRITE);
  char* const changed = map(size_);
  ASSERT_EQ(still_mprotect(changed, size_, PROT_READ | PROT_WRITE), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    int wrong = 0;
    wrong |= std::memcmp(at, content_.data(), size_) == 0 ? 0 : 1;
    wrong |= std::memcmp(mine, content_.data(), size_) == 0 ? 0 : 2;
    std::memset(mine, 'c', size_);
    std::memset(changed, 'c', size_);
    wrong |= still_munmap(at + page, page) == 0 && std::memcmp(at, content_.data(), page) == 0 ? 0 : 4;
    wrong |= still_munmap(at, size_) == 0 && !is_ours(at, whole_) ? 0 : 8;
    wrong |= still_mprotect(mine, page, PROT_READ) == 0 && still_munmap(mine, size_) == 0 ? 0 : 16;
    wrong |= still_munmap(changed, size_) == 0 ? 0 : 32;
    wrong |= memory::charged() == charged_before_ ? 0 : 64;
    if (watched_by_tsan) ::_exit(wrong);  // it bears no new threads here
    // The child may have leases of its own.
    const int fd = open_it();
    void* const again = still_mmap(nullptr, size_, PROT_READ, MAP_SNAPSHOT, fd, 0);
    if (again == MAP_FAILED || std::memcmp(again, content_.data(), size_) != 0 ||
        still_munmap(again, size_) != 0)
      wrong |= 128;
    ::_exit(wrong);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  write_over();
  EXPECT_TRUE(shows(at, 0, size_));
  EXPECT_TRUE(shows(mine, 0, size_));
  EXPECT_TRUE(shows(changed, 0, size_));
  for (char* each : {at, mine, changed}) EXPECT_EQ(still_munmap(each, size_), 0);
}

// What cannot be kept is without access, and no call brings anything else in its place.
TEST_P(Mmap, WhatIsLostStaysLost) {
  if (!leased()) GTEST_SKIP() << "a copy is never lost";
  char* const at = map(size_);
  const std::uint64_t taken = settings::instance().memory_budget - memory::charged();
  ASSERT_TRUE(memory::charge(taken, UINT64_MAX));
  answer([](long number, const long(&a)[6], long& result) {
    result = -ENOSPC;
    return number == SYS_fallocate || (number == SYS_ioctl && a[1] == 0x40049409);  // FICLONE
  });
  write_over();
  answer_no_more();
  memory::discharge(taken);
  EXPECT_FALSE(is_readable(at));
  for (const int protection : {PROT_READ, PROT_READ | PROT_EXEC, PROT_READ | PROT_WRITE}) {
    still_mprotect(at, size_, protection);
    const auto seen = try_read(reinterpret_cast<const std::byte*>(at));
    if (seen) {
      EXPECT_EQ(*seen, std::byte(content_[0])) << "with protection " << protection;
    }
    const auto later = try_read(reinterpret_cast<const std::byte*>(at + middle_));
    if (later) {
      EXPECT_EQ(*later, std::byte(content_[middle_])) << "with protection " << protection;
    }
  }
  EXPECT_EQ(still_mprotect(at, size_, PROT_NONE), 0);
  EXPECT_EQ(still_munmap(at, page), 0);
  still_mprotect(at + page, page, PROT_READ);
  EXPECT_FALSE(is_readable(at + page));
  EXPECT_EQ(still_munmap(at + page, size_ - page), 0);
}

TEST_P(Mmap, OverTheBudgetIsNoMemory) {
  char* const at = leased() ? map(size_) : nullptr;
  const std::uint64_t taken = settings::instance().memory_budget - memory::charged();
  ASSERT_TRUE(memory::charge(taken, UINT64_MAX));
  const int fd = open_it();
  EXPECT_EQ(still_mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_SNAPSHOT, fd, 0), MAP_FAILED);
  EXPECT_EQ(errno, ENOMEM);
  if (at != nullptr) {
    EXPECT_EQ(still_mprotect(at, size_, PROT_READ | PROT_WRITE), -1);
    EXPECT_EQ(errno, ENOMEM);
    EXPECT_EQ(still_munmap(at, page), -1);
    EXPECT_EQ(errno, ENOMEM);
    EXPECT_TRUE(shows(at, 0, size_));
    EXPECT_TRUE(is_ours(at, whole_));
    // A clone keeps it without memory; to be written it would need some.
    write_over();
    if (is_readable(at)) {
      EXPECT_TRUE(shows(at, 0, size_));
      EXPECT_EQ(still_mprotect(at, size_, PROT_READ | PROT_WRITE), -1);
      EXPECT_EQ(errno, ENOMEM);
      EXPECT_TRUE(shows(at, 0, size_));
    }
    EXPECT_EQ(still_munmap(at, size_), 0);
  }
  ::close(fd);
  memory::discharge(taken);
}

// Every call that may fail fails once, at each place where it is made.
TEST_P(Mmap, WhereTheKernelRefusesNothingIsLeftBehind) {
  struct failing {
    long number;
    int error;
  };
  const std::size_t length = whole_ + page;
  still_munmap(map(length), length);
  still_munmap(map(length, PROT_READ | PROT_WRITE), length);
  const int fd = open_it();
  for (const failing& one : {failing{SYS_mmap, ENOMEM},
                             {SYS_memfd_create, EMFILE},
                             {SYS_mprotect, ENOMEM},
                             {SYS_fcntl, EINVAL},
                             {SYS_fcntl, EAGAIN},
                             {SYS_openat, EMFILE},
                             {SYS_pread64, EIO},
                             {SYS_madvise, ENOMEM},
                             {SYS_mlock, ENOMEM},
                             {SYS_statx, EIO},
                             {SYS_lseek, EIO}}) {
    static std::atomic<int> until, met;
    for (const int protection : {PROT_READ, PROT_READ | PROT_WRITE, PROT_NONE}) {
      for (int nth = 0; nth < 40; ++nth) {
        // Others map memory as well (a keeper that tidies up, a sanitizer): what is left behind is so every time.
        int left_behind = 0;
        for (int again = 0; again == left_behind && again < 3; ++again) {
          ASSERT_EQ(live_leases(0), 0u);
          const std::size_t lines = lines_of_maps();
          const pid_t self = ::gettid();
          until = nth;
          met = 0;
          answer([one, self](long number, const long(&a)[6], long& result) {
            if (number != one.number || ::gettid() != self) return false;
            if (number == SYS_fcntl && (a[1] != F_SETLEASE || a[2] != F_RDLCK)) return false;
            if (number == SYS_mmap && (a[3] & MAP_FIXED) != 0 && a[2] == PROT_NONE)
              return false;  // of the undoing
            result = -one.error;
            ++met;
            return until-- == 0;
          });
          errno = 0;
          void* const at = still_mmap(nullptr, length, protection, MAP_SNAPSHOT | MAP_LOCKED, fd, 0);
          const int error = errno;
          answer_no_more();
          if (at == MAP_FAILED) {
            EXPECT_TRUE(error > 0 && error < 4096) << error << " call " << one.number << " nth " << nth;
            EXPECT_EQ(memory::charged(), charged_before_) << "call " << one.number << " nth " << nth;
            left_behind += lines_of_maps() != lines ? 1 : 0;
          } else {
            if (protection != PROT_NONE) {
              EXPECT_TRUE(shows(static_cast<char*>(at), 0, size_));
            }
            EXPECT_TRUE(is_ours(at, length));
            EXPECT_EQ(still_munmap(at, length), 0);
            EXPECT_FALSE(is_ours(at, length));
          }
        }
        EXPECT_LT(left_behind, 3) << "call " << one.number << " nth " << nth << " prot " << protection;
        if (met <= nth) break;  // no more of them
      }
    }
  }
  ::close(fd);
}

TEST_P(Mmap, AFixedOneThatFailsLeavesNoHole) {
  auto* const arena = static_cast<char*>(reserve_pages(whole_ + 2 * page, PROT_READ | PROT_WRITE));
  const int fd = open_it();
  const pid_t self = ::gettid();
  answer([self](long number, const long(&)[6], long& result) {
    result = -EIO;
    return ::gettid() == self && number == SYS_pread64;
  });
  void* const at = still_mmap(arena + page, size_, PROT_READ | PROT_WRITE, MAP_SNAPSHOT | MAP_FIXED, fd, 0);
  answer_no_more();
  EXPECT_EQ(at, MAP_FAILED);
  EXPECT_EQ(errno, EIO);
  // Another thread's mapping must not land in what the caller had reserved.
  unsigned char there;
  for (std::size_t i = 0; i < whole_ + 2 * page; i += page)
    EXPECT_EQ(::mincore(arena + i, page, &there), 0) << i;
  EXPECT_FALSE(is_ours(arena, whole_ + 2 * page));
  ::close(fd);
  ::munmap(arena, whole_ + 2 * page);
}

// It is shorter than it was a moment ago: tried again at the same addresses, which stay taken.
TEST_P(Mmap, AFileThatShrinksMeanwhileLeavesNoHole) {
  auto* const arena = static_cast<char*>(reserve_pages(whole_));
  const int fd = open_it();
  static std::atomic<int> looks, holes;
  looks = holes = 0;
  const pid_t self = ::gettid();
  const std::string path = path_;
  answer([self, path, arena](long number, const long(&a)[6], long&) {
    if (::gettid() != self) return false;
    if (number == SYS_munmap && a[0] == reinterpret_cast<long>(arena)) ++holes;
    if (number == SYS_memfd_create || number == SYS_openat) {
      if (looks++ == 0) {
        EXPECT_EQ(::truncate(path.c_str(), page), 0);
      }
    }
    return false;
  });
  void* const at = still_mmap(arena, size_, PROT_READ, MAP_SNAPSHOT | MAP_FIXED, fd, 0);
  answer_no_more();
  ASSERT_EQ(at, arena) << std::strerror(errno);
  EXPECT_GT(looks, 0);
  EXPECT_EQ(holes, 0);
  EXPECT_TRUE(shows(arena, 0, page));
  EXPECT_FALSE(is_readable(arena + page));
  ::close(fd);
  EXPECT_EQ(still_munmap(arena, whole_), 0);
}

class MmapArguments : public MmapOn, public testing::WithParamInterface<const char*> {
 protected:
  void SetUp() override {
    enter(GetParam());
    if (!IsSkipped()) make(pattern(3 * page + 10));
  }
};
INSTANTIATE_TEST_SUITE_P(On, MmapArguments, testing::Values("EXT4", "TMPFS", "XFS", "BTRFS"),
                         [](const auto& one) { return std::string(one.param); });

TEST_P(MmapArguments, AreRefusedAsByTheKernel) {
  if (watched_by_tsan) GTEST_SKIP() << "addresses that the sanitizer does not bear";
  const std::string folder = path_.substr(0, path_.rfind('/'));
  int ends[2];
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  const int fd = open_it(),
            write_only = ::open((path_ + ".other").c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600),
            by_path = open_it(O_PATH), directory = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  constexpr std::size_t huge = std::size_t{1} << 62;
  struct asked {
    const char* what;
    void* where;
    std::size_t length;
    int protection, flags, fd;
    off_t offset;
  };
  const asked all[] = {
      {"plain", nullptr, page, PROT_READ, 0, fd, 0},
      {"length 0", nullptr, 0, PROT_READ, 0, fd, 0},
      {"length 0, bad descriptor", nullptr, 0, PROT_READ, 0, -1, 0},
      {"offset 1", nullptr, page, PROT_READ, 0, fd, 1},
      {"offset 1, bad descriptor", nullptr, page, PROT_READ, 0, -1, 1},
      {"offset -1", nullptr, page, PROT_READ, 0, fd, -1},
      {"offset -4096", nullptr, page, PROT_READ, 0, fd, -4096},
      {"offset behind the end", nullptr, page, PROT_READ, 0, fd, 100 * page},
      {"offset at the end of numbers", nullptr, 2 * page, PROT_READ, 0, fd, INT64_MAX - 4095},
      {"length of all numbers", nullptr, SIZE_MAX, PROT_READ, 0, fd, 0},
      {"length of nearly all numbers", nullptr, SIZE_MAX - 8191, PROT_READ, 0, fd, 0},
      {"length larger than an address space", nullptr, huge, PROT_READ, 0, fd, 0},
      {"length and offset overflow", nullptr, huge, PROT_READ, 0, fd, INT64_MAX - 4095},
      {"descriptor -1", nullptr, page, PROT_READ, 0, -1, 0},
      {"descriptor 9999", nullptr, page, PROT_READ, 0, 9999, 0},
      {"O_PATH", nullptr, page, PROT_READ, 0, by_path, 0},
      {"O_WRONLY", nullptr, page, PROT_READ, 0, write_only, 0},
      {"O_WRONLY, no access", nullptr, page, PROT_NONE, 0, write_only, 0},
      {"directory", nullptr, page, PROT_READ, 0, directory, 0},
      {"pipe", nullptr, page, PROT_READ, 0, ends[0], 0},
      {"pipe's other end", nullptr, page, PROT_READ, 0, ends[1], 0},
      {"fixed at 1", reinterpret_cast<void*>(0x700000000001), page, PROT_READ, MAP_FIXED, fd, 0},
      {"fixed at 1, no replace", reinterpret_cast<void*>(0x700000000001), page, PROT_READ,
       MAP_FIXED_NOREPLACE, fd, 0},
      {"hint not aligned", reinterpret_cast<void*>(0x700000000001), page, PROT_READ, 0, fd, 0},
      {"fixed outside", reinterpret_cast<void*>(0x7ffffffffffff000), page, PROT_READ, MAP_FIXED, fd, 0},
      {"huge pages", nullptr, page, PROT_READ, MAP_HUGETLB, fd, 0},
      {"32 bits", nullptr, page, PROT_READ, MAP_32BIT, fd, 0},
  };
  for (const asked& one : all) {
    const int kernels = error_of_map(
        ::mmap(one.where, one.length, one.protection, MAP_PRIVATE | one.flags, one.fd, one.offset),
        one.length);
    const int ours = error_of_map(
        still_mmap(one.where, one.length, one.protection, MAP_SNAPSHOT | one.flags, one.fd, one.offset),
        one.length);
    EXPECT_EQ(ours, kernels) << one.what;
  }
  // What the kernel maps and we do not: no regular file.
  const int zero = ::open("/dev/zero", O_RDONLY | O_CLOEXEC);
  EXPECT_EQ(error_of_map(still_mmap(nullptr, page, PROT_READ, MAP_SNAPSHOT, zero, 0), page), ENODEV);
  EXPECT_EQ(error_of_map(still_mmap(nullptr, page, PROT_READ, MAP_SNAPSHOT | MAP_ANONYMOUS, -1, 0), page),
            EINVAL);
  for (const int each : {fd, write_only, by_path, directory, ends[0], ends[1], zero}) ::close(each);
  ::unlink((path_ + ".other").c_str());
}

TEST_P(MmapArguments, LeaveErrnoAloneWhereTheySucceed) {
  errno = 77;
  char* const at = map(page);
  still_mprotect(at, page, PROT_READ);
  still_madvise(at, page, MADV_DONTNEED);
  still_munmap(at, page);
  const int fd = open_it();
  errno = 77;
  void* const again = still_mmap(nullptr, page, PROT_READ, MAP_SNAPSHOT, fd, 0);
  EXPECT_EQ(errno, 77);
  EXPECT_EQ(still_mprotect(again, page, PROT_READ | PROT_WRITE), 0);
  EXPECT_EQ(still_munmap(again, page), 0);
  EXPECT_EQ(errno, 77);
  ::close(fd);
}

TEST_P(MmapArguments, AnEmptyFileAndWhatLiesBehindTheEnd) {
  char* at = map(2 * page, PROT_READ, 100 * page);
  EXPECT_FALSE(is_readable(at));
  EXPECT_FALSE(is_readable(at + page));
  EXPECT_EQ(still_mprotect(at, page, PROT_READ | PROT_WRITE), 0);
  EXPECT_FALSE(is_readable(at));
  EXPECT_EQ(still_munmap(at, 2 * page), 0);
  EXPECT_TRUE(is_hole(at, 2 * page));
  make("");
  at = map(page);
  std::ofstream(path_) << "something";
  EXPECT_FALSE(is_readable(at));
  EXPECT_EQ(still_munmap(at, page), 0);
  at = map(page, PROT_READ | PROT_WRITE);
  EXPECT_TRUE(shows(at, 0, 0));
  EXPECT_EQ(still_munmap(at, page), 0);
}

TEST_P(MmapArguments, OtherTypesAndOtherMemoryPassOn) {
  const int fd = open_it(O_RDWR);
  auto* const shared =
      static_cast<char*>(still_mmap(nullptr, page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
  ASSERT_NE(shared, MAP_FAILED);
  shared[0] = 'S';
  EXPECT_EQ(file_now()[0], 'S');
  EXPECT_FALSE(is_ours(shared, page));
  void* const anonymous =
      still_mmap(nullptr, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(anonymous, MAP_FAILED);
  EXPECT_EQ(still_mprotect(anonymous, page, PROT_NONE), 0);
  EXPECT_FALSE(is_readable(anonymous));
  EXPECT_EQ(still_mremap(anonymous, page, page, 0, nullptr), anonymous);
  EXPECT_EQ(still_munmap(anonymous, 2 * page), 0);
  EXPECT_EQ(still_munmap(shared, page), 0);
  ::close(fd);
}

// Several threads at one file and one arena each, while a writer comes again and again.
TEST_P(MmapArguments, ThreadsAndAWriter) {
  constexpr std::size_t bytes = (std::size_t{1} << 20) + 100;
  constexpr int rounds = 60, threads = 4;
  make(std::string(bytes, 'a'));
  std::atomic<bool> stop{false};
  std::atomic<int> wrong{0}, held{0};
  std::thread writer([&] {
    for (char next = 'b'; !stop; next = next == 'z' ? 'a' : static_cast<char>(next + 1)) {
      const int fd = open_it(O_WRONLY);
      // One byte a file state, so that bytes of two states in one snapshot are told.
      const std::string other(bytes, next);
      if (::pwrite(fd, other.data(), bytes, 0) != static_cast<ssize_t>(bytes)) ++wrong;
      ::close(fd);
      ::usleep(2000);
    }
  });
  const auto work = [&](unsigned seed) {
    const auto all_are = [](const char* at, std::size_t from, std::size_t to, char what) {
      for (std::size_t i = from; i < to; i += 61)
        if (at[i] != what) return false;
      return true;
    };
    for (int round = 0; round < rounds; ++round) {
      const int fd = open_it();
      void* const result = still_mmap(nullptr, bytes, PROT_READ, MAP_SNAPSHOT, fd, 0);
      const int error = errno;
      ::close(fd);
      if (result == MAP_FAILED) {
        if (error != EAGAIN && error != ENODEV) ++wrong;
        continue;
      }
      ++held;
      auto* const at = static_cast<char*>(result);
      const char what = at[0];
      const std::size_t whole = pages_of(bytes), cut = static_cast<std::size_t>(1 + ::rand_r(&seed) % 200) * page;
      std::size_t gone_from = 0, gone_to = 0;
      if (!all_are(at, 0, bytes, what)) ++wrong;
      switch (::rand_r(&seed) % 4) {
        case 0:
          gone_to = cut;
          if (still_munmap(at, cut) != 0 || !all_are(at, cut, bytes, what)) ++wrong;
          break;
        case 1:
          gone_from = page;
          gone_to = page + cut;
          if (still_munmap(at + page, cut) != 0 || !all_are(at, cut + page, bytes, what)) ++wrong;
          break;
        case 2:
          if (still_mprotect(at + cut, page, PROT_READ | PROT_WRITE) != 0) ++wrong;
          at[cut] = '!';
          if (!all_are(at, 0, cut, what)) ++wrong;
          break;
        default:
          if (still_madvise(at, bytes, MADV_DONTNEED) != 0 || !all_are(at, 0, bytes, what)) ++wrong;
      }
      // What was unmapped is a place where other threads' mappings may be by now.
      if (gone_to > gone_from) {
        if (gone_from > 0 && still_munmap(at, gone_from) != 0) ++wrong;
        if (gone_to < whole && still_munmap(at + gone_to, whole - gone_to) != 0) ++wrong;
      } else if (still_munmap(at, bytes) != 0) {
        ++wrong;
      }
    }
  };
  std::vector<std::thread> all;
  for (unsigned i = 0; i < threads; ++i) all.emplace_back(work, i + 1);
  for (std::thread& each : all) each.join();
  stop = true;
  writer.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_GT(held, 0);
}

// Threads at different parts of one snapshot: each call finds it registered, whatever the others do.
TEST_P(MmapArguments, ThreadsAtPartsOfOneSnapshot) {
  constexpr std::size_t bytes = std::size_t{1} << 20, parts = 4;
  make(pattern(bytes));
  for (int round = 0; round < 300; ++round) {
    char* const at = map(bytes);
    ASSERT_NE(at, nullptr);
    std::atomic<unsigned> ready{0};
    std::vector<std::thread> all;
    for (std::size_t i = 0; i < parts; ++i) {
      all.emplace_back([&, i] {
        char* const mine = at + i * (bytes / parts);
        ++ready;
        while (ready < parts) {
        }
        for (int turn = 0; turn < 3; ++turn) still_madvise(mine, page, MADV_DONTNEED);
        if (i % 2 == 0) still_mprotect(mine, page, PROT_NONE);
        still_munmap(mine, bytes / parts);
      });
    }
    for (std::thread& each : all) each.join();
    ASSERT_FALSE(is_ours(at, bytes)) << "round " << round;
    ASSERT_EQ(live_leases(0), 0u) << "round " << round;
    ASSERT_EQ(memory::charged(), charged_before_) << "round " << round;
  }
}

// One call over several mappings, while others wait for single ones.
TEST_P(MmapArguments, ThreadsAtPartsOfSeveralSnapshots) {
  constexpr std::size_t bytes = std::size_t{1} << 20, count = 3;
  make(pattern(bytes));
  auto* const arena = static_cast<char*>(reserve_pages(count * bytes));
  for (int round = 0; round < 200; ++round) {
    for (std::size_t i = 0; i < count; ++i)
      ASSERT_EQ(map(bytes, PROT_READ, 0, MAP_FIXED, arena + i * bytes), arena + i * bytes);
    std::atomic<unsigned> ready{0};
    const auto meet = [&] {
      ++ready;
      while (ready < 3) {
      }
    };
    // All but the first page of the first and the last page of the last.
    std::thread wide([&] {
      meet();
      still_mprotect(arena + page, count * bytes - 2 * page, PROT_READ | PROT_EXEC);
    });
    std::thread single([&] {
      meet();
      still_mprotect(arena, page, PROT_NONE);
    });
    std::thread advising([&] {
      meet();
      for (int turn = 0; turn < 20; ++turn) still_madvise(arena, count * bytes, MADV_DONTNEED);
    });
    wide.join();
    single.join();
    advising.join();
    EXPECT_EQ(live_leases(0), 0u);
    ASSERT_TRUE(shows(arena + page, page, bytes - page));
    ASSERT_TRUE(shows(arena + bytes, 0, bytes));
    ASSERT_TRUE(shows(arena + 2 * bytes, 0, bytes));
    ASSERT_EQ(still_mmap(arena, count * bytes, PROT_NONE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0),
              arena);
    ASSERT_FALSE(is_ours(arena, count * bytes));
    ASSERT_EQ(memory::charged(), charged_before_);
  }
  ::munmap(arena, count * bytes);
}

// A child must not wait for a thread that it does not have.
TEST_P(MmapArguments, ForkWhileAnotherThreadIsAtARange) {
  constexpr std::size_t bytes = std::size_t{1} << 20;
  make(pattern(bytes));
  char* const at = map(bytes);
  static std::atomic<bool> hang;
  static std::atomic<bool> there;
  hang = true;
  there = false;
  answer([](long number, const long(&a)[6], long&) {
    if (number == SYS_mprotect && a[1] == static_cast<long>(3 * page)) {
      there = true;
      while (hang) ::usleep(500);
    }
    return false;
  });
  std::thread other([&] { still_mprotect(at, 3 * page, PROT_NONE); });
  while (!there) ::usleep(500);
  std::thread release([] {
    ::usleep(100'000);
    hang = false;
  });
  const pid_t child = ::fork();
  if (child == 0) {
    answer_no_more();
    ::alarm(10);
    ::_exit(still_munmap(at, bytes) == 0 && !is_ours(at, bytes) ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  other.join();
  release.join();
  EXPECT_EQ(still_munmap(at, bytes), 0);
}

// What is moved leaves its addresses free, and a snapshot that lands there is another's.
TEST_P(MmapArguments, ASnapshotMayLandWhereOneWasMovedAway) {
  constexpr std::size_t bytes = std::size_t{1} << 20;
  make(pattern(bytes));
  char* const at = map(bytes);
  auto* const place = static_cast<char*>(reserve_pages(bytes));
  static std::atomic<void*> landed;
  landed = nullptr;
  static std::atomic<bool> once;
  once = true;
  const std::string path = path_;
  answer([at, path](long number, const long(&a)[6], long& result) {
    if (number != SYS_mremap || a[0] != reinterpret_cast<long>(at) || !once.exchange(false)) return false;
    result = testing_support::real(number, a);
    std::thread other([&] {
      const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
      landed = still_mmap(at, bytes, PROT_READ, MAP_SNAPSHOT, fd, 0);
      ::close(fd);
    });
    // It may have to wait for this call's end.
    other.detach();
    ::usleep(50'000);
    return true;
  });
  ASSERT_EQ(still_mremap(at, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, place), place);
  while (landed == nullptr) ::usleep(500);
  answer_no_more();
  auto* const other = static_cast<char*>(landed.load());
  ASSERT_NE(other, MAP_FAILED);
  EXPECT_TRUE(is_ours(other, bytes));
  ASSERT_TRUE(is_readable(other));
  EXPECT_TRUE(shows(other, 0, bytes));
  write_over();
  EXPECT_TRUE(shows(other, 0, bytes));
  EXPECT_TRUE(shows(place, 0, bytes));
  EXPECT_EQ(still_munmap(other, bytes), 0);
  EXPECT_EQ(still_munmap(place, bytes), 0);
}

}  // namespace
}  // namespace stillmap
