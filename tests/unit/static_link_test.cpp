// SPDX-License-Identifier: Apache-2.0
//
// The static library, whose members are linked only where something names them: what must run unasked (the
// fork handlers) must be there, and a snapshot may be opened before the library's own initialisers ran.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include <stillmap/snapshot.hpp>

#include <cstdlib>
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
