// SPDX-License-Identifier: Apache-2.0
//
// paged: a page is read when it is first touched and never changes afterwards; what cannot be read faults,
// and is told. With the kernel's refusals played by kernel::interpose.
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <gtest/gtest.h>
#include <linux/userfaultfd.h>
#include <stillmap/stillmap.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <fstream>
#include <functional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "fault_guard.hpp"
#include "linux/kernel.hpp"
#include "memory.hpp"
#include "pager/pager.hpp"
#include "stand_in.hpp"

namespace stillmap {
namespace {

using testing_support::answer;
using testing_support::answer_no_more;
using testing_support::real;
using testing_support::try_read;

constexpr std::size_t page = 4096;

bool is_poisoning(long number, const long (&a)[6]) {
  return number == SYS_ioctl && (static_cast<unsigned long>(a[1]) & 0xffff) == (UFFDIO << 8 | 0x08);
}
bool is_read_at(long number, const long (&a)[6], std::uint64_t offset) {
  const auto from = static_cast<std::uint64_t>(a[3]);
  if (number == SYS_preadv2) return true;  // from the cache alone
  return number == SYS_pread64 && from <= offset && offset < from + static_cast<std::uint64_t>(a[2]);
}

// Runs body in a forked child; its exit code, or 1000 and the signal that ended it.
template <class Body>
int in_child(Body body) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(body());
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

#if defined(__SANITIZE_THREAD__)
constexpr bool threads_in_children = false;
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
constexpr bool threads_in_children = false;
#else
constexpr bool threads_in_children = true;
#endif
#else
constexpr bool threads_in_children = true;
#endif
constexpr const char* no_threads = "ThreadSanitizer lets no forked child start a thread";

class Paged : public testing::Test {
 protected:
  void SetUp() override {
    const char* const folder = std::getenv("STILLMAP_TEST_SCRATCH");
    ASSERT_NE(folder, nullptr);
    path_ = std::string(folder) + "/paged";
    fill('a', 100 * page);
    charged_before_ = memory::charged();
    still_snapshot* one = nullptr;
    const int error = open(&one);
    if (error == STILL_ERROR_UNSUPPORTED) GTEST_SKIP() << still_message();
    ASSERT_EQ(error, 0) << still_message();
    still_close(one);
  }
  void TearDown() override {
    answer_no_more();
    EXPECT_EQ(memory::charged(), charged_before_);
    ::unlink(path_.c_str());
  }
  void fill(char with, std::size_t bytes) const {
    std::ofstream(path_, std::ios::binary | std::ios::trunc) << std::string(bytes, with);
  }
  // Page by page another letter, and in each page another byte at another place.
  static char byte_at(std::size_t offset) {
    return static_cast<char>((offset / page) * 7 + offset * 13 + offset / 251);
  }
  void fill_with_pattern(std::size_t bytes) const {
    std::string content(bytes, '\0');
    for (std::size_t i = 0; i < bytes; ++i) content[i] = byte_at(i);
    std::ofstream(path_, std::ios::binary | std::ios::trunc) << content;
  }
  void overwrite(char with, std::size_t bytes) const {
    const int fd = ::open(path_.c_str(), O_WRONLY | O_CLOEXEC);
    const std::string content(bytes, with);
    EXPECT_EQ(::pwrite(fd, content.data(), bytes, 0), static_cast<ssize_t>(bytes));
    ::close(fd);
  }
  int open(still_snapshot** out, std::function<void(still_options&)> change = {}) const {
    still_options options{};
    options.size = sizeof options;
    options.backing = STILL_PAGED;
    if (change) change(options);
    return still_open(path_.c_str(), &options, out);
  }
  static const std::byte* data(const still_snapshot* one) {
    return static_cast<const std::byte*>(still_data(one));
  }

  std::string path_;
  std::uint64_t charged_before_ = 0;
};

TEST_F(Paged, ShowsEveryByteWhateverTheRange) {
  fill_with_pattern(std::size_t{5} << 20 | 777);
  const std::size_t size = std::size_t{5} << 20 | 777;
  struct range {
    std::uint64_t offset, length;
    std::uint32_t padding;
    int access;
    unsigned flags;
  };
  for (const range& asked : {range{0, 0, 0, 0, 0}, range{0, 0, 64, STILL_ACCESS_RANDOM, 0},
                             range{4095, 0, 1, STILL_ACCESS_SEQUENTIAL, 0}, range{1, 3, 0, 0, 0},
                             range{8192, 4096, 0, 0, 0}, range{5000, 1 << 20, 5000, 0, STILL_POPULATE},
                             range{size, 0, 64, 0, 0}, range{size - 1, 1, 0, 0, 0}}) {
    still_snapshot* one = nullptr;
    ASSERT_EQ(open(&one,
                   [&](still_options& o) {
                     o.offset = asked.offset;
                     o.length = asked.length;
                     o.padding = asked.padding;
                     o.access = asked.access;
                     o.flags = asked.flags;
                   }),
              0)
        << still_message();
    EXPECT_EQ(still_how(one), STILL_PAGED);
    EXPECT_EQ(still_when(one), STILL_TORN);
    const std::size_t length = asked.length != 0 ? asked.length : size - asked.offset;
    ASSERT_EQ(still_size(one), length);
    const auto* const text = static_cast<const char*>(still_data(one));
    std::size_t different = 0;
    for (std::size_t i = 0; i < length; ++i) different += text[i] != byte_at(asked.offset + i);
    for (std::size_t i = 0; i < asked.padding; ++i) different += text[length + i] != 0;
    EXPECT_EQ(different, 0u) << asked.offset << " " << asked.length;
    EXPECT_EQ(still_current(one), STILL_PRIVATE);
    EXPECT_EQ(still_lost_bytes(one), 0u);
    still_close(one);
  }
}

TEST_F(Paged, PageOnceObservedIsNeverReadAgain) {
  still_snapshot* one = nullptr;
  ASSERT_EQ(open(&one, [](still_options& o) { o.access = STILL_ACCESS_RANDOM; }), 0);
  EXPECT_EQ(still_private_bytes(one), 0u) << "100 whole pages: there is no tail";
  EXPECT_EQ(data(one)[0], std::byte('a'));
  const std::uint64_t fetched = still_private_bytes(one);
  EXPECT_GE(fetched, page);
  EXPECT_LE(fetched, 16 * page);
  EXPECT_EQ(memory::charged() - charged_before_, fetched);
  overwrite('b', 100 * page);
  EXPECT_EQ(data(one)[1], std::byte('a')) << "observed before";
  EXPECT_EQ(data(one)[99 * page], std::byte('b')) << "first touched after";
  EXPECT_EQ(still_changed(one), 1);
  ASSERT_EQ(::truncate(path_.c_str(), 0), 0);
  EXPECT_EQ(data(one)[2], std::byte('a'));
  EXPECT_EQ(data(one)[100 * page - 1], std::byte('b'));
  EXPECT_EQ(still_current(one), STILL_PRIVATE);
  still_close(one);
}

TEST_F(Paged, WhatEndsBeforeItIsTouchedFaultsAndIsTold) {
  for (const bool poison : {true, false}) {
    SCOPED_TRACE(poison ? "poisoned" : "as before Linux 6.6");
    fill('a', 100 * page);
    if (!poison)
      answer([](long number, const long(&a)[6], long& result) {
        result = -EINVAL;
        return is_poisoning(number, a);
      });
    still_snapshot* one = nullptr;
    ASSERT_EQ(open(&one), 0);
    ASSERT_EQ(::truncate(path_.c_str(), 50 * page + 100), 0);
    EXPECT_EQ(still_current(one), STILL_PRIVATE);
    EXPECT_EQ(try_read(data(one) + 49 * page), std::byte('a'));
    EXPECT_EQ(try_read(data(one) + 50 * page), std::nullopt) << "cut by the new end: its tail would be zeros";
    EXPECT_EQ(still_current(one), STILL_LOST);
    EXPECT_EQ(still_lost_bytes(one), page);
    EXPECT_EQ(try_read(data(one) + 99 * page), std::nullopt);
    EXPECT_EQ(try_read(data(one) + 99 * page), std::nullopt) << "for good";
    EXPECT_EQ(still_lost_bytes(one), 2 * page);
    fill('b', 100 * page);
    EXPECT_EQ(try_read(data(one) + 50 * page + 99), std::nullopt) << "what was lost does not come back";
    EXPECT_EQ(try_read(data(one) + 49 * page), std::byte('a'));
    EXPECT_EQ(try_read(data(one) + 70 * page), std::byte('b'));
    ASSERT_EQ(::truncate(path_.c_str(), 0), 0);
    EXPECT_EQ(still_advise(one, 0, 0, STILL_ADVISE_POPULATE), STILL_ERROR_LOST);
    EXPECT_STRNE(still_message(), "");
    std::size_t kept = 0;
    for (std::size_t i = 0; i < 100; ++i) kept += try_read(data(one) + i * page).has_value();
    EXPECT_EQ(still_lost_bytes(one), (100 - kept) * page);
    EXPECT_EQ(still_private_bytes(one), kept * page);
    still_close(one);
    testing_support::standing_in.store(nullptr);
  }
}

TEST_F(Paged, ReadErrorTakesItsPageAlone) {
  fill('a', 600 * page);
  constexpr std::uint64_t bad = 300 * page;
  answer([](long number, const long(&a)[6], long& result) {
    if (!is_read_at(number, a, bad)) return false;
    result = number == SYS_preadv2 || static_cast<std::uint64_t>(a[3]) == bad ? -EIO : 0;
    if (number == SYS_pread64 && static_cast<std::uint64_t>(a[3]) < bad) {
      // As the kernel does: what stands before the error is given.
      const long less[6] = {a[0], a[1], static_cast<long>(bad) - a[3], a[3], 0, 0};
      result = real(number, less);
    }
    return true;
  });
  for (const bool populate : {false, true}) {
    still_snapshot* one = nullptr;
    ASSERT_EQ(open(&one, [&](still_options& o) { o.flags = populate ? unsigned{STILL_POPULATE} : 0u; }), 0);
    for (std::size_t i = 0; i < 600; ++i) {
      const auto byte = try_read(data(one) + i * page + 5);
      EXPECT_EQ(byte.has_value(), i != bad / page) << i;
      if (byte) {
        EXPECT_EQ(*byte, std::byte('a'));
      }
    }
    EXPECT_EQ(still_current(one), STILL_LOST);
    EXPECT_EQ(still_lost_bytes(one), page);
    EXPECT_EQ(still_private_bytes(one), 599 * page);
    still_close(one);
  }
}

TEST_F(Paged, ReadThatHangsHoldsUpNoOther) {
  fill('a', 600 * page);
  static std::atomic<bool> hang;
  static std::atomic<int> hanging;
  hang.store(true);
  hanging.store(0);
  answer([](long number, const long(&a)[6], long& result) {
    if (number == SYS_preadv2) {
      result = -EAGAIN;
      return true;
    }
    if (number != SYS_pread64 || a[3] % (64L * 1024) != 0 || a[3] < 100L * 4096) return false;
    ++hanging;
    while (hang.load()) kernel::sleep(1'000'000);
    return false;
  });
  still_snapshot *one = nullptr, *other = nullptr;
  ASSERT_EQ(open(&one, [](still_options& o) { o.access = STILL_ACCESS_RANDOM; }), 0);
  std::vector<std::thread> stuck;
  for (std::size_t i = 0; i < 6; ++i)
    stuck.emplace_back([&, i] { EXPECT_EQ(data(one)[(112 + 16 * i) * page], std::byte('a')); });
  while (hanging.load() < 6) kernel::sleep(1'000'000);
  ASSERT_EQ(open(&other), 0) << "opening goes on";
  EXPECT_EQ(data(other)[0], std::byte('a'));
  EXPECT_EQ(data(one)[0], std::byte('a'));
  still_close(other);
  hang.store(false);
  for (std::thread& each : stuck) each.join();
  still_close(one);
}

TEST_F(Paged, CloseDoesNotWaitForAReadThatHangs) {
  static std::atomic<bool> hang, hangs, over;
  hang.store(true);
  hangs.store(false);
  over.store(false);
  answer([](long number, const long(&a)[6], long&) {
    if (number != SYS_fadvise64 || a[3] == 0) return false;
    hangs.store(true);
    while (hang.load()) kernel::sleep(1'000'000);
    over.store(true);
    return false;
  });
  still_snapshot *one = nullptr, *other = nullptr;
  ASSERT_EQ(open(&one), 0);
  ASSERT_EQ(open(&other), 0);
  std::thread stuck([&] { EXPECT_EQ(still_advise(one, 0, 0, STILL_ADVISE_WILLNEED), 0); });
  while (!hangs.load()) kernel::sleep(1'000'000);
  still_close(other);
  EXPECT_FALSE(over.load());
  hang.store(false);
  stuck.join();
  still_close(one);
}

TEST_F(Paged, CloseDoesNotWaitForWhatIsReadAheadEither) {
  fill('a', 600 * page);
  static std::atomic<bool> hang, hangs;
  hang.store(true);
  hangs.store(false);
  answer([](long number, const long(&a)[6], long& result) {
    if (number == SYS_preadv2) {
      result = -EAGAIN;
      return true;
    }
    if (number != SYS_pread64 || a[3] == 0) return false;  // the first piece of the window comes
    hangs.store(true);
    while (hang.load()) kernel::sleep(1'000'000);
    return false;
  });
  still_snapshot* one = nullptr;
  ASSERT_EQ(open(&one, [](still_options& o) { o.access = STILL_ACCESS_SEQUENTIAL; }), 0);
  EXPECT_EQ(data(one)[0], std::byte('a'));
  while (!hangs.load()) kernel::sleep(1'000'000);
  still_close(one);
  EXPECT_TRUE(hang.load());
  hang.store(false);
}

TEST_F(Paged, ManyThreadsAndAWriterAgreeOnEveryPage) {
  constexpr std::size_t pages = 512;
  fill('a', pages * page);
  for (int round = 0; round < 4; ++round) {
    still_snapshot* one = nullptr;
    ASSERT_EQ(open(&one), 0);
    std::atomic<bool> stop{false};
    std::thread writer([&] {
      for (char with = 'a'; !stop.load(); with = static_cast<char>(with == 'z' ? 'a' : with + 1))
        overwrite(with, pages * page);
    });
    std::vector<std::vector<std::byte>> seen(4, std::vector<std::byte>(pages));
    std::vector<std::thread> readers;
    std::atomic<std::size_t> changed{0};
    for (std::size_t r = 0; r < seen.size(); ++r)
      readers.emplace_back([&, r] {
        std::mt19937 order(static_cast<unsigned>(r + 1));
        std::vector<std::byte> mine(pages);
        std::vector<bool> known(pages);
        for (int i = 0; i < 4000; ++i) {
          const std::size_t at = r == 0 ? static_cast<std::size_t>(i) % pages : order() % pages;
          const std::byte now = data(one)[at * page + 17];
          if (known[at] && mine[at] != now) ++changed;
          mine[at] = now;
          known[at] = true;
        }
        for (std::size_t at = 0; at < pages; ++at) seen[r][at] = data(one)[at * page + 17];
        for (std::size_t at = 0; at < pages; ++at)
          if (known[at] && mine[at] != seen[r][at]) ++changed;
      });
    for (std::thread& each : readers) each.join();
    stop.store(true);
    writer.join();
    EXPECT_EQ(changed.load(), 0u);
    for (std::size_t r = 1; r < seen.size(); ++r) EXPECT_EQ(seen[r], seen[0]);
    EXPECT_EQ(still_private_bytes(one), pages * page);
    EXPECT_EQ(still_lost_bytes(one), 0u);
    still_close(one);
  }
}

TEST_F(Paged, NothingOfItLiesInTheApplicationsTable) {
  if (!threads_in_children) GTEST_SKIP() << no_threads;
  EXPECT_EQ(in_child([&] {
              still_snapshot* one = nullptr;
              if (open(&one) != 0) return 2;
              if (::syscall(SYS_close_range, 3, ~0u, 0) != 0) return 3;
              // Numbers that were ours become another file.
              for (int i = 0; i < 20; ++i) [[maybe_unused]]
                const int other = ::open("/dev/zero", O_RDONLY | O_CLOEXEC);
              for (std::size_t i = 0; i < 100; ++i)
                if (data(one)[i * page] != std::byte('a')) return 4;
              still_close(one);
              return 0;
            }),
            0);
}

TEST_F(Paged, ChildFindsNothingRatherThanZeros) {
  if (!threads_in_children) GTEST_SKIP() << no_threads;
  still_snapshot *one = nullptr, *tail = nullptr;
  ASSERT_EQ(open(&one), 0);
  ASSERT_EQ(open(&tail, [](still_options& o) {
              o.length = 10;
              o.padding = 64;
            }),
            0);
  EXPECT_EQ(data(one)[0], std::byte('a'));
  EXPECT_EQ(in_child([&] {
              if (try_read(data(one)) || try_read(data(one) + 50 * page)) return 2;
              if (still_current(one) != STILL_LOST || still_lost_bytes(one) != still_size(one)) return 3;
              if (still_private_bytes(one) != 0) return 4;
              if (try_read(data(tail)) != std::byte('a') || still_current(tail) != STILL_PRIVATE) return 5;
              if (still_advise(one, 0, 0, STILL_ADVISE_POPULATE) != STILL_ERROR_LOST) return 6;
              // Its own are as good as the parent's.
              still_snapshot* own = nullptr;
              if (open(&own) != 0) return 7;
              if (data(own)[60 * page] != std::byte('a')) return 8;
              const int grandchild = in_child([&] {
                if (try_read(data(own)) || try_read(data(one))) return 2;
                still_close(own);
                still_close(one);
                return 0;
              });
              if (grandchild != 0) return 10 + grandchild;
              still_close(own);
              still_close(one);
              still_close(tail);
              return memory::charged() == charged_before_ ? 0 : 9;
            }),
            0);
  EXPECT_EQ(data(one)[99 * page], std::byte('a')) << "the parent's goes on";
  EXPECT_EQ(still_current(one), STILL_PRIVATE);
  still_close(one);
  still_close(tail);
}

TEST_F(Paged, ChildThatIsToCarryItHasEveryByte) {
  for (const bool poison : {true, false}) {
    fill('a', 100 * page);
    if (!poison)
      answer([](long number, const long(&a)[6], long& result) {
        result = -EINVAL;
        return is_poisoning(number, a);
      });
    still_snapshot* one = nullptr;
    ASSERT_EQ(open(&one, [](still_options& o) { o.fork = STILL_FORK_CARRY; }), 0);
    EXPECT_EQ(data(one)[5 * page], std::byte('a'));
    ASSERT_EQ(::truncate(path_.c_str(), 90 * page), 0);
    const auto check = [&] {
      for (std::size_t i = 0; i < 100; ++i)
        if (try_read(data(one) + i * page + 9) != (i < 90 ? std::optional(std::byte('a')) : std::nullopt))
          return static_cast<int>(i) + 1;
      return still_lost_bytes(one) == 10 * page ? 0 : 101;
    };
    EXPECT_EQ(in_child([&] {
                if (const int bad = check()) return bad;
                const int grandchild = in_child(check);
                still_close(one);
                return grandchild;
              }),
              0);
    fill('b', 100 * page);
    EXPECT_EQ(in_child(check), 0) << "a second fork";
    EXPECT_EQ(check(), 0);
    still_close(one);
    testing_support::standing_in.store(nullptr);
  }
}

TEST_F(Paged, WithoutPrivilegeASystemCallWantsThePageFetchedFirst) {
  if (!threads_in_children) GTEST_SKIP() << no_threads;
  if (::geteuid() != 0) GTEST_SKIP() << "not root: nothing to drop";
  int allowed = 0;
  std::ifstream("/proc/sys/vm/unprivileged_userfaultfd") >> allowed;
  if (allowed != 0) GTEST_SKIP() << "vm.unprivileged_userfaultfd is set: nobody lacks the privilege";
  ASSERT_EQ(::chmod(path_.c_str(), 0644), 0);
  const int file = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC);
  const int code = in_child([&] {
    if (::setgroups(0, nullptr) != 0 || ::setresgid(65534, 65534, 65534) != 0 ||
        ::setresuid(65534, 65534, 65534) != 0)
      return 2;
    still_options options{};
    options.size = sizeof options;
    options.backing = STILL_PAGED;
    options.access = STILL_ACCESS_RANDOM;
    still_snapshot* one = nullptr;
    const int error = still_open_fd(file, &options, &one);
    if (error == STILL_ERROR_UNSUPPORTED) return 77;
    if (error != 0) return 3;
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) return 4;
    if (pager::user_mode_only()) {
      if (::write(ends[1], still_data(one), 1) != -1 || errno != EFAULT) return 5;
    }
    if (data(one)[50 * page] != std::byte('a')) return 6;
    if (::write(ends[1], data(one) + 50 * page, 1) != 1) return 7;
    if (still_advise(one, 0, 0, STILL_ADVISE_POPULATE) != 0) return 8;
    if (::write(ends[1], still_data(one), 1) != 1) return 9;
    if (::write(ends[1], data(one) + 99 * page, 1) != 1) return 10;
    still_close(one);
    return pager::user_mode_only() ? 0 : 78;
  });
  ::close(file);
  if (code == 77) GTEST_SKIP() << "userfaultfd is refused to nobody";
  if (code == 78) GTEST_SKIP() << "nobody may open /dev/userfaultfd";
  EXPECT_EQ(code, 0);
}

TEST_F(Paged, WithPrivilegeASystemCallMayBeGivenAnyPage) {
  if (pager::user_mode_only()) GTEST_SKIP() << "no privilege";
  still_snapshot* one = nullptr;
  ASSERT_EQ(open(&one), 0);
  int ends[2];
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  char byte = 0;
  EXPECT_EQ(::write(ends[1], data(one) + 70 * page, 1), 1) << std::strerror(errno);
  EXPECT_EQ(::read(ends[0], &byte, 1), 1);
  EXPECT_EQ(byte, 'a');
  ::close(ends[0]);
  ::close(ends[1]);
  still_close(one);
}

TEST_F(Paged, IsRefusedWithAReasonWhereTheKernelRefuses) {
  if (!threads_in_children) GTEST_SKIP() << no_threads;
  for (const long refusal : {-EPERM, -ENOSYS}) {
    EXPECT_EQ(in_child([&] {  // whose pager has not started
                const int file = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC);
                still_options options{};
                options.size = sizeof options;
                options.backing = STILL_PAGED;
                answer([&](long number, const long(&a)[6], long& result) {
                  result = refusal;
                  if (number == SYS_userfaultfd) return true;
                  return number == SYS_openat &&
                         std::strcmp(reinterpret_cast<const char*>(a[1]), "/dev/userfaultfd") == 0;
                });
                still_snapshot* one = nullptr;
                if (still_open_fd(file, &options, &one) != STILL_ERROR_UNSUPPORTED) return 2;
                if (std::strstr(still_message(), "userfaultfd") == nullptr) return 3;
                testing_support::standing_in.store(nullptr);
                if (still_open_fd(file, &options, &one) != 0) return 4;  // refused once is not for ever
                if (data(one)[0] != std::byte('a')) return 5;
                still_close(one);
                return 0;
              }),
              0);
  }
}

TEST_F(Paged, IsWhatIsLeftWhereACopyIsOverTheBudgetWithoutATemporaryFileAndTornWillDo) {
  answer([](long number, const long(&a)[6], long& result) {
    result = -EACCES;
    return number == SYS_openat && (a[2] & O_TMPFILE) == O_TMPFILE;
  });
  still_snapshot* one = nullptr;
  const auto little = [](still_options& o) {
    o.backing = STILL_AUTO;
    o.memory_budget = page;
  };
  EXPECT_EQ(open(&one,
                 [&](still_options& o) {
                   little(o);
                   o.require = STILL_VERIFIED;
                 }),
            EACCES);
  EXPECT_EQ(open(&one, [](still_options& o) { o.require = STILL_VERIFIED; }), STILL_ERROR_UNSUPPORTED);
  still_options options{};
  options.size = sizeof options;
  options.require = STILL_TORN;
  little(options);
  still_explanation* told = nullptr;
  ASSERT_EQ(still_explain(path_.c_str(), &options, &told), 0);
  EXPECT_EQ(still_explanation_error(told), 0) << still_explanation_message(told);
  bool taken = false;
  for (std::size_t i = 0; i < still_explanation_steps(told); ++i) {
    still_step row{};
    ASSERT_EQ(still_explanation_step(told, i, &row), 0);
    taken = taken || (row.backing == STILL_PAGED && row.taken);
  }
  EXPECT_TRUE(taken);
  still_explanation_free(told);
}

TEST_F(Paged, PageThatIsThrownAwayFaultsAndIsNotReadAnew) {
  still_snapshot* one = nullptr;
  ASSERT_EQ(open(&one), 0);
  EXPECT_EQ(data(one)[0], std::byte('a'));
  overwrite('b', 100 * page);
  // No part of the interface does this; an application may.
  ASSERT_EQ(::madvise(const_cast<std::byte*>(data(one)), page, MADV_DONTNEED), 0);
  EXPECT_EQ(try_read(data(one)), std::nullopt);
  EXPECT_EQ(still_lost_bytes(one), page);
  EXPECT_EQ(data(one)[page], std::byte('a'));
  still_close(one);
}

}  // namespace
}  // namespace stillmap
