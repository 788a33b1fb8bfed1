// SPDX-License-Identifier: Apache-2.0
//
// What an open asks the kernel for, and in which order: a file at rest is copied without a lease, one that turns
// out not to be is copied under one.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/stat.h>
#include <stillmap/stillmap.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <functional>
#include <string>

#include "ranges/mapping.hpp"
#include "stand_in.hpp"

namespace stillmap {
namespace {

using testing_support::answer;
using testing_support::answer_no_more;
using testing_support::real;

class AtRest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const char* const folder = std::getenv((std::string("STILLMAP_TEST_") + GetParam()).c_str());
    if (folder == nullptr) GTEST_SKIP() << "no such file system";
    path_ = std::string(folder) + "/at-rest";
    write('a');
  }
  void TearDown() override {
    answer_no_more();
    ::unlink(path_.c_str());
  }
  void write(char byte) const {
    const int fd = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    const std::string bytes(10'000, byte);
    ASSERT_EQ(::pwrite(fd, bytes.data(), bytes.size(), 0), static_cast<ssize_t>(bytes.size()));
    ::close(fd);
  }
  // All change times are a hundred seconds older than they are; `before_a_read` comes before each.
  void watch(std::function<void()> before_a_read) {
    leases_ = reads_ = 0;
    answer([this, before_a_read](long number, const long (&a)[6], long& result) {
      if (number == SYS_fcntl && a[1] == F_SETLEASE && a[2] == F_RDLCK) ++leases_;
      if (number == SYS_pread64) {
        ++reads_;
        before_a_read();
      }
      if (number != SYS_statx) return false;
      result = real(number, a);
      reinterpret_cast<struct ::statx*>(a[4])->stx_ctime.tv_sec -= 100;
      return true;
    });
  }
  still_consistency open(still_consistency require) {
    still_options options{};
    options.size = sizeof options;
    options.require = require;
    still_snapshot* one = nullptr;
    EXPECT_EQ(still_open(path_.c_str(), &options, &one), 0) << still_message();
    if (one == nullptr) return STILL_TORN;
    const auto* const data = static_cast<const char*>(still_data(one));
    first_ = data[0];
    EXPECT_EQ(std::string(data, still_size(one)), std::string(10'000, first_));
    EXPECT_EQ(still_how(one), STILL_COPIED);
    const still_consistency result = still_when(one);
    still_close(one);
    return result;
  }
  bool on(const char* system) const { return std::string(GetParam()) == system; }

  std::string path_;
  char first_ = 0;
  std::atomic<int> leases_{0}, reads_{0};
};

TEST_P(AtRest, IsCopiedWithoutALease) {
  watch([] {});
  if (!on("TMPFS")) {
    EXPECT_EQ(open(STILL_VERIFIED), STILL_VERIFIED);
  }
  EXPECT_EQ(open(STILL_TORN), STILL_TORN);
  EXPECT_EQ(leases_, 0);
}

TEST_P(AtRest, IsCopiedUnderALeaseWhereThatIsTheProof) {
  watch([] {});
  EXPECT_EQ(open(STILL_POINT_IN_TIME), STILL_POINT_IN_TIME);
  EXPECT_EQ(leases_, 1);
  EXPECT_EQ(open(STILL_VERIFIED), on("TMPFS") ? STILL_POINT_IN_TIME : STILL_VERIFIED);
}

TEST_P(AtRest, ButNotAnyMoreIsReadOnceMoreUnderALease) {
  if (on("TMPFS")) GTEST_SKIP() << "leased in the first place";
  ::usleep(50'000);  // two ticks: before Linux 6.13 stamps of the same one are equal
  watch([this] {
    if (reads_ == 1) write('b');
  });
  EXPECT_EQ(open(STILL_VERIFIED), STILL_POINT_IN_TIME);
  EXPECT_EQ(first_, 'b');
  EXPECT_EQ(reads_, 2);
  EXPECT_EQ(leases_, 1);
}

INSTANTIATE_TEST_SUITE_P(On, AtRest, testing::Values("EXT4", "TMPFS", "XFS", "BTRFS"),
                         [](const auto& one) { return std::string(one.param); });

// A memory file that is larger than RLIMIT_FSIZE allows would be a SIGXFSZ. The arena of small mappings is one.
TEST(SmallFileLimit, KillsNobody) {
  char path[] = "small-file-limit-XXXXXX";
  const int file = ::mkstemp(path);
  ASSERT_EQ(::write(file, "x", 1), 1);
  ::unlink(path);
  const pid_t child = ::fork();
  if (child == 0) {
    const rlimit limit{4096, 4096};
    if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) ::_exit(1);
    if (kernel::memory_file(1 << 20) != -EFBIG) ::_exit(2);
    ranges::terms asked;
    asked.require = STILL_TORN;
    asked.unproved = true;
    ranges::holding how;
    const long small = ranges::map_snapshot(nullptr, 4096, PROT_READ, MAP_PRIVATE, file, 0, asked, how);
    ::_exit(!kernel::failed(small) && *reinterpret_cast<const char*>(small) == 'x' ? 0 : 3);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status)) << "signal " << WTERMSIG(status);
  EXPECT_EQ(WEXITSTATUS(status), 0);
  ::close(file);
}

}  // namespace
}  // namespace stillmap
