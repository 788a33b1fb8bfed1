// SPDX-License-Identifier: Apache-2.0
//
// The warden when the kernel says no. Calls are answered in the kernel's place (kernel::interpose), so that
// what hardly ever happens happens here: a forced break, no memory for the copy, a descriptor that becomes
// another file while it is read, storage that hangs. Each time the bytes must be the old ones or not there at
// all.
#include "warden/warden.hpp"

#include <errno.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <stillmap/stillmap.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <deque>
#include <fstream>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "fault_guard.hpp"
#include "linux/kernel.hpp"
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
using testing_support::real;
using testing_support::try_read;

bool is_release(long number, const long (&a)[6]) {
  return number == SYS_fcntl && a[1] == F_SETLEASE && a[2] == F_UNLCK;
}

class Warden : public testing::Test {
 protected:
  static constexpr std::size_t bytes = std::size_t{40} << 20;  // ten pieces

  void SetUp() override {
    const char* const folder = std::getenv("STILLMAP_TEST_EXT4");
    if (folder == nullptr) GTEST_SKIP() << "no ext4 of our own";
    path_ = std::string(folder) + "/warden";
    fill('a');
    reserve::shut();  // what an earlier test left would do where there is no memory to be had
    reserve::open();
    charged_before_ = memory::charged();
  }
  void TearDown() override {
    answer_no_more();
    if (snapshot_ != nullptr) still_close(snapshot_);
    EXPECT_EQ(memory::charged(), charged_before_);
    EXPECT_EQ(live_leases(0), 0u);
    ::unlink(path_.c_str());
  }
  void fill(char with) {
    const std::string content(bytes, with);
    std::ofstream(path_, std::ios::binary) << content;
  }
  void open_leased(std::function<void(still_options&)> change = {}) {
    still_options options{};
    options.size = sizeof options;
    options.backing = STILL_LEASED;
    if (change) change(options);
    ASSERT_EQ(still_open(path_.c_str(), &options, &snapshot_), 0) << still_message();
    data_ = static_cast<const std::byte*>(still_data(snapshot_));
    EXPECT_EQ(data_[0], std::byte('a'));  // so that a page is mapped
  }
  // Overwrites the file from a child process; returns when it is through.
  void write_over() {
    const pid_t child = ::vfork();
    if (child == 0) {
      ::execlp("sh", "sh", "-c",
               "tr '\\0' b < /dev/zero | head -c 41943040 | dd of=\"$0\" bs=1M conv=notrunc status=none",
               path_.c_str(), static_cast<char*>(nullptr));
      ::_exit(127);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_EQ(status, 0);
  }
  // Every page: the old byte, or a fault. Returns how many faulted.
  std::size_t faults() {
    std::size_t count = 0;
    for (std::size_t at = 0; at < bytes; at += 4096) {
      const auto byte = try_read(data_ + at);
      if (!byte) {
        ++count;
      } else {
        EXPECT_EQ(*byte, std::byte('a')) << "a changed byte at " << at;
      }
    }
    return count;
  }

  std::string path_;
  still_snapshot* snapshot_ = nullptr;
  const std::byte* data_ = nullptr;
  std::uint64_t charged_before_ = 0;
};

TEST_F(Warden, KeepsEveryByteWhenAWriterComes) {
  open_leased();
  write_over();
  EXPECT_EQ(still_current(snapshot_), STILL_PRIVATE);
  EXPECT_EQ(faults(), 0u);
  EXPECT_EQ(still_private_bytes(snapshot_), bytes);
}

// Between F_SETLEASE and the end of the open: the kernel holds the writer back as well.
TEST_F(Warden, KeepsEveryByteWhenAWriterComesWhileTheLeaseIsSetUp) {
  static std::atomic<bool> came;
  static std::string path;
  came = false;
  path = path_;
  answer([](long number, const long(&a)[6], long& result) {
    if (number != SYS_fcntl || a[1] != F_GETLEASE || came.exchange(true)) return false;
    const int fd = ::open(path.c_str(), O_WRONLY | O_NONBLOCK | O_CLOEXEC);
    EXPECT_EQ(fd, -1);
    EXPECT_EQ(errno, EAGAIN);
    result = real(number, a);
    return true;
  });
  open_leased();
  EXPECT_TRUE(came);
  EXPECT_EQ(still_how(snapshot_), STILL_LEASED);
  EXPECT_EQ(still_current(snapshot_), STILL_PRIVATE);
  EXPECT_EQ(live_leases(0), 0u);
  write_over();
  EXPECT_EQ(faults(), 0u);
}

TEST_F(Warden, IsCopiedWhereTheLeaseThatIsSetUpIsOvertaken) {
  static std::atomic<bool> came;
  static std::string path;
  came = false;
  path = path_;
  answer([](long number, const long(&a)[6], long& result) {
    if (number == SYS_fcntl && a[1] == F_GETLEASE && !came.exchange(true)) {
      ::open(path.c_str(), O_WRONLY | O_NONBLOCK | O_CLOEXEC);
    } else if (is_release(number, a)) {
      real(number, a);
      result = -EAGAIN;  // as if the kernel had let the writer in already
      return true;
    }
    return false;
  });
  open_leased([](still_options& options) { options.backing = STILL_AUTO; options.require = STILL_TORN; });
  EXPECT_NE(still_how(snapshot_), STILL_LEASED);
  EXPECT_EQ(faults(), 0u);
}

TEST_F(Warden, PoisonsWhatMayHaveChangedAfterAForcedBreak) {
  open_leased();
  answer([](long number, const long(&a)[6], long& result) {
    if (!is_release(number, a)) return false;
    real(number, a);
    result = -EAGAIN;  // as if the kernel had let the writer in already
    return true;
  });
  write_over();
  EXPECT_EQ(still_current(snapshot_), STILL_LOST);
  EXPECT_EQ(faults(), bytes / 4096);
  EXPECT_EQ(still_private_bytes(snapshot_), 0u);
}

TEST_F(Warden, ReleasesByClosingWhereUnlockingIsRefused) {
  open_leased();
  answer([](long number, const long(&a)[6], long& result) {
    result = -EACCES;  // as after a change of user
    return is_release(number, a);
  });
  write_over();
  EXPECT_EQ(still_current(snapshot_), STILL_PRIVATE);
  EXPECT_EQ(faults(), 0u);
}

TEST_F(Warden, PoisonsAllWhereThereIsNoMemoryForTheCopy) {
  open_leased();
  answer([](long number, const long(&a)[6], long& result) {
    result = -ENOMEM;
    return number == SYS_mmap && a[1] >= static_cast<long>(bytes) && a[2] != PROT_NONE;
  });
  write_over();
  EXPECT_EQ(still_current(snapshot_), STILL_LOST);
  EXPECT_EQ(faults(), bytes / 4096);
}

TEST_F(Warden, PoisonsAllWhereTheCopyCannotBePutInPlace) {
  open_leased();
  answer([](long number, const long(&)[6], long& result) {
    result = -ENOMEM;
    return number == SYS_mremap;
  });
  write_over();
  EXPECT_EQ(still_current(snapshot_), STILL_LOST);
  EXPECT_EQ(faults(), bytes / 4096);
}

TEST_F(Warden, TakesTheAccessAwayWhereEvenThePoisonCannotBeMapped) {
  open_leased();
  answer([](long number, const long(&a)[6], long& result) {
    result = -ENOMEM;
    return number == SYS_mremap || (number == SYS_mmap && a[2] == PROT_NONE);
  });
  write_over();
  EXPECT_EQ(still_current(snapshot_), STILL_LOST);
  EXPECT_EQ(faults(), bytes / 4096);
}

TEST_F(Warden, KeepsTheGoodPagesOfAReadThatFails) {
  open_leased();
  static constexpr auto piece = static_cast<long>(warden::piece_bytes_max);
  answer([](long number, const long(&a)[6], long& result) {
    if (number != SYS_pread64 || a[3] < piece || a[3] >= 2 * piece) return false;
    if (a[3] < piece + 8192) {  // the second piece: two pages, then an error
      const long shorter[6] = {a[0], a[1], 8192 - (a[3] - piece), a[3], 0, 0};
      result = real(number, shorter);
    } else {
      result = -EIO;
    }
    return true;
  });
  write_over();
  EXPECT_EQ(still_current(snapshot_), STILL_LOST);
  EXPECT_EQ(faults(), warden::piece_bytes_max / 4096 - 2);
  EXPECT_EQ(still_private_bytes(snapshot_), bytes - warden::piece_bytes_max + 8192);
}

TEST_F(Warden, DoesNotTrustADescriptorThatBecameAnotherFileWhileItWasRead) {
  open_leased();
  static std::atomic<int> stolen;
  stolen = -1;
  answer([](long number, const long(&a)[6], long&) {
    int none = -1;
    if (number == SYS_pread64 && stolen.compare_exchange_strong(none, static_cast<int>(a[0]))) {
      const int other = ::open("/dev/zero", O_RDONLY | O_CLOEXEC);
      ::dup2(other, static_cast<int>(a[0]));
      ::close(other);
    }
    return false;
  });
  write_over();
  ASSERT_NE(stolen, -1);
  EXPECT_EQ(still_current(snapshot_), STILL_PRIVATE);
  EXPECT_EQ(faults(), 0u);
  still_close(snapshot_);
  snapshot_ = nullptr;
  char byte = 'x';
  EXPECT_EQ(::read(stolen, &byte, 1), 1) << "the library closed a descriptor that was not its own any more";
  EXPECT_EQ(byte, '\0');
  ::close(stolen);
}

TEST_F(Warden, FindsABreakWhoseSignalNeverCame) {
  open_leased();
  answer([](long number, const long(&)[6], long& result) {
    if (number != SYS_rt_sigtimedwait) return false;
    ::usleep(1000);
    result = -EAGAIN;
    return true;
  });
  write_over();
  EXPECT_EQ(still_current(snapshot_), STILL_PRIVATE);
  EXPECT_EQ(faults(), 0u);
}

TEST_F(Warden, SharesOneLeaseAmongSnapshotsOfAFile) {
  open_leased();
  still_snapshot *same = nullptr, *part = nullptr;
  still_options options{};
  options.size = sizeof options;
  options.backing = STILL_LEASED;
  ASSERT_EQ(still_open(path_.c_str(), &options, &same), 0);
  options.offset = 12345;
  options.length = 3 << 20;
  ASSERT_EQ(still_open(path_.c_str(), &options, &part), 0);
  EXPECT_EQ(still_data(same), still_data(snapshot_)) << "equal requests share the mapping";
  EXPECT_EQ(warden::table::instance().live_leases.load(), 1u);
  write_over();
  for (const still_snapshot* each : {snapshot_, same, part}) EXPECT_EQ(still_current(each), STILL_PRIVATE);
  EXPECT_EQ(faults(), 0u);
  const auto* const bytes_of_part = static_cast<const std::byte*>(still_data(part));
  for (std::size_t i = 0; i < still_size(part); i += 512) ASSERT_EQ(bytes_of_part[i], std::byte('a'));
  still_close(same);
  still_close(part);
  EXPECT_EQ(live_leases(0), 0u);
}

TEST_F(Warden, TheLastOfSeveralSnapshotsReleasesTheLease) {
  open_leased();
  still_snapshot* other = nullptr;
  still_options options{};
  options.size = sizeof options;
  options.backing = STILL_LEASED;
  options.offset = 4096;
  ASSERT_EQ(still_open(path_.c_str(), &options, &other), 0);
  still_close(snapshot_);
  snapshot_ = nullptr;
  EXPECT_EQ(warden::table::instance().live_leases.load(), 1u);
  const auto* const data = static_cast<const std::byte*>(still_data(other));
  write_over();
  for (std::size_t i = 0; i < still_size(other); i += 512) ASSERT_EQ(data[i], std::byte('a'));
  still_close(other);
  EXPECT_EQ(live_leases(0), 0u);
}

TEST_F(Warden, OpensAndClosesInThreadsWhileWritersComeAndGo) {
  std::atomic<bool> stop{false};
  std::atomic<int> bad{0}, opened{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) {
    threads.emplace_back([&, i] {
      while (!stop) {
        still_options options{};
        options.size = sizeof options;
        options.require = STILL_TORN;
        options.offset = static_cast<std::uint64_t>(i) * 4096;
        still_snapshot* one = nullptr;
        if (still_open(path_.c_str(), &options, &one) != 0) continue;
        ++opened;
        const auto* const data = static_cast<const std::byte*>(still_data(one));
        const std::byte first = data[0];
        for (int round = 0; round < 20; ++round) {
          if (data[0] != first) ++bad;
        }
        still_close(one);
      }
    });
  }
  // However long that takes: a test that gives up after so many rounds would measure the scheduler.
  for (int round = 0; round < 100 || opened < 50; ++round) {
    const int fd = ::open(path_.c_str(), O_WRONLY | O_CLOEXEC);
    ASSERT_GE(fd, 0);
    const std::string content(4096 * 4, static_cast<char>('a' + round % 26));
    EXPECT_EQ(::pwrite(fd, content.data(), content.size(), 0), static_cast<ssize_t>(content.size()));
    ::close(fd);
  }
  stop = true;
  for (std::thread& each : threads) each.join();
  EXPECT_EQ(bad, 0);
  EXPECT_EQ(live_leases(0), 0u);
}

TEST_F(Warden, ALeaseThatComesAndGoesInManyThreadsIsEndedOnce) {
  std::atomic<bool> stop{false};
  std::atomic<int> opened{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) {
    threads.emplace_back([&] {
      still_options options{};
      options.size = sizeof options;
      options.backing = STILL_LEASED;
      while (!stop) {
        still_snapshot* one = nullptr;
        if (still_open(path_.c_str(), &options, &one) != 0) continue;
        ++opened;
        still_close(one);
      }
    });
  }
  const std::int64_t end = kernel::now_ns() + 1'000'000'000;
  while (opened < 1'000 || (opened < 20'000 && kernel::now_ns() < end)) ::usleep(1000);
  stop = true;
  for (std::thread& each : threads) each.join();
  EXPECT_EQ(live_leases(0), 0u);
}

TEST_F(Warden, ALeaseWhoseNumberBecameAnothersOfTheSameFileLeavesThatAlone) {
  open_leased();
  int number = -1;
  for (std::uint32_t i = 0; i < warden::table::instance().leases_end(); ++i) {
    const warden::lease& one = warden::table::instance().lease_at(i);
    if (one.word.state() == warden::lease_state::live) number = one.fd;
  }
  ASSERT_GE(number, 0);
  ::close(number);  // as an application does that closes every descriptor
  still_snapshot* second = nullptr;
  still_options options{};
  options.size = sizeof options;
  options.backing = STILL_LEASED;
  ASSERT_EQ(still_open(path_.c_str(), &options, &second), 0);
  const auto* const data = static_cast<const std::byte*>(still_data(second));
  ASSERT_EQ(data[0], std::byte('a'));
  still_close(snapshot_);  // must not release the second's lease, whose descriptor may have the same number
  snapshot_ = nullptr;
  write_over();
  for (std::size_t at = 0; at < bytes; at += 4096) ASSERT_EQ(data[at], std::byte('a'));
  EXPECT_EQ(still_current(second), STILL_PRIVATE);
  still_close(second);
}

TEST_F(Warden, AForkWithAFullSignalQueueGoesOn) {
  open_leased();
  still_close(snapshot_);
  snapshot_ = nullptr;
  ::usleep(50'000);  // so that the keeper sleeps; a shorter sleep makes the test weaker, not wrong
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_SIGPENDING, &before), 0);
  const rlimit none{0, before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_SIGPENDING, &none), 0);
  const std::int64_t begin = kernel::now_ns();
  const pid_t child = ::fork();
  if (child == 0) ::_exit(0);
  EXPECT_LT(kernel::now_ns() - begin, 20'000'000'000);
  ::setrlimit(RLIMIT_SIGPENDING, &before);
  int status = 0;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
}

TEST_F(Warden, AnswersAWriterWhileAForkIsUnderWay) {
  open_leased();
  warden::keeper_thread::pause();  // glibc may wait for its own locks after our handler ran
  const std::int64_t begin = kernel::now_ns();
  write_over();
  EXPECT_LT(kernel::now_ns() - begin, 30'000'000'000) << "only the break time let the writer through";
  EXPECT_EQ(still_current(snapshot_), STILL_PRIVATE);
  warden::keeper_thread::resume();
  EXPECT_EQ(faults(), 0u);
}

TEST_F(Warden, WhatCannotBeCarriedForWantOfMemoryStaysWhole) {
  open_leased([](still_options& options) { options.fork = STILL_FORK_CARRY; });
  const std::uint64_t all_of_it = settings::instance().memory_budget - memory::charged();
  ASSERT_TRUE(memory::charge(all_of_it, UINT64_MAX));
  const pid_t child = ::fork();
  if (child == 0) ::_exit(try_read(data_) ? 1 : 0);
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  memory::discharge(all_of_it);
  EXPECT_EQ(status, 0) << "the child goes without";
  EXPECT_EQ(still_current(snapshot_), STILL_SHARED);
  write_over();
  EXPECT_EQ(faults(), 0u);
}

TEST_F(Warden, IdentityIsExactOnlyWhereStampsWitnessEveryStore) {
  open_leased();
  still_identity_t key{};
  key.size = sizeof key;
  ASSERT_EQ(still_identity(snapshot_, &key), 0);
  EXPECT_EQ(key.exact, 1u);
  const char* const folder = std::getenv("STILLMAP_TEST_TMPFS");
  if (folder == nullptr) return;
  const std::string path = std::string(folder) + "/identity";
  std::ofstream(path, std::ios::binary) << std::string(1 << 20, 'x');
  still_snapshot* one = nullptr;
  ASSERT_EQ(still_open(path.c_str(), nullptr, &one), 0);
  ASSERT_EQ(still_identity(one, &key), 0);
  EXPECT_EQ(key.exact, 0u) << "tmpfs: a store may move no stamp";
  still_close(one);
  ::unlink(path.c_str());
}

// The file becomes shorter after the library looked at it, and before it has the lease.
TEST_F(Warden, AFileThatShrinksBeforeTheLeaseIsHeldAsItIsUnderTheLease) {
  answer([this](long number, const long(&a)[6], long&) {
    if (number == SYS_fcntl && a[1] == F_SETLEASE && a[2] == F_RDLCK) {
      EXPECT_EQ(::truncate(path_.c_str(), 10'000), 0);
    }
    return false;
  });
  for (const still_backing backing : {STILL_LEASED, STILL_COPIED}) {
    fill('a');
    still_options options{};
    options.size = sizeof options;
    options.backing = backing;
    still_snapshot* one = nullptr;
    ASSERT_EQ(still_open(path_.c_str(), &options, &one), 0) << still_message();
    EXPECT_EQ(still_size(one), 10'000u);
    EXPECT_EQ(still_when(one), STILL_POINT_IN_TIME);
    EXPECT_EQ(static_cast<const char*>(still_data(one))[9'999], 'a');
    still_close(one);
    fill('a');
    options.length = 20'000;  // insisted on, and not there any more
    EXPECT_EQ(still_open(path_.c_str(), &options, &one), ERANGE);
  }
  EXPECT_EQ(live_leases(0), 0u);
}

TEST_F(Warden, WithoutMemoryAnOpenFailsAndLeavesNothing) {
  for (const still_backing backing : {STILL_LEASED, STILL_COPIED}) {
    answer([](long number, const long(&a)[6], long& result) {
      result = -ENOMEM;
      return number == SYS_mmap && a[1] >= static_cast<long>(bytes);
    });
    still_options options{};
    options.size = sizeof options;
    options.backing = backing;
    EXPECT_EQ(still_open(path_.c_str(), &options, &snapshot_), ENOMEM);
    EXPECT_EQ(snapshot_, nullptr);
    EXPECT_EQ(memory::charged(), charged_before_);
    EXPECT_EQ(live_leases(0), 0u);
    const int fd = ::open(path_.c_str(), O_WRONLY | O_NONBLOCK | O_CLOEXEC);
    EXPECT_GE(fd, 0) << "a lease was left behind";
    ::close(fd);
  }
}

// B8, from the library's side; tests/kernel/leaks.cpp shows the device that refuses.
TEST_F(Warden, SyncedRefusesTheLeaseOfAFileThatCannotBeWrittenBack) {
  answer([](long number, const long(&)[6], long& result) {
    result = -ENOSPC;
    return number == SYS_fdatasync;
  });
  still_options options{};
  options.size = sizeof options;
  options.flags = STILL_SYNCED;
  options.backing = STILL_LEASED;
  EXPECT_EQ(still_open(path_.c_str(), &options, &snapshot_), ENOSPC);
  EXPECT_EQ(snapshot_, nullptr);
  options.backing = STILL_AUTO;
  ASSERT_EQ(still_open(path_.c_str(), &options, &snapshot_), 0) << still_message();
  EXPECT_EQ(still_how(snapshot_), STILL_COPIED);
  EXPECT_EQ(live_leases(0), 0u);
  const int fd = ::open(path_.c_str(), O_WRONLY | O_NONBLOCK | O_CLOEXEC);
  EXPECT_GE(fd, 0) << "a lease was left behind";
  ::close(fd);
}

TEST(OpenByDescriptor, OfAFileInProcReadsAllOfItAndLeavesTheOffsetAlone) {
  const int fd = ::open("/proc/self/status", O_RDONLY | O_CLOEXEC);
  char skipped[10];
  ASSERT_EQ(::read(fd, skipped, sizeof skipped), 10);
  still_options options{};
  options.size = sizeof options;
  options.require = STILL_TORN;
  still_snapshot* one = nullptr;
  ASSERT_EQ(still_open_fd(fd, &options, &one), 0) << still_message();
  EXPECT_EQ(std::string(static_cast<const char*>(still_data(one)), 5), "Name:");
  EXPECT_EQ(::lseek(fd, 0, SEEK_CUR), 10);
  still_close(one);
  ::close(fd);
}

// Tests that need a short break time: set for their length, and put back.
class WardenInAHurry : public Warden {
 protected:
  void SetUp() override {
    Warden::SetUp();
    if (IsSkipped()) return;
    std::ifstream(setting) >> before_;
    if (!(std::ofstream(setting) << 3)) GTEST_SKIP() << "may not change lease-break-time";
  }
  void TearDown() override {
    if (before_ != 0) std::ofstream(setting) << before_;
    Warden::TearDown();
  }
  static constexpr const char* setting = "/proc/sys/fs/lease-break-time";
  int before_ = 0;
};

TEST_F(WardenInAHurry, PoisonsWhatHangingStorageDidNotDeliverInTime) {
  open_leased();
  static std::atomic<bool> hang;
  hang = true;
  answer([](long number, const long(&a)[6], long&) {
    if (number == SYS_pread64 && a[3] >= static_cast<long>(warden::piece_bytes_max)) {
      while (hang) ::usleep(1000);
    }
    return false;
  });
  write_over();
  EXPECT_EQ(still_current(snapshot_), STILL_LOST);
  EXPECT_EQ(faults(), (bytes - warden::piece_bytes_max) / 4096) << "the first piece was there in time";
  hang = false;
}

TEST_F(WardenInAHurry, AnswersAnotherLeaseWhileOneHangs) {
  open_leased();
  static std::atomic<bool> hang;
  static std::atomic<int> hanging_fd;
  hang = true;
  hanging_fd = -1;
  answer([](long number, const long(&a)[6], long&) {
    if (number == SYS_pread64 && a[0] == hanging_fd) {
      while (hang) ::usleep(1000);
    }
    return false;
  });
  const std::string other_path = path_ + ".other";
  { std::ofstream(other_path, std::ios::binary) << std::string(1 << 20, 'o'); }
  still_snapshot* other = nullptr;
  still_options options{};
  options.size = sizeof options;
  options.backing = STILL_LEASED;
  ASSERT_EQ(still_open(other_path.c_str(), &options, &other), 0);
  for (std::uint32_t i = 0; i < warden::table::instance().leases_end(); ++i) {
    const warden::lease& one = warden::table::instance().lease_at(i);
    if (one.word.state() == warden::lease_state::live && one.taken.size == bytes) hanging_fd = one.fd.load();
  }
  ASSERT_NE(hanging_fd, -1);
  std::thread stuck([&] { write_over(); });
  while (still_current(snapshot_) == STILL_SHARED) {  // at the latest when its break time is over
    const int fd = ::open(other_path.c_str(), O_WRONLY | O_CLOEXEC);
    ASSERT_GE(fd, 0);
    ::close(fd);
    if (still_current(other) == STILL_PRIVATE) break;
  }
  EXPECT_EQ(still_current(other), STILL_PRIVATE);
  EXPECT_EQ(still_current(snapshot_), STILL_SHARED) << "the other writer waited behind the hanging one";
  stuck.join();
  hang = false;
  EXPECT_EQ(faults(), bytes / 4096);
  still_close(other);
  ::unlink(other_path.c_str());
}

}  // namespace
}  // namespace stillmap
