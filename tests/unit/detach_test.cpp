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
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>
#include <thread>

#include "fault_guard.hpp"
#include "live_leases.hpp"
#include "memory.hpp"
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
    still_options options{};
    options.size = sizeof options;
    options.backing = STILL_LEASED;
    ASSERT_EQ(still_open(path_.c_str(), &options, &snapshot_), 0) << still_message();
    ASSERT_EQ(std::memcmp(still_data(snapshot_), content_.data(), bytes), 0);
    clones_ = std::string(GetParam()) == "XFS" || std::string(GetParam()) == "BTRFS";
  }
  void TearDown() override {
    answer_no_more();
    if (snapshot_ != nullptr) still_close(snapshot_);
    EXPECT_EQ(memory::charged(), charged_before_);
    EXPECT_EQ(live_leases(0), 0u);
    ::unlink(path_.c_str());
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

TEST_P(Detach, ACloneOfAnotherSizeIsNotTaken) {
  answer([](long number, const long(&a)[6], long& result) {
    if (!is_clone(number, a)) return false;
    result = testing_support::real(SYS_ftruncate, {a[0], 4096, 0, 0, 0, 0});
    return true;
  });
  write_over();
  expect_bytes();
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
