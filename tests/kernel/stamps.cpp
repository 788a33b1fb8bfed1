// SPDX-License-Identifier: Apache-2.0
//
// Time stamps as witnesses: what ctime tells of a change, what it does not, and the order of calls in which a
// reader may believe it. `verified` stands on these:
//
//     statx, sync_file_range, lseek(SEEK_DATA), read, statx
//
// sync_file_range cleans the pages, so that the next store through a mapping moves ctime again; SEEK_DATA
// waits for a write(2) that is under way, whose ctime moved when it began (on XFS the read does, and SEEK_DATA is
// left out); equal stamps then mean: nothing in between.
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include <atomic>
#include <functional>
#include <limits>
#include <thread>

#include "fixture.hpp"
#include "pair_writer.hpp"

namespace {

using namespace facts;

class Stamp : public on_each_file_system {};
INSTANTIATE_TEST_SUITE_P(On, Stamp, testing::Values("EXT4", "TMPFS", "XFS", "BTRFS", "OVERLAY"),
                         file_system_name);
class StampOfAStore : public on_each_file_system {};
INSTANTIATE_TEST_SUITE_P(On, StampOfAStore, testing::Values("EXT4", "XFS", "BTRFS"), file_system_name);
class StampOfAStoreOnTmpfs : public on_each_file_system {};
INSTANTIATE_TEST_SUITE_P(On, StampOfAStoreOnTmpfs, testing::Values("TMPFS"), file_system_name);
class StampOfAStoreOnOverlay : public on_each_file_system {};
INSTANTIATE_TEST_SUITE_P(On, StampOfAStoreOnOverlay, testing::Values("OVERLAY"), file_system_name);

int write_back(int fd) {
  return sync_file_range(fd, 0, 0,
                         SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER);
}

/* Whether act moves the ctime of fd's file. */
template <class Act>
bool moves(int fd, Act act) {
  const auto before = ctime_of(fd);
  act();
  return ctime_of(fd) != before;
}

// write(2) -----------------------------------------------------------------------------------------------

TEST_P(Stamp, MovesWithEveryWriteHoweverSoon) {
  const descriptor reader = opened(file(), O_RDONLY);
  const descriptor writer = opened(file(), O_WRONLY);
  constexpr int rounds = 5'000;
  int alike = 0;
  for (int round = 0; round < rounds; ++round) {
    if (!moves(reader, [&] { EXPECT_EQ(pwrite(writer, "b", 1, 0), 1); })) ++alike;
  }
  EXPECT_EQ(alike, 0) << "of " << rounds << ": no multigrain stamps here (Linux 6.13)";
  EXPECT_FALSE(moves(reader, [&] {
    char byte;
    EXPECT_EQ(pread(reader, &byte, 1, 0), 1);
  })) << "the contrast: a read";
}

TEST_P(Stamp, OfChangeCannotBePutBackWhereThatOfTheBytesCan) {
  const descriptor reader = opened(file(), O_RDONLY);
  const auto before = stat_of(reader);
  const descriptor writer = opened(file(), O_WRONLY);
  ASSERT_EQ(pwrite(writer, "b", 1, 0), 1);
  EXPECT_NE(mtime_of(reader), nanoseconds(before.stx_mtime));
  const timespec times[2] = {{before.stx_atime.tv_sec, before.stx_atime.tv_nsec},
                             {before.stx_mtime.tv_sec, before.stx_mtime.tv_nsec}};
  ASSERT_EQ(futimens(writer, times), 0);
  EXPECT_EQ(mtime_of(reader), nanoseconds(before.stx_mtime)) << "as if nothing had been written";
  EXPECT_NE(ctime_of(reader), nanoseconds(before.stx_ctime));
}

/* A write(2) of two pages whose second source page is missing: it hangs in the middle, until resume(). */
class write_under_way {
 public:
  explicit write_under_way(const std::string& path)
      : faults_(static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC))),
        source_(-1, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS),
        out_(opened(path, O_WRONLY)) {
    if (faults_ < 0) fail("userfaultfd");
    std::memset(source_.data(), 'b', page);
    uffdio_api api{UFFD_API, 0, 0};
    uffdio_register range{};
    range.range = {reinterpret_cast<__u64>(source_.data()) + page, page};
    range.mode = UFFDIO_REGISTER_MODE_MISSING;
    if (ioctl(faults_, UFFDIO_API, &api) != 0 || ioctl(faults_, UFFDIO_REGISTER, &range) != 0) fail("UFFDIO");
    thread_ = std::thread([this] {
      written_ = pwrite(out_, source_.data(), 2 * page, 0);
      done_ = true;
    });
    uffd_msg fault{};
    if (read(faults_, &fault, sizeof fault) != sizeof fault) fail("read a fault");
  }
  ~write_under_way() {
    if (thread_.joinable()) resume();
  }
  bool done() const { return done_; }
  ssize_t resume() {
    std::string filling(2 * page, 'b');
    char* const aligned =
        filling.data() + (page - reinterpret_cast<std::uintptr_t>(filling.data()) % page) % page;
    uffdio_copy copy{};
    copy.dst = reinterpret_cast<__u64>(source_.data()) + page;
    copy.src = reinterpret_cast<__u64>(aligned);
    copy.len = page;
    if (ioctl(faults_, UFFDIO_COPY, &copy) != 0) std::perror("UFFDIO_COPY");
    thread_.join();
    return written_;
  }

 private:
  descriptor faults_;
  mapping source_;
  descriptor out_;
  std::atomic<bool> done_{false};
  ssize_t written_ = 0;
  std::thread thread_;
};

TEST_P(Stamp, MovesWhenAWriteBeginsAndNotAgainWhenItEnds) {
  const descriptor reader = opened(file(), O_RDONLY);
  const auto before = ctime_of(reader);
  std::optional<write_under_way> write;
  try {
    write.emplace(file());
  } catch (const std::system_error& error) {
    GTEST_SKIP() << "no userfaultfd to stop a write with: " << error.what();
  }
  const auto during = ctime_of(reader);
  EXPECT_NE(during, before);
  EXPECT_FALSE(write->done());
  ASSERT_EQ(write->resume(), static_cast<ssize_t>(2 * page));
  char byte = 0;
  ASSERT_EQ(pread(reader, &byte, 1, page), 1);
  EXPECT_EQ(byte, 'b') << "this byte came after the second look";
  EXPECT_EQ(ctime_of(reader), during) << "and no third look tells";
}

TEST_P(Stamp, IsToBeBelievedOnlyAfterACallThatWaitsForAWriteUnderWay) {
  std::optional<write_under_way> write;
  // Runs call in a thread; whether it is done before the write is, or hangs.
  const auto waits = [&](const std::function<void(int)>& call) {
    const descriptor own = opened(file(), O_RDONLY);
    std::atomic<pid_t> task{0};
    std::atomic<bool> done{false};
    std::thread thread([&] {
      task = gettid();
      call(own);
      done = true;
    });
    eventually([&] {
      const char state = task != 0 ? task_state(getpid(), task) : char{0};
      return done || state == 'D' || state == 'S';
    });
    const bool hung = !done && !eventually([&] { return done.load(); }, milliseconds(50));
    if (hung) write->resume();
    thread.join();
    return hung;
  };
  const auto seek_data = [](int fd) { lseek(fd, 0, SEEK_DATA); };
  // Behind the end it need not look for the file's blocks.
  const auto seek_behind_the_end = [](int fd) {
    EXPECT_EQ(lseek(fd, std::numeric_limits<off_t>::max(), SEEK_DATA), -1);
    EXPECT_EQ(errno, ENXIO);
  };
  const auto read_it = [](int fd) {
    char byte;
    EXPECT_EQ(pread(fd, &byte, 1, 0), 1);
  };
  for (const std::function<void(int)>& seek : {std::function<void(int)>(seek_data), std::function<void(int)>(seek_behind_the_end)}) {
    try {
      write.emplace(file());
    } catch (const std::system_error& error) {
      GTEST_SKIP() << "no userfaultfd to stop a write with: " << error.what();
    }
    EXPECT_FALSE(waits([](int fd) { stat_of(fd); }));
    EXPECT_FALSE(waits([](int fd) { write_back(fd); }));
    EXPECT_FALSE(waits([](int fd) { lseek(fd, 0, SEEK_END); }));
    // The inode lock is what a write holds. XFS takes no such lock to seek, but a read there takes it, as it
    // does nowhere else: either way the verifying order, which does both, has waited before it looks again.
    const bool read_waits = on("XFS");
    EXPECT_FALSE(read_waits ? waits(seek) : waits(read_it));
    EXPECT_TRUE(read_waits ? waits(read_it) : waits(seek));
    write.reset();
  }
}

// Stores through a mapping -------------------------------------------------------------------------------

TEST_P(StampOfAStore, MovesOnceUntilAReaderWritesThePageBack) {
  const descriptor reader = opened(file(), O_RDONLY);
  const descriptor writer = opened(file(), O_RDWR);
  const mapping view(writer, page, PROT_READ | PROT_WRITE, MAP_SHARED);
  ASSERT_EQ(fdatasync(reader), 0);
  EXPECT_TRUE(moves(reader, [&] { view.store(0, 'b'); }));
  EXPECT_FALSE(moves(reader, [&] { view.store(0, 'c'); })) << "the page is dirty already";

  EXPECT_EQ(write_back(reader), 0) << "allowed to a reader";
  EXPECT_TRUE(moves(reader, [&] { view.store(0, 'd'); }));
  EXPECT_FALSE(moves(reader, [&] { view.store(0, 'e'); }));

  EXPECT_EQ(fdatasync(reader), 0);
  EXPECT_TRUE(moves(reader, [&] { view.store(0, 'f'); }));
  EXPECT_FALSE(moves(reader, [&] { view.store(0, 'g'); }));

  const mapping readers_view(reader, page, PROT_READ, MAP_SHARED);
  EXPECT_EQ(msync(readers_view.data(), page, MS_SYNC), 0) << "says it did";
  EXPECT_FALSE(moves(reader, [&] { view.store(0, 'h'); })) << "and did nothing";
  EXPECT_EQ(msync(view.data(), page, MS_SYNC), 0);
  EXPECT_TRUE(moves(reader, [&] { view.store(0, 'i'); })) << "the contrast: the writer's own";
}

TEST_P(StampOfAStore, MayBeMissingForThePagesBesideTheFirst) {
  constexpr std::size_t size = 2 << 20;
  write_file(file(), size, 'a');  // in one go: large folios where the file system has them
  const descriptor reader = opened(file(), O_RDONLY);
  const descriptor writer = opened(file(), O_RDWR);
  const mapping view(writer, size, PROT_READ | PROT_WRITE, MAP_SHARED);
  ASSERT_EQ(fdatasync(reader), 0);
  EXPECT_TRUE(moves(reader, [&] { view.store(0, 'b'); }));
  const bool seen = moves(reader, [&] { view.store(page, 'b'); });
  std::printf("%s: a store to the page beside a dirty one %s\n", GetParam(),
              seen ? "moves ctime" : "moves nothing");
  EXPECT_FALSE(moves(reader, [&] { view.store(page, 'c'); }));
  ASSERT_EQ(write_back(reader), 0);
  EXPECT_TRUE(moves(reader, [&] { view.store(page, 'd'); })) << "writing back re-arms all of them";
}

TEST_P(StampOfAStoreOnTmpfs, MovesOnceAndNothingRearmsIt) {
  const descriptor reader = opened(file(), O_RDONLY);
  const descriptor writer = opened(file(), O_RDWR);
  const mapping view(writer, page, PROT_READ | PROT_WRITE, MAP_SHARED);
  const bool first = moves(reader, [&] { view.store(0, 'b'); });
  std::printf("TMPFS: the first store %s\n", first ? "moves ctime" : "moves nothing");
  const std::function<void()> attempts[] = {
      [] {},
      [&] { EXPECT_EQ(write_back(reader), 0); },
      [&] { EXPECT_EQ(fdatasync(reader), 0); },
      [&] { EXPECT_EQ(msync(view.data(), page, MS_SYNC), 0); },
      [&] { EXPECT_EQ(posix_fadvise(reader, 0, 0, POSIX_FADV_DONTNEED), 0); },
  };
  for (const auto& attempt : attempts) {
    attempt();
    EXPECT_FALSE(moves(reader, [&] { view.store(0, 'c'); }));
  }
  EXPECT_TRUE(moves(reader, [&] { EXPECT_EQ(pwrite(writer, "d", 1, 0), 1); })) << "the contrast";
}

TEST_P(StampOfAStoreOnOverlay, IsRearmedByFdatasyncAlone) {
  const descriptor writer = opened(file(), O_RDWR);
  const descriptor reader = opened(file(), O_RDONLY);
  const mapping view(writer, page, PROT_READ | PROT_WRITE, MAP_SHARED);
  ASSERT_EQ(fdatasync(reader), 0);
  EXPECT_TRUE(moves(reader, [&] { view.store(0, 'b'); }));
  EXPECT_FALSE(moves(reader, [&] { view.store(0, 'c'); }));
  EXPECT_EQ(write_back(reader), 0) << "says it did";
  EXPECT_FALSE(moves(reader, [&] { view.store(0, 'd'); })) << "and did nothing";
  EXPECT_EQ(fdatasync(reader), 0);
  EXPECT_TRUE(moves(reader, [&] { view.store(0, 'e'); }));
}

TEST_P(StampOfAStore, CachestatTellsOfDirtyPagesToTheOwnerOnly) {
  constexpr long sys_cachestat = 451;
  struct {
    std::uint64_t offset, length;
  } const whole{0, 0};
  struct {
    std::uint64_t cached, dirty, writeback, evicted, recently_evicted;
  } seen{};
  const descriptor reader = opened(file(), O_RDONLY);
  const int fd = reader;
  if (syscall(sys_cachestat, fd, &whole, &seen, 0) != 0 && errno == ENOSYS)
    GTEST_SKIP() << "no cachestat (Linux 6.5)";
  ASSERT_EQ(fdatasync(reader), 0);
  ASSERT_EQ(syscall(sys_cachestat, fd, &whole, &seen, 0), 0);
  EXPECT_EQ(seen.dirty, 0u);
  const descriptor writer = opened(file(), O_RDWR);
  const mapping view(writer, page, PROT_READ | PROT_WRITE, MAP_SHARED);
  view.store(0, 'b');
  ASSERT_EQ(syscall(sys_cachestat, fd, &whole, &seen, 0), 0);
  EXPECT_GT(seen.dirty, 0u);
  if (geteuid() != 0) return;
  ASSERT_EQ(chmod(file().c_str(), 0644), 0);
  child stranger([&] {
    NEED(setresuid(65534, 65534, 65534) == 0);
    NEED(syscall(sys_cachestat, fd, &whole, &seen, 0) != 0);
    NEED(errno == EPERM);
    return 0;
  });
  EXPECT_TRUE(stranger.exits(0));
}

// The verifying order ------------------------------------------------------------------------------------

bool equal_stamps(const struct statx& one, const struct statx& other) {
  return nanoseconds(one.stx_ctime) == nanoseconds(other.stx_ctime) &&
         nanoseconds(one.stx_mtime) == nanoseconds(other.stx_mtime) && one.stx_size == other.stx_size;
}

TEST_P(StampOfAStore, InTheVerifyingOrderLetsNoImpossibleStateThrough) {
  write_file(file(), pair_file_size, 0);
  const pair_writers writers(file());
  const descriptor reader = opened(file(), O_RDONLY);
  std::string bytes(pair_file_size, 0);
  // The canary: what read alone gives; and what stamps give that nobody re-armed.
  long plain = 0, plain_impossible = 0, unarmed = 0, unarmed_impossible = 0;
  const auto canary_end = clock::now() + milliseconds(500);
  while (clock::now() < canary_end || (unarmed_impossible == 0 && clock::now() < canary_end + seconds(8))) {
    const auto before = stat_of(reader);
    copy_pairs(reader, plain % 2 == 0, &bytes);
    const bool accepted = equal_stamps(before, stat_of(reader));
    const bool impossible = !possible(bytes);
    ++plain;
    plain_impossible += impossible;
    unarmed += accepted;
    unarmed_impossible += accepted && impossible;
  }
  EXPECT_GT(plain_impossible, 0) << "the writers are too tame to prove anything";
  EXPECT_GT(unarmed_impossible, 0) << "here the two calls in the middle seem not to be needed";

  long tried = 0, accepted = 0, different = 0;
  std::uint64_t last = 0;
  const auto end = clock::now() + milliseconds(2500);
  while (clock::now() < end || (accepted == 0 && clock::now() < end + seconds(5))) {
    ++tried;
    const auto before = stat_of(reader);
    ASSERT_EQ(write_back(reader), 0);
    if (!on("XFS")) {
      ASSERT_EQ(lseek(reader, 0, SEEK_DATA), 0);
    }
    copy_pairs(reader, tried % 2 == 0, &bytes);
    if (!equal_stamps(before, stat_of(reader))) continue;
    ++accepted;
    ASSERT_TRUE(possible(bytes)) << "after " << accepted << " good ones: " << describe(bytes);
    if (const auto now = first_number(bytes); now != last) {
      last = now;
      ++different;
    }
  }
  EXPECT_GT(accepted, 0) << "of " << tried;
  EXPECT_GT(different, 0);
  std::printf(
      "%s: %ld of %ld accepted, %ld of different moments, none impossible; by read alone %ld of %ld "
      "impossible, "
      "by unarmed stamps %ld of %ld\n",
      GetParam(), accepted, tried, different, plain_impossible, plain, unarmed_impossible, unarmed);
}

}  // namespace
