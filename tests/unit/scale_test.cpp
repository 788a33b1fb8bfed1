// SPDX-License-Identifier: Apache-2.0
//
// Many leases at once, broken all together while the queue of signals is next to nothing: each must be found,
// and every byte kept.
#include <errno.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include <stillmap/snapshot.hpp>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include "live_leases.hpp"

namespace stillmap {
namespace {

using testing_support::live_leases;

class Scale : public testing::Test {
 protected:
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  static constexpr std::size_t files = 500;
#else
  static constexpr std::size_t files = 10'000;
#endif
  static constexpr std::size_t bytes = 12'345;

  void SetUp() override {
    const char* const folder = std::getenv("STILLMAP_TEST_EXT4");
    if (folder == nullptr) GTEST_SKIP() << "no ext4 of our own";
    ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before_), 0);
    rlimit more = before_;
    more.rlim_cur = files * 2;
    more.rlim_max = std::max(more.rlim_max, more.rlim_cur);
    if (::setrlimit(RLIMIT_NOFILE, &more) != 0) GTEST_SKIP() << "not so many descriptors allowed";
    for (std::size_t i = 0; i < files; ++i) {
      names_.push_back(std::string(folder) + "/scale-" + std::to_string(i));
      std::ofstream(names_.back(), std::ios::binary) << content_of(i);
    }
  }
  void TearDown() override {
    held_.clear();
    EXPECT_EQ(live_leases(0), 0u);
    for (const std::string& each : names_) ::unlink(each.c_str());
    if (before_.rlim_cur != 0) ::setrlimit(RLIMIT_NOFILE, &before_);
  }
  static std::string content_of(std::size_t index) {
    std::string content(bytes, static_cast<char>('a' + index % 26));
    std::memcpy(content.data(), &index, sizeof index);
    return content;
  }
  void hold_all() {
    for (const std::string& each : names_) {
      std::error_code ec;
      held_.push_back(snapshot::open(each, {.backing = backing::leased}, ec));
      ASSERT_FALSE(ec) << still_message();
    }
  }
  void expect_all_kept() const {
    for (std::size_t i = 0; i < files; ++i) {
      EXPECT_EQ(held_[i].current(), state::private_memory) << i;
      EXPECT_EQ(std::memcmp(held_[i].data(), content_of(i).data(), bytes), 0) << i;
    }
  }

  rlimit before_{};
  std::vector<std::string> names_;
  std::vector<snapshot> held_;
};

TEST_F(Scale, AStormOfBreaksWithHardlyAnySignalsLosesNothing) {
  rlimit signals{};
  ASSERT_EQ(::getrlimit(RLIMIT_SIGPENDING, &signals), 0);
  const rlimit few{16, signals.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_SIGPENDING, &few), 0);
  hold_all();
  EXPECT_EQ(live_leases(files), files);
  // Broken without waiting, one after the other; then written to.
  const pid_t writer = ::fork();
  if (writer == 0) {
    for (const std::string& each : names_)
      if (const int fd = ::open(each.c_str(), O_WRONLY | O_NONBLOCK | O_CLOEXEC); fd >= 0) ::close(fd);
    for (const std::string& each : names_) {
      const int fd = ::open(each.c_str(), O_WRONLY | O_TRUNC | O_CLOEXEC);
      if (fd < 0 || ::write(fd, "gone", 4) != 4) ::_exit(1);
      ::close(fd);
    }
    ::_exit(0);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(writer, &status, 0), writer);
  ::setrlimit(RLIMIT_SIGPENDING, &signals);
  EXPECT_EQ(status, 0);
  expect_all_kept();
  held_.clear();
  EXPECT_EQ(live_leases(0), 0u);
}

TEST_F(Scale, OneBreakAmongManyLeavesTheOthersAlone) {
  hold_all();
  const int fd = ::open(names_[files / 2].c_str(), O_WRONLY | O_TRUNC | O_CLOEXEC);
  ASSERT_GE(fd, 0);
  ::close(fd);
  EXPECT_EQ(held_[files / 2].current(), state::private_memory);
  EXPECT_EQ(live_leases(files - 1), files - 1);
  for (std::size_t i = 0; i < files; ++i)
    EXPECT_EQ(std::memcmp(held_[i].data(), content_of(i).data(), bytes), 0) << i;
}

// One lease, whatever hangs on it, closed in every order.
TEST_F(Scale, AHundredSnapshotsOfOneFileHangOnOneLease) {
  for (const bool break_it : {false, true}) {
    std::ofstream(names_[0], std::ios::binary) << content_of(0);
    std::vector<snapshot> all;
    for (std::uint32_t i = 0; i < 100; ++i) {
      std::error_code ec;
      all.push_back(snapshot::open(
          names_[0], {.backing = backing::leased, .offset = i * 64, .padding = i % 3 * 64}, ec));
      ASSERT_FALSE(ec) << still_message();
    }
    EXPECT_EQ(live_leases(1), 1u);
    if (break_it) std::ofstream(names_[0], std::ios::binary) << "gone";
    const std::string content = content_of(0);
    for (std::size_t step = 0; !all.empty(); ++step) {
      for (std::size_t i = 0; i < all.size(); ++i) {
        const std::size_t offset = content.size() - all[i].size();
        ASSERT_EQ(std::memcmp(all[i].data(), content.data() + offset, all[i].size()), 0);
      }
      const std::size_t at = step % 3 == 0 ? 0 : step % 3 == 1 ? all.size() - 1 : all.size() / 2;
      all.erase(all.begin() + static_cast<std::ptrdiff_t>(at));
    }
    EXPECT_EQ(live_leases(0), 0u);
  }
}

}  // namespace
}  // namespace stillmap
