// SPDX-License-Identifier: Apache-2.0
//
// Several files at one instant. A writer gives all files the same number, one after the other and always in
// the same order, so at any instant the numbers fall by at most one along the files; it changes them in every
// way that a program does. Opened one by one they soon show a state that never was (the canary).
#include <errno.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include <stillmap/snapshot.hpp>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include "linux/kernel.hpp"
#include "live_leases.hpp"

namespace stillmap {
namespace {

using testing_support::live_leases;

using number = std::uint64_t;

struct arrangement {
  const char* where;
  std::size_t files, bytes;
};

class Many : public testing::TestWithParam<arrangement> {
 protected:
  void SetUp() override {
    const char* const folder = std::getenv((std::string("STILLMAP_TEST_") + GetParam().where).c_str());
    if (folder == nullptr) GTEST_SKIP() << "no such file system here";
    for (std::size_t i = 0; i < GetParam().files; ++i) {
      names_.push_back(std::string(folder) + "/many-" + std::to_string(i));
      std::ofstream(names_.back(), std::ios::binary) << std::string(GetParam().bytes, 0);
    }
    for (const std::string& each : names_) paths_.push_back(each.c_str());
  }
  void TearDown() override {
    if (writer_ > 0) stop();
    for (const std::string& each : names_) {
      ::unlink(each.c_str());
      ::unlink((each + ".new").c_str());
    }
  }

  void start() {
    writer_ = ::fork();
    if (writer_ == 0) {
      for (number now = 1;; ++now) {
        for (const std::string& each : names_) change(each, now);
        ::usleep(300);
      }
    }
  }
  void stop() {
    ::kill(writer_, SIGKILL);
    ::waitpid(writer_, nullptr, 0);
    writer_ = 0;
  }
  void change(const std::string& path, number now) const {
    const std::size_t last = GetParam().bytes - sizeof now;
    switch (now % 4) {
      case 0: {  // a rename over it
        const std::string fresh = path + ".new";
        const int fd = ::open(fresh.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        std::string content(GetParam().bytes, 0);
        std::memcpy(content.data(), &now, sizeof now);
        std::memcpy(content.data() + last, &now, sizeof now);
        if (::write(fd, content.data(), content.size()) < 0) ::_exit(1);
        ::close(fd);
        ::rename(fresh.c_str(), path.c_str());
        break;
      }
      case 1: {  // a mapping
        const int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
        char* const view =
            static_cast<char*>(::mmap(nullptr, GetParam().bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
        std::memcpy(view, &now, sizeof now);
        std::memcpy(view + last, &now, sizeof now);
        ::munmap(view, GetParam().bytes);
        ::close(fd);
        break;
      }
      default: {
        const int fd = ::open(path.c_str(), O_WRONLY | O_CLOEXEC);
        if (::pwrite(fd, &now, sizeof now, 0) < 0) ::_exit(1);
        if (::pwrite(fd, &now, sizeof now, static_cast<off_t>(last)) < 0) ::_exit(1);
        ::close(fd);
      }
    }
  }

  static number at(const snapshot& one, std::size_t offset) {
    number value = 0;
    std::memcpy(&value, one.bytes().data() + offset, sizeof value);
    return value;
  }
  // Front before back in each file, one file before the next.
  bool possible(const std::vector<snapshot>& all) const {
    std::vector<number> seen;
    for (const snapshot& one : all) {
      seen.push_back(at(one, 0));
      seen.push_back(at(one, GetParam().bytes - sizeof(number)));
    }
    for (std::size_t i = 1; i < seen.size(); ++i)
      if (seen[i] > seen[i - 1]) return false;
    return seen.front() - seen.back() <= 1;
  }
  std::error_code open(std::vector<snapshot>& all, bool strict) const {
    std::error_code ec;
    all.clear();
    all.resize(paths_.size());
    snapshot::open_many(paths_, {.require = consistency::point_in_time, .strict = strict}, all, ec);
    return ec;
  }

  std::vector<std::string> names_;
  std::vector<const char*> paths_;
  pid_t writer_ = 0;
};
INSTANTIATE_TEST_SUITE_P(Of, Many,
                         testing::Values(arrangement{"EXT4", 2, 65'536}, arrangement{"EXT4", 16, 5'000},
                                         arrangement{"EXT4", 3, 1 << 20}, arrangement{"TMPFS", 2, 65'536},
                                         arrangement{"TMPFS", 16, 5'000}, arrangement{"XFS", 2, 1 << 20},
                                         arrangement{"XFS", 16, 5'000}, arrangement{"BTRFS", 2, 1 << 20},
                                         arrangement{"BTRFS", 16, 5'000}),
                         [](const auto& one) {
                           return one.param.where + std::to_string(one.param.files) + "of" +
                                  std::to_string(one.param.bytes);
                         });

TEST_P(Many, AreOfOneInstantOrNotOpened) {
  start();
  std::vector<snapshot> all;
  int opened = 0;
  const std::int64_t end = kernel::now_ns() + 300'000'000;
  for (int round = 0; round < 60 || kernel::now_ns() < end; ++round) {
    const std::error_code ec = open(all, round % 2 == 1);
    if (ec) {
      EXPECT_TRUE(ec == errc::busy_writer || ec == errc::changing ||
                  ec == std::error_code(ENOENT, std::generic_category()))
          << ec << still_message();
      EXPECT_NE(std::strstr(still_message(), "many-"), nullptr) << still_message();
      continue;
    }
    ++opened;
    ASSERT_TRUE(possible(all)) << "in round " << round;
    for (const snapshot& one : all) EXPECT_EQ(one.when(), consistency::point_in_time);
  }
  stop();
  const std::error_code ec = open(all, false);
  ASSERT_FALSE(ec) << still_message();
  EXPECT_TRUE(possible(all));
  RecordProperty("opened", opened);
  all.clear();
  EXPECT_EQ(live_leases(0), 0u);
}

// The canary.
TEST_P(Many, OpenedOneByOneShowAStateThatNeverWas) {
  if (paths_.size() < 16) GTEST_SKIP() << "more files show it sooner";
  start();
  const std::int64_t end = kernel::now_ns() + 20'000'000'000;
  bool seen = false;
  while (!seen && kernel::now_ns() < end) {
    std::vector<snapshot> all;
    std::error_code ec;
    for (const char* const each : paths_) {
      all.push_back(snapshot::open(each, {.require = consistency::torn}, ec));
      if (ec) break;
    }
    seen = !ec && !possible(all);
  }
  if (!seen) GTEST_SKIP() << "the writer is too tame to prove anything";
}

TEST_P(Many, TheSameFileMayComeTwice) {
  paths_.push_back(paths_.front());
  std::vector<snapshot> all;
  ASSERT_FALSE(open(all, false)) << still_message();
  EXPECT_EQ(all.front().size(), all.back().size());
}

TEST_P(Many, AreAllOrNoneAndTheErrorNamesTheFile) {
  const std::string missing = names_.back() + "-missing";
  paths_.push_back(missing.c_str());
  std::vector<snapshot> all;
  EXPECT_EQ(open(all, false), std::error_code(ENOENT, std::generic_category()));
  EXPECT_NE(std::strstr(still_message(), missing.c_str()), nullptr) << still_message();
  for (const snapshot& one : all) EXPECT_FALSE(one);
  paths_.pop_back();
  const int writer = ::open(names_.back().c_str(), O_WRONLY | O_CLOEXEC);
  EXPECT_EQ(open(all, false), errc::busy_writer);
  EXPECT_NE(std::strstr(still_message(), names_.back().c_str()), nullptr) << still_message();
  ::close(writer);
  EXPECT_EQ(live_leases(0), 0u);
  EXPECT_FALSE(open(all, true)) << still_message();
}

}  // namespace
}  // namespace stillmap
