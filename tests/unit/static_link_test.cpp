// SPDX-License-Identifier: Apache-2.0
//
// The static library, whose members are linked only where something names them: what must run unasked (the
// fork handlers) must be there, and a snapshot may be opened before the library's own initialisers ran.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include <stillmap/snapshot.hpp>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>

#include "fault_guard.hpp"

namespace {

const stillmap::snapshot before_main = [] {
  std::error_code ec;
  return stillmap::snapshot::open("/proc/self/exe", {.require = stillmap::consistency::torn}, ec);
}();

TEST(StaticLibrary, OpensBeforeMain) {
  ASSERT_TRUE(before_main);

  EXPECT_EQ(static_cast<const char*>(before_main.data())[1], 'E');
}

// Two copies of the library in one process, with a lease each on one file: run once more under the preload.
TEST(StaticLibrary, HoldsStillBesideThePreload) {
  const char* const folder = std::getenv("STILLMAP_TEST_EXT4");
  if (folder == nullptr) GTEST_SKIP() << "no ext4 of our own";
  const char* const preload = std::getenv("LD_PRELOAD");
  if (preload == nullptr || std::string(preload).find("stillmap-preload") == std::string::npos)
    GTEST_SKIP() << "not under the preload";
  const std::string path = std::string(folder) + "/static", content(4 << 20, 'a');
  std::ofstream(path, std::ios::binary) << content;
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  void* const mapped = ::mmap(nullptr, content.size(), PROT_READ, MAP_PRIVATE, fd, 0);
  ::close(fd);
  ASSERT_NE(mapped, MAP_FAILED);
  const auto leased = stillmap::snapshot::open(path, {.backing = stillmap::backing::leased});
  EXPECT_EQ(leased.current(), stillmap::state::shared);
  const int child = ::fork();
  if (child == 0) ::_exit(std::memcmp(mapped, content.data(), content.size()) == 0 ? 0 : 1);
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0) << "the preload carries its mappings into a child";
  std::ofstream(path, std::ios::binary) << std::string(content.size(), 'b');
  EXPECT_EQ(leased.current(), stillmap::state::private_memory);
  EXPECT_EQ(std::memcmp(mapped, content.data(), content.size()), 0);
  EXPECT_EQ(std::memcmp(leased.data(), content.data(), content.size()), 0);
  EXPECT_EQ(::munmap(mapped, content.size()), 0);
  ::unlink(path.c_str());
}

TEST(StaticLibrary, AForkedChildFindsNothingInPlaceOfALeasedMapping) {
  const char* const folder = std::getenv("STILLMAP_TEST_EXT4");
  if (folder == nullptr) GTEST_SKIP() << "no ext4 of our own";
  const std::string path = std::string(folder) + "/static";
  std::ofstream(path, std::ios::binary) << std::string(4 << 20, 'a');
  const auto leased = stillmap::snapshot::open(path, {.backing = stillmap::backing::leased});
  const pid_t child = ::fork();
  if (child == 0) {
    void* const alien =
        ::mmap(nullptr, leased.size(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    const bool elsewhere = alien != leased.data();
    const bool gone = !stillmap::testing_support::try_read(leased.bytes().data());
    ::_exit(elsewhere && gone && leased.current() == stillmap::state::lost ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  ::unlink(path.c_str());
}

}  // namespace
