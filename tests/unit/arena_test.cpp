// SPDX-License-Identifier: Apache-2.0
//
// Small mappings under the preload: duplicates of recycled pages. What a slot holds next must never show in
// what a snapshot, or a forked child's, showed before.
#include "ranges/arena.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "fault_guard.hpp"
#include "memory.hpp"
#include "ranges/mapping.hpp"
#include "ranges/tree.hpp"
#include "stand_in.hpp"

namespace stillmap {
namespace {

constexpr std::size_t page = 4096;

class SmallMappings : public testing::Test {
 protected:
  void SetUp() override {
    const char* const folder = std::getenv("STILLMAP_TEST_SCRATCH");
    if (folder == nullptr) GTEST_SKIP() << "no scratch folder";
    path_ = std::string(folder) + "/small";
    charged_before_ = memory::charged();
  }
  void TearDown() override {
    testing_support::answer_no_more();
    if (fd_ >= 0) ::close(fd_);
    ::unlink(path_.c_str());
    EXPECT_EQ(memory::charged(), charged_before_);
  }
  void fill(std::size_t bytes, char with) {
    std::ofstream(path_, std::ios::binary | std::ios::trunc) << std::string(bytes, with);
    if (fd_ < 0) fd_ = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC);
  }
  char* map(std::size_t length, int protection = PROT_READ) const {
    ranges::terms asked;
    asked.require = STILL_TORN;
    asked.unproved = true;
    ranges::holding how;
    const long at = ranges::map_snapshot(nullptr, length, protection, MAP_PRIVATE, fd_, 0, asked, how);
    EXPECT_FALSE(kernel::failed(at)) << at;
    EXPECT_EQ(how.how, STILL_COPIED);
    return reinterpret_cast<char*>(at);
  }
  static bool is_all(const char* at, std::size_t bytes, char of) {
    for (std::size_t i = 0; i < bytes; ++i)
      if (at[i] != of) return false;
    return true;
  }

  std::string path_;
  int fd_ = -1;
  std::uint64_t charged_before_ = 0;
};

TEST_F(SmallMappings, HoldStillAndEndInZeros) {
  for (const std::size_t bytes : {std::size_t{1}, page - 1, page, page + 1, 9 * page + 5, 17 * page, 100 * page}) {
    fill(bytes, 'a');
    char* const at = map(bytes);
    const std::size_t whole = memory::page_ceiling(bytes);
    fill(whole, 'b');
    EXPECT_TRUE(is_all(at, bytes, 'a')) << bytes;
    EXPECT_TRUE(is_all(at + bytes, whole - bytes, '\0')) << bytes;
    EXPECT_EQ(ranges::unmap(at, bytes), 0);
    EXPECT_FALSE(testing_support::try_read(reinterpret_cast<std::byte*>(at)));
  }
}

TEST_F(SmallMappings, CanNotBeWritten) {
  fill(page, 'a');
  char* const at = map(page);
  const pid_t child = ::fork();
  if (child == 0) {
    ::signal(SIGSEGV, SIG_DFL);
    *static_cast<volatile char*>(at) = 'x';
    ::_exit(0);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFSIGNALED(status));
  EXPECT_EQ(*at, 'a');
  ranges::unmap(at, page);
}

// The child's stay what they were, however often the parent maps and unmaps afterwards; and the other way
// round.
TEST_F(SmallMappings, OfAChildAreItsOwn) {
  constexpr std::size_t count = 20, bytes = 3 * page;
  std::vector<char*> all;
  for (std::size_t i = 0; i < count; ++i) {
    fill(bytes, static_cast<char>('a' + i));
    all.push_back(map(bytes));
  }
  int to_child[2], to_parent[2];
  ASSERT_EQ(::pipe(to_child), 0);
  ASSERT_EQ(::pipe(to_parent), 0);
  const auto churn = [&] {
    for (char* each : all) ranges::unmap(each, bytes);
    for (int round = 0; round < 50; ++round) {
      fill(bytes, '#');
      char* const at = map(bytes);
      if (!is_all(at, bytes, '#')) return false;
      ranges::unmap(at, bytes);
    }
    return true;
  };
  const pid_t child = ::fork();
  if (child == 0) {
    char go = 0;
    bool good = ::read(to_child[0], &go, 1) == 1;
    for (std::size_t i = 0; i < count; ++i) good = good && is_all(all[i], bytes, static_cast<char>('a' + i));
    good = good && churn();
    ::_exit(good && ::write(to_parent[1], "g", 1) == 1 ? 0 : 1);
  }
  std::vector<char*> kept(all.begin() + count / 2, all.end());
  all.resize(count / 2);
  EXPECT_TRUE(churn());
  EXPECT_EQ(::write(to_child[1], "g", 1), 1);
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  for (std::size_t i = 0; i < kept.size(); ++i)
    EXPECT_TRUE(is_all(kept[i], bytes, static_cast<char>('a' + count / 2 + i))) << i;
  for (char* each : kept) ranges::unmap(each, bytes);
  for (const int fd : {to_child[0], to_child[1], to_parent[0], to_parent[1]}) ::close(fd);
}

// It skips the handlers: what would show the next snapshot's bytes is not there.
TEST_F(SmallMappings, AreAbsentInTheChildOfARawClone) {
  fill(page, 'a');
  char* const at = map(page);
  const auto child = static_cast<pid_t>(::syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0));
  if (child == 0) {
    unsigned char there = 0;
    if (::mincore(at, page, &there) != -1) ::_exit(1);
    // Nor is the arena, and what it hands out next must not be looked for there: all that is free is the child's.
    std::vector<char*> taken;
    for (std::size_t all = 0; all < (std::size_t{64} << 20); all += std::size_t{1} << 20)
      taken.push_back(static_cast<char*>(::mmap(nullptr, std::size_t{1} << 20, PROT_READ | PROT_WRITE,
                                                MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)));
    if (ranges::unmap(at, page) != 0) ::_exit(2);
    for (int round = 0; round < 3; ++round) {
      char* const own = map(page);
      if (!is_all(own, page, 'a') || ranges::unmap(own, page) != 0) ::_exit(3);
    }
    for (const char* each : taken)
      if (!is_all(each, std::size_t{1} << 20, '\0')) ::_exit(4);
    ::_exit(0);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  ranges::unmap(at, page);
}

TEST_F(SmallMappings, BearWhatIsDoneToPartsOfThem) {
  constexpr std::size_t pages = 8;
  std::mt19937 random(7);
  const auto below = [&](std::size_t limit) { return random() % limit; };
  for (int round = 0; round < 400; ++round) {
    const char letter = static_cast<char>('a' + round % 26);
    fill(pages * page, letter);
    char* const at = map(pages * page);
    std::vector<bool> there(pages, true);
    for (int step = 0; step < 4; ++step) {
      const std::size_t first = below(pages), count = 1 + below(pages - first);
      char* const part = at + first * page;
      bool whole = true;
      for (std::size_t i = first; i < first + count; ++i) whole = whole && there[i];
      switch (below(4)) {
        case 0:
          EXPECT_EQ(ranges::unmap(part, count * page), 0);
          for (std::size_t i = first; i < first + count; ++i) there[i] = false;
          break;
        case 1:
          EXPECT_EQ(ranges::advise(part, count * page, MADV_DONTNEED), whole ? 0 : -ENOMEM);
          break;
        case 2:
          if (whole && ranges::protect(part, count * page, PROT_READ | PROT_WRITE) == 0)
            std::memset(part, letter, count * page);
          break;
        default:
          EXPECT_EQ(ranges::protect(part, count * page, PROT_READ), whole ? 0 : -ENOMEM);
      }
    }
    fill(pages * page, '#');
    for (std::size_t i = 0; i < pages; ++i) {
      if (there[i]) {
        ASSERT_TRUE(is_all(at + i * page, page, letter)) << round << ' ' << i;
      } else {
        ASSERT_FALSE(testing_support::try_read(reinterpret_cast<std::byte*>(at + i * page)));
      }
    }
    for (std::size_t i = 0; i < pages; ++i) {
      if (there[i]) {
        EXPECT_EQ(ranges::unmap(at + i * page, page), 0);
      }
    }
  }
}

TEST_F(SmallMappings, AreCopiesLikeOthersWhereThereIsNoRoom) {
  constexpr std::size_t bytes = 300 * 1024, count = 80;  // more than the arena has
  fill(bytes, 'a');
  std::vector<char*> all;
  for (std::size_t i = 0; i < count; ++i) all.push_back(map(bytes));
  fill(bytes, 'b');
  for (char* each : all) {
    EXPECT_TRUE(is_all(each, bytes, 'a'));
    EXPECT_EQ(ranges::unmap(each, bytes), 0);
  }
}

// Threads that map, look and unmap, while others fork.
TEST_F(SmallMappings, OfManyThreadsDoNotMix) {
  std::atomic<bool> stop{false};
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  std::vector<int> fds;
  for (int t = 0; t < 3; ++t) {
    const std::string path = path_ + std::to_string(t);
    std::ofstream(path, std::ios::binary) << std::string((1 + static_cast<std::size_t>(t)) * page, static_cast<char>('a' + t));
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    fds.push_back(fd);
    ::unlink(path.c_str());
    threads.emplace_back([&, t, fd] {
      const std::size_t bytes = (1 + static_cast<std::size_t>(t)) * page;
      ranges::terms asked;
      asked.require = STILL_TORN;
      asked.unproved = true;
      while (!stop) {
        ranges::holding how;
        const long at = ranges::map_snapshot(nullptr, bytes, PROT_READ, MAP_SHARED, fd, 0, asked, how);
        if (kernel::failed(at) || !is_all(reinterpret_cast<char*>(at), bytes, static_cast<char>('a' + t))) ++wrong;
        if (!kernel::failed(at) && ranges::unmap(reinterpret_cast<void*>(at), bytes) != 0) ++wrong;
      }
    });
  }
  for (int i = 0; i < 60; ++i) {
    const pid_t child = ::fork();
    if (child == 0) ::_exit(0);
    ::waitpid(child, nullptr, 0);
  }
  stop = true;
  for (std::thread& each : threads) each.join();
  for (const int fd : fds) ::close(fd);
  EXPECT_EQ(wrong, 0);
}

}  // namespace
}  // namespace stillmap
