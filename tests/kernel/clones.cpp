// SPDX-License-Identifier: Apache-2.0
//
// FICLONE is a point in time: a clone of a file that is being changed through a mapping and by write(2) shows
// one instant of it. `cloned` promises `point_in_time` on this.
//
// What an instant is: a writer sets the same number near the start of the file and then near its end, again
// and again. At any instant the first is equal to the second or one ahead. A copy that shows anything else is
// of no instant at all; reading from front to back soon makes one (the canary), a clone never may.
#include <linux/fs.h>
#include <sys/ioctl.h>

#include "fixture.hpp"
#include "pair_writer.hpp"

namespace {

using namespace facts;

class Clone : public on_each_file_system {};
INSTANTIATE_TEST_SUITE_P(On, Clone, testing::Values("XFS", "BTRFS"), file_system_name);
class NoClone : public on_each_file_system {};
INSTANTIATE_TEST_SUITE_P(On, NoClone, testing::Values("EXT4", "TMPFS"), file_system_name);

TEST_P(Clone, IsAPointInTimeUnderFire) {
  write_file(file(), pair_file_size, 0);
  const pair_writers writers(file());
  const descriptor source = opened(file(), O_RDONLY);

  // The canary: read at the same time, the same writers do give impossible copies.
  std::string bytes(pair_file_size, 0);
  EXPECT_TRUE(eventually([&] {
    copy_pairs(source, true, &bytes);
    return !possible(bytes);
  })) << "the writers are too tame to prove anything";

  long clones = 0, different = 0;
  std::uint64_t last = 0;
  const auto end = clock::now() + seconds(2);
  while (clock::now() < end) {
    const descriptor twin(open(beside(".").c_str(), O_TMPFILE | O_RDWR | O_EXCL, 0));
    ASSERT_GE(twin, 0);
    ASSERT_EQ(ioctl(twin, FICLONE, int{source}), 0) << strerror(errno);
    ASSERT_EQ(pread(twin, bytes.data(), bytes.size(), 0), static_cast<ssize_t>(bytes.size()));
    ASSERT_TRUE(possible(bytes)) << "after " << clones << " good ones: " << describe(bytes);
    ++clones;
    if (const auto now = first_number(bytes); now != last) {
      last = now;
      ++different;
    }
  }
  EXPECT_GT(clones, 10);
  EXPECT_GT(different, 5) << "the file did not change meanwhile";
  std::printf("%ld clones, %ld of them of different moments\n", clones, different);
}

TEST_P(Clone, NeedsNoWritePermissionOnTheSourceAndKeepsItsBytes) {
  const descriptor source = opened(file(), O_RDONLY);
  const descriptor twin = opened(beside("twin"), O_RDWR | O_CREAT);
  ASSERT_EQ(ioctl(twin, FICLONE, int{source}), 0);
  const mapping view(twin, page, PROT_READ, MAP_SHARED);
  const descriptor writer = opened(file(), O_WRONLY);
  ASSERT_EQ(pwrite(writer, "b", 1, 0), 1);
  EXPECT_EQ(view.load(0), 'a');
  ASSERT_EQ(ftruncate(writer, 0), 0);
  EXPECT_EQ(touch_signal(view.data()), 0);
}

TEST_P(NoClone, IsRefusedWithEopnotsupp) {
  const descriptor source = opened(file(), O_RDONLY);
  const descriptor twin = opened(beside("twin"), O_RDWR | O_CREAT);
  EXPECT_EQ(ioctl(twin, FICLONE, int{source}), -1);
  EXPECT_EQ(errno, EOPNOTSUPP);
}

}  // namespace
