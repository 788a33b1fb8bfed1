// SPDX-License-Identifier: Apache-2.0
//
// Which of a copy and a mapping is taken where both would do: what the machine is measured to be, what memory
// there is, and how the page cache holds the file.
#include "crossing.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <stillmap/stillmap.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "pool.hpp"
#include "settings.hpp"
#include "source.hpp"

namespace stillmap {
namespace {

constexpr std::uint64_t kib = 1024, mib = 1024 * kib;

TEST(Crossing, KeepsTheDefaultsWhereCopyingIsCheaperAtEverySize) {
  const thresholds found = crossing::limits_for({.map_page = 3000, .map_mib = 125'000, .copy_mib = 70'000});
  EXPECT_EQ(found.copy_max, thresholds{}.copy_max);
  EXPECT_EQ(found.copy_small_folios_max, thresholds{}.copy_small_folios_max);
}

TEST(Crossing, LiesWhereWhatAMappingCostsAtOnceIsUsedUp) {
  // 3 us at once, and 33 us a MiB less than the copy: they cross at 1/11 MiB.
  const thresholds found = crossing::limits_for({.map_page = 3000, .map_mib = 40'000, .copy_mib = 70'000});
  EXPECT_EQ(found.copy_max, mib / 11);
  EXPECT_EQ(found.copy_warm_max, mib / 11);
  EXPECT_EQ(found.copy_small_folios_max, mib / 11);
  EXPECT_EQ(found.copy_random_max, thresholds{}.copy_random_max);
}

TEST(Crossing, MayLieBeyondAMiB) {
  // 3 us at once, and 2 us a MiB less than the copy.
  const thresholds found = crossing::limits_for({.map_page = 3000, .map_mib = 71'000, .copy_mib = 70'000});
  EXPECT_EQ(found.copy_max, thresholds{}.copy_max);
  EXPECT_EQ(found.copy_warm_max, mib * 3 / 2);
  EXPECT_EQ(found.copy_small_folios_max, mib * 3 / 2);
}

TEST(Crossing, IsMeasuredOnceAndPlausible) {
  const crossing::costs* const found = crossing::measure();
  if (found == nullptr) GTEST_SKIP() << "no MADV_POPULATE_WRITE (Linux 5.14), or $STILLMAP_COPY_MAX is set";
  EXPECT_GT(found->map_page, 100);
  EXPECT_GT(found->map_mib, found->map_page);
  EXPECT_GT(found->copy_mib, 1000);
  EXPECT_LT(found->copy_mib, 1'000'000'000);
  const crossing::costs before = *found;
  EXPECT_EQ(crossing::measure(), found);
  EXPECT_EQ(found->copy_mib, before.copy_mib);
  EXPECT_EQ(crossing::limits(mib).copy_max, crossing::limits_for(*found).copy_max);
}

TEST(PoolIsWarm, OnceAMappingOfThatSizeWasClosedOrABufferWaits) {
  constexpr std::size_t bytes = 7 * mib + 12345;  // no other test's
  ASSERT_FALSE(pool::is_warm(bytes));
  pool::note_closed_mapping(bytes);
  EXPECT_TRUE(pool::is_warm(bytes));
  EXPECT_TRUE(pool::is_warm(bytes)) << "asking takes nothing";
  const pool::buffer one = pool::take(bytes);
  EXPECT_FALSE(pool::is_warm(bytes)) << "one mapping answers for one buffer, which is in use";
  pool::give_back(one);
  EXPECT_TRUE(pool::is_warm(bytes));
  EXPECT_TRUE(pool::is_warm(bytes));
  EXPECT_FALSE(pool::is_warm(17 * mib)) << "the pool keeps none of that size";
  pool::note_closed_mapping(17 * mib);
  EXPECT_FALSE(pool::is_warm(17 * mib));
}

bool has_multigrain_stamps() {
  utsname name;
  int major = 0, minor = 0;
  return ::uname(&name) == 0 && std::sscanf(name.release, "%d.%d", &major, &minor) == 2 &&
         (major > 6 || (major == 6 && minor >= 13));
}

class MediumFile : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const char* const folder = std::getenv((std::string("STILLMAP_TEST_") + GetParam()).c_str());
    if (folder == nullptr) GTEST_SKIP() << "no such file system";
    if (!has_multigrain_stamps()) GTEST_SKIP() << "no multigrain stamps (Linux 6.13): what was leased stays leased";
    path_ = std::string(folder) + "/medium";
    // A pool that is full of other sizes keeps none of this one; it gives up what is of no use within seconds.
    for (int i = 0; i < 500 && pool::kept_bytes() + 8 * mib > settings::instance().pool_bytes; ++i) {
      ::usleep(20'000);
      pool::give_back(pool::take(1));
    }
  }
  void TearDown() override { ::unlink(path_.c_str()); }

  void write(std::size_t bytes, std::size_t piece) {
    const int fd = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    ASSERT_GE(fd, 0);
    const std::vector<char> block(piece, 'x');
    for (std::size_t done = 0; done < bytes; done += piece)
      ASSERT_EQ(::write(fd, block.data(), piece), static_cast<ssize_t>(piece));
    ASSERT_EQ(::fsync(fd), 0);
    ::close(fd);
  }
  bool in_small_folios(std::uint64_t length) {
    const int fd = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC);
    facts known;
    EXPECT_EQ(gather(fd, known), 0);
    gather_folios(fd, 0, length, known);
    ::close(fd);
    return known.small_folios;
  }
  still_backing how(int access = STILL_ACCESS_DEFAULT) {
    still_options options{};
    options.size = sizeof options;
    options.access = access;
    still_snapshot* one = nullptr;
    EXPECT_EQ(still_open(path_.c_str(), &options, &one), 0) << still_message();
    if (one == nullptr) return STILL_AUTO;
    const still_backing result = still_how(one);
    EXPECT_EQ(static_cast<const char*>(still_data(one))[still_size(one) - 1], 'x');
    EXPECT_EQ(still_when(one), STILL_POINT_IN_TIME) << "as good as the lease that it stands in for";
    still_close(one);
    return result;
  }

  std::string path_;
};

TEST_P(MediumFile, IsSeenToLieInSmallFoliosOrInLargeOnes) {
  write(4 * mib, 4 * kib);
  EXPECT_TRUE(in_small_folios(4 * mib));
  EXPECT_TRUE(in_small_folios(4 * mib)) << "as remembered";
  write(4 * mib, 2 * mib);
  const std::string on = GetParam();
  if (on == "EXT4" || on == "XFS") {
    EXPECT_FALSE(in_small_folios(4 * mib));
    EXPECT_FALSE(in_small_folios(4 * mib));
  }
}

// A writer who has it open: the lease is refused, and the plan is as it is without warm memory.
TEST_P(MediumFile, ThatSomebodyMayWriteIsHeldAsEver) {
  if (std::string(GetParam()) == "TMPFS") GTEST_SKIP() << "only torn is to be had beside a writer there";
  write(5 * mib / 2, 4 * kib);
  still_snapshot* one = nullptr;
  ASSERT_EQ(still_open(path_.c_str(), nullptr, &one), 0) << still_message();
  still_close(one);
  ASSERT_TRUE(pool::is_warm(5 * mib / 2));
  const int writer = ::open(path_.c_str(), O_WRONLY | O_CLOEXEC);
  EXPECT_EQ(still_open(path_.c_str(), nullptr, &one), 0) << still_message();
  EXPECT_EQ(still_how(one), STILL_COPIED) << "below 4 MiB no clone is made";
  EXPECT_EQ(still_when(one), STILL_VERIFIED);
  EXPECT_EQ(static_cast<const char*>(still_data(one))[still_size(one) - 1], 'x');
  still_close(one);
  ::close(writer);
}

TEST_P(MediumFile, IsMappedFirstAndCopiedWhereMemoryIsWarm) {
  if (crossing::limits(0).copy_small_folios_max < 8 * mib) GTEST_SKIP() << "faults are cheap on this machine";
  // On each file system a size of its own, for the pool is one.
  const std::string on = GetParam();
  const std::size_t bytes = on == "EXT4" ? 5 * mib : on == "TMPFS" ? 6 * mib : on == "XFS" ? 3 * mib : 7 * mib / 2;
  write(bytes, 4 * kib);
  EXPECT_EQ(how(), STILL_LEASED);
  EXPECT_EQ(how(), STILL_COPIED) << "the mapping that was closed answers for a buffer";
  EXPECT_EQ(how(), STILL_COPIED) << "and that is used again";
  EXPECT_EQ(how(STILL_ACCESS_RANDOM), STILL_LEASED) << "a part of the bytes is not worth a copy";
  still_options options{};
  options.size = sizeof options;
  options.backing = STILL_LEASED;
  still_snapshot* kept = nullptr;
  ASSERT_EQ(still_open(path_.c_str(), &options, &kept), 0) << still_message();
  EXPECT_EQ(how(), STILL_LEASED) << "a mapping that stands costs nothing to share";
  still_close(kept);
  EXPECT_EQ(how(), STILL_COPIED);
  if (on != "EXT4" && on != "XFS") return;
  write(bytes, mib);
  EXPECT_EQ(how(), STILL_LEASED) << "large folios are mapped with a few faults";
}

INSTANTIATE_TEST_SUITE_P(On, MediumFile, testing::Values("EXT4", "TMPFS", "XFS", "BTRFS"),
                         [](const auto& one) { return std::string(one.param); });

}  // namespace
}  // namespace stillmap
