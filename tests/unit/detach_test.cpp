// SPDX-License-Identifier: Apache-2.0
//
// What takes the place of a leased file's pages when a writer comes: a clone, memory, a private file, and
// what happens where one of them is not to be had.
#include <errno.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/fs.h>
#include <stillmap/stillmap.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>
#include <thread>
#include <utility>

#include "fault_guard.hpp"
#include "live_leases.hpp"
#include "memory.hpp"
#include "reserve.hpp"
#include "settings.hpp"
#include "stand_in.hpp"

namespace stillmap {
namespace {

using testing_support::answer;
using testing_support::answer_no_more;
using testing_support::live_leases;
using testing_support::try_read;

constexpr std::size_t bytes = (std::size_t{20} << 20) + 100;

bool is_clone(long number, const long (&a)[6]) {
  return number == SYS_ioctl && static_cast<unsigned long>(a[1]) == FICLONE;
}

class Detach : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const char* const folder = std::getenv((std::string("STILLMAP_TEST_") + GetParam()).c_str());
    if (folder == nullptr) GTEST_SKIP() << "no such file system here";
    path_ = std::string(folder) + "/detach";
    content_.resize(bytes);
    for (std::size_t i = 0; i < bytes; ++i) content_[i] = static_cast<char>((i * 2654435761u) >> 13);
    std::ofstream(path_, std::ios::binary) << content_;
    const int fd = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC);
    ::fdatasync(fd);  // a clone need not write it back
    ::close(fd);
    charged_before_ = memory::charged();
    open();
    clones_ = std::string(GetParam()) == "XFS" || std::string(GetParam()) == "BTRFS";
  }
  void TearDown() override {
    answer_no_more();
    if (snapshot_ != nullptr) still_close(snapshot_);
    EXPECT_EQ(memory::charged(), charged_before_);
    EXPECT_EQ(live_leases(0), 0u);
    ::unlink(path_.c_str());
  }
  void open() {
    still_options options{};
    options.size = sizeof options;
    options.backing = STILL_LEASED;
    ASSERT_EQ(still_open(path_.c_str(), &options, &snapshot_), 0) << still_message();
    ASSERT_EQ(std::memcmp(still_data(snapshot_), content_.data(), bytes), 0);
  }
  // The whole of it, through a descriptor that waits for the detach.
  void write_over() const {
    const int fd = ::open(path_.c_str(), O_WRONLY | O_CLOEXEC);
    ASSERT_GE(fd, 0);
    const std::string other(bytes, '#');
    EXPECT_EQ(::pwrite(fd, other.data(), bytes, 0), static_cast<ssize_t>(bytes));
    ::close(fd);
  }
  void expect_bytes() const {
    EXPECT_EQ(still_current(snapshot_), STILL_PRIVATE);
    EXPECT_EQ(std::memcmp(still_data(snapshot_), content_.data(), bytes), 0);
  }

  std::string path_, content_;
  still_snapshot* snapshot_ = nullptr;
  std::uint64_t charged_before_ = 0;
  bool clones_ = false;
};
INSTANTIATE_TEST_SUITE_P(On, Detach, testing::Values("EXT4", "TMPFS", "XFS", "BTRFS"),
                         [](const auto& one) { return std::string(one.param); });

TEST_P(Detach, KeepsEveryByte) {
  write_over();
  expect_bytes();
}

TEST_P(Detach, TakesMemoryWhereTheFileSystemWillNotClone) {
  answer([](long number, const long(&a)[6], long& result) {
    result = -EOPNOTSUPP;
    return is_clone(number, a);
  });
  write_over();
  expect_bytes();
  EXPECT_GE(still_private_bytes(snapshot_), bytes);
}

TEST_P(Detach, DoesNotWaitForACloneThatHangs) {
  static std::atomic<bool> hang;
  static std::atomic<int> hanging;
  hang = true;
  hanging = 0;
  answer([](long number, const long(&a)[6], long&) {
    if (is_clone(number, a)) {
      ++hanging;
      while (hang) ::usleep(1000);
      --hanging;
    }
    return false;
  });
  write_over();
  expect_bytes();
  EXPECT_LE(hanging, clones_ ? 1 : 0);
  EXPECT_GE(still_private_bytes(snapshot_), bytes);
  hang = false;
  while (hanging != 0) ::usleep(1000);  // it clones the changed file, and nobody wants that any more
  expect_bytes();
}

// Two mappings under one lease: the clone of one is there, that of the other is given up.
TEST_P(Detach, KeepsTheCloneThatIsThereWhereAnotherHangs) {
  static std::atomic<bool> hang;
  static std::atomic<int> clones, hanging;
  hang = true;
  clones = hanging = 0;
  still_snapshot* part = nullptr;
  still_options options{};
  options.size = sizeof options;
  options.backing = STILL_LEASED;
  options.offset = 4096;
  ASSERT_EQ(still_open(path_.c_str(), &options, &part), 0) << still_message();
  answer([](long number, const long(&a)[6], long&) {
    if (is_clone(number, a) && clones++ == 1) {
      ++hanging;
      while (hang) ::usleep(1000);
      --hanging;
    }
    // The copy that follows takes a while as well.
    if (number == SYS_pread64 && hanging != 0 && a[2] > 1'000'000) ::usleep(20'000);
    return false;
  });
  write_over();
  hang = false;
  expect_bytes();
  EXPECT_EQ(still_current(part), STILL_PRIVATE);
  EXPECT_EQ(std::memcmp(still_data(part), content_.data() + 4096, bytes - 4096), 0);
  while (hanging != 0) ::usleep(1000);
  still_close(part);
}

TEST_P(Detach, ACloneOfAnotherSizeIsNotTaken) {
  answer([](long number, const long(&a)[6], long& result) {
    if (!is_clone(number, a)) return false;
    result = testing_support::real(SYS_ftruncate, {a[0], 4096, 0, 0, 0, 0});
    return true;
  });
  write_over();
  expect_bytes();
}

TEST_P(Detach, LeavesItsMemoryToTheNext) {
  answer([](long number, const long(&a)[6], long& result) {
    result = -EOPNOTSUPP;
    return is_clone(number, a);
  });
  write_over();  // with '#'
  expect_bytes();
  const auto before = reinterpret_cast<std::uintptr_t>(still_data(snapshot_));
  still_close(std::exchange(snapshot_, nullptr));
  if (reserve::kept_bytes() == 0) GTEST_SKIP() << "the keeper went to sleep before: nothing is kept then";
  std::ofstream(path_, std::ios::binary) << content_;
  open();
  ::unlink(path_.c_str());
  const std::uint64_t kept = reserve::kept_bytes();
  // A piece of its very size serves where the new mapping lies as the old one did, modulo 2 MiB.
  constexpr std::uintptr_t huge_bytes = std::uintptr_t{2} << 20;
  const bool fits = (before - reinterpret_cast<std::uintptr_t>(still_data(snapshot_))) % huge_bytes == 0;
  ASSERT_EQ(still_detach(snapshot_), 0);
  expect_bytes();
  if (kept != 0 && fits) {
    EXPECT_LT(reserve::kept_bytes(), kept);
  }
  // Nothing of what the memory held before shows behind the end.
  const auto* const data = static_cast<const char*>(still_data(snapshot_));
  for (std::size_t at = bytes; at % 4096 != 0; ++at) ASSERT_EQ(data[at], 0) << at;
}

TEST_P(Detach, MayBeAskedFor) {
  still_snapshot* const whole = still_share(snapshot_);
  ASSERT_EQ(still_detach(snapshot_), 0);
  EXPECT_EQ(live_leases(0), 0u);
  expect_bytes();
  EXPECT_EQ(still_detach(whole), 0);
  std::ofstream(path_, std::ios::binary) << "gone";
  expect_bytes();
  still_close(whole);
}

TEST_P(Detach, MayBeAskedForEverywhere) {
  still_snapshot* part = nullptr;
  still_options options{};
  options.size = sizeof options;
  options.backing = STILL_LEASED;
  options.offset = 4096;
  ASSERT_EQ(still_open(path_.c_str(), &options, &part), 0) << still_message();
  ASSERT_EQ(still_detach(nullptr), 0);
  EXPECT_EQ(live_leases(0), 0u);
  expect_bytes();
  EXPECT_EQ(still_current(part), STILL_PRIVATE);
  EXPECT_EQ(std::memcmp(still_data(part), content_.data() + 4096, bytes - 4096), 0);
  still_close(part);
  EXPECT_EQ(still_detach(nullptr), 0);
}

// The child would have the memory for nothing, and never give it back.
TEST_P(Detach, UnderWayIsNotInherited) {
  static std::atomic<const std::byte*> target;
  static std::atomic<bool> hang;
  target = nullptr;
  hang = true;
  answer([](long number, const long(&a)[6], long& result) {
    result = -EOPNOTSUPP;
    if (is_clone(number, a)) return true;
    if (number == SYS_pread64 && a[2] > 1'000'000) {
      target = reinterpret_cast<const std::byte*>(a[1]);
      while (hang) ::usleep(1000);
    }
    return false;
  });
  std::thread writer([this] { write_over(); });
  while (target.load() == nullptr) ::usleep(1000);
  // A plain clone(2) of the process: the library's handlers, which bring all to rest first, do not run.
  const auto child = static_cast<pid_t>(::syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0));
  if (child == 0) ::_exit(kernel::is_resident(const_cast<std::byte*>(target.load())) ? 1 : 0);
  int status = 0;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  hang = false;
  writer.join();
  expect_bytes();
  // Once in place it is as any other memory.
  const auto* const first = static_cast<const std::byte*>(still_data(snapshot_));
  const pid_t later = ::fork();
  if (later == 0) ::_exit(std::memcmp(first, content_.data(), bytes) == 0 ? 0 : 1);
  EXPECT_EQ(::waitpid(later, &status, 0), later);
  EXPECT_EQ(status, 0);
}

// All of the process's budget is taken.
class DetachOverBudget : public Detach {
 protected:
  void SetUp() override {
    Detach::SetUp();
    if (IsSkipped()) return;
    taken_ = settings::instance().memory_budget - memory::charged();
    ASSERT_TRUE(memory::charge(taken_, UINT64_MAX));
  }
  void TearDown() override {
    memory::discharge(taken_);
    Detach::TearDown();
  }
  std::uint64_t taken_ = 0;
};
INSTANTIATE_TEST_SUITE_P(On, DetachOverBudget, testing::Values("EXT4", "TMPFS", "XFS", "BTRFS"),
                         [](const auto& one) { return std::string(one.param); });

TEST_P(DetachOverBudget, TakesNoMemory) {
  write_over();
  expect_bytes();
  EXPECT_EQ(still_private_bytes(snapshot_), 0u);
}

TEST_P(DetachOverBudget, ThatIsAskedForLeavesTheLeaseAlone) {
  EXPECT_EQ(still_detach(snapshot_), STILL_ERROR_OVER_BUDGET);
  EXPECT_EQ(still_current(snapshot_), STILL_SHARED);
  EXPECT_EQ(still_detach(nullptr), STILL_ERROR_OVER_BUDGET);
  EXPECT_EQ(live_leases(1), 1u);
}

TEST_P(DetachOverBudget, LosesWhatNoDiskWillTakeAndChangesNothing) {
  answer([](long number, const long(&a)[6], long& result) {
    result = -ENOSPC;
    return number == SYS_fallocate || is_clone(number, a);
  });
  write_over();
  EXPECT_EQ(still_current(snapshot_), STILL_LOST);
  const auto* const data = static_cast<const std::byte*>(still_data(snapshot_));
  for (std::size_t at = 0; at < bytes; at += 4096) EXPECT_FALSE(try_read(data + at)) << at;
}

}  // namespace
}  // namespace stillmap
