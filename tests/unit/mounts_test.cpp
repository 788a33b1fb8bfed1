// SPDX-License-Identifier: Apache-2.0
//
// B4: what lies below the upper directory of an overlay must not be leased, whatever path leads there.
#include "linux/mounts.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

#include "linux/descriptor.hpp"
#include "source.hpp"

namespace stillmap {
namespace {

class OverlayUpper : public testing::Test {
 protected:
  void SetUp() override {
    const char* const folder = std::getenv("STILLMAP_TEST_OVERLAY_UPPER");
    const char* const beside = std::getenv("STILLMAP_TEST_EXT4");
    if (folder == nullptr || beside == nullptr) GTEST_SKIP() << "no overlay";
    upper_ = folder;
    beside_ = beside;
  }
  static bool below(const std::string& path) {
    const descriptor file(::open(path.c_str(), O_RDONLY | O_CREAT | O_CLOEXEC, 0644));
    facts known;
    EXPECT_EQ(gather(file.get(), known), 0) << path;
    gather_for_leases(file.get(), known);
    return known.under_overlay;
  }
  std::string upper_, beside_;
};

TEST_F(OverlayUpper, ContainsItsFiles) {
  EXPECT_TRUE(below(upper_ + "/file"));
}
TEST_F(OverlayUpper, DoesNotContainItsNeighbours) {
  EXPECT_FALSE(below(beside_ + "/file"));
}

TEST_F(OverlayUpper, IsRecognisedThroughABindMountOfAFolderBelowIt) {
  const std::string inner = upper_ + "/folder", bound = beside_ + "/bound";
  ::mkdir(inner.c_str(), 0755);
  ::mkdir(bound.c_str(), 0755);
  if (::mount(inner.c_str(), bound.c_str(), nullptr, MS_BIND, nullptr) != 0) GTEST_SKIP() << "no bind mounts";
  // The mount table may be remembered for a hundred times what reading it took.
  bool seen = false;
  for (int i = 0; i < 200 && !seen; ++i) {
    seen = below(bound + "/file");
    if (!seen) ::usleep(10'000);
  }
  EXPECT_TRUE(seen);
  ::umount2(bound.c_str(), MNT_DETACH);
}

TEST_F(OverlayUpper, MayHoldAnotherNameOfAFile) {
  const std::string one = beside_ + "/one-name", other = upper_ + "/other-name";
  EXPECT_FALSE(below(one));
  ASSERT_EQ(::link(one.c_str(), other.c_str()), 0);
  EXPECT_TRUE(below(one));
}

TEST_F(OverlayUpper, IsTakenToBeAnywhereWhereItsPathIsRelative) {
  const std::string folder = beside_ + "/relative";
  for (const char* const name : {"", "/u", "/l", "/w", "/m"}) ::mkdir((folder + name).c_str(), 0755);
  char before[4096];
  ASSERT_NE(::getcwd(before, sizeof before), nullptr);
  ASSERT_EQ(::chdir(folder.c_str()), 0);
  const int mounted = ::mount("overlay", "m", "overlay", 0, "lowerdir=l,upperdir=u,workdir=w");
  ASSERT_EQ(::chdir(before), 0);
  if (mounted != 0) GTEST_SKIP() << "no overlay by relative paths";
  bool seen = false;
  for (int i = 0; i < 200 && !seen; ++i) {
    seen = below(folder + "/u/file");
    if (!seen) ::usleep(10'000);
  }
  EXPECT_TRUE(seen);
  ::umount2((folder + "/m").c_str(), MNT_DETACH);
  // The next test starts from a table that has forgotten it.
  for (int i = 0; i < 200 && below(beside_ + "/file"); ++i) ::usleep(10'000);
}

}  // namespace
}  // namespace stillmap
