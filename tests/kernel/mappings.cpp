// SPDX-License-Identifier: Apache-2.0
//
// Mappings: how one is exchanged under its readers, what a child sees of it, and how bytes can be asked for
// without a touch that kills. The detach (one mremap at the same address), the fork rules (MADV_DONTFORK and
// a reservation in the child) and the rule that a copier never touches the mapping stand on these.
#include <sched.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

#include "fixture.hpp"

namespace {

using namespace facts;

class Mapping : public on_each_file_system {};
INSTANTIATE_TEST_SUITE_P(On, Mapping, testing::Values("EXT4", "TMPFS", "XFS", "BTRFS"), file_system_name);
class Swap : public on_any_file_system {};
class Fork : public on_any_file_system {};
class Kernel : public on_any_file_system {};

/* process_vm_readv on ourselves: bytes read, or minus errno. */
ssize_t read_memory(const char* from, char* to, std::size_t size) {
  const iovec local{to, size}, remote{const_cast<char*>(from), size};
  const ssize_t got = process_vm_readv(getpid(), &local, 1, &remote, 1, 0);
  return got < 0 ? -errno : got;
}

// The file's pages ---------------------------------------------------------------------------------------

TEST_P(Mapping, BeyondATruncationFaultsWhereReadersByCallGetAnError) {
  const descriptor reader = opened(file(), O_RDONLY);
  const mapping view(reader, 4 * page, PROT_READ, MAP_SHARED);
  std::vector<char> bytes(4 * page);
  EXPECT_EQ(read_memory(view.data(), bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
  EXPECT_EQ(touch_signal(view.data() + 2 * page), 0);

  ASSERT_EQ(truncate(file().c_str(), 2 * page), 0);
  EXPECT_EQ(touch_signal(view.data() + 2 * page), SIGBUS);
  EXPECT_EQ(touch_signal(view.data() + page), 0);
  EXPECT_EQ(read_memory(view.data() + 2 * page, bytes.data(), page), -EFAULT);
  EXPECT_EQ(read_memory(view.data(), bytes.data(), bytes.size()), 2 * static_cast<ssize_t>(page)) << "short";
  EXPECT_EQ(pread(reader, bytes.data(), bytes.size(), 0), 2 * static_cast<ssize_t>(page)) << "short";
  EXPECT_EQ(pread(reader, bytes.data(), page, 2 * page), 0);

  // A system call that copies from the mapping gives EFAULT as well, and no signal.
  const descriptor sink = opened(beside("sink"), O_WRONLY | O_CREAT);
  EXPECT_EQ(write(sink, view.data() + 2 * page, 1), -1);
  EXPECT_EQ(errno, EFAULT);
}

TEST_P(Mapping, PrivateOneHoldsNothingStill) {
  const descriptor reader = opened(file(), O_RDONLY);
  const mapping view(reader, 4 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE);
  view.store(0, 'p');  // this page is a copy of our own now
  EXPECT_EQ(view.load(page), 'a');
  const descriptor writer = opened(file(), O_RDWR);
  ASSERT_EQ(pwrite(writer, "b", 1, 0), 1);
  ASSERT_EQ(pwrite(writer, "b", 1, page), 1);
  EXPECT_EQ(view.load(0), 'p') << "the copy does not follow the file";
  EXPECT_EQ(view.load(page), 'b') << "the page beside it does";

  ASSERT_EQ(ftruncate(writer, 0), 0);
  EXPECT_EQ(touch_signal(view.data()), SIGBUS) << "and the copy goes with the file's end";
  const mapping own(-1, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS);
  own.store(0, 'p');
  EXPECT_EQ(touch_signal(own.data()), 0) << "the contrast: anonymous memory stays";
}

TEST_P(Mapping, ShowsWhatAWriterLeftBehindTheEndUntilItIsWrittenBack) {
  write_file(file(), 100, 'a');
  {
    const descriptor writer = opened(file(), O_RDWR);
    const mapping view(writer, page, PROT_READ | PROT_WRITE, MAP_SHARED);
    EXPECT_EQ(view.load(200), 0);
    view.store(200, 'x');
  }
  const descriptor reader = opened(file(), O_RDONLY);
  const mapping view(reader, page, PROT_READ, MAP_SHARED);
  ASSERT_EQ(take(reader), 0);
  EXPECT_EQ(view.load(200), 'x') << "though nobody can write";
  EXPECT_EQ(stat_of(reader).stx_size, 100u);
  ASSERT_EQ(fdatasync(reader), 0);
  EXPECT_EQ(view.load(200), on("TMPFS") ? 'x' : 0);
  EXPECT_EQ(held(reader), F_RDLCK);
}

TEST_P(Mapping, LosesItsBytesToDontneedOnlyOnceItIsAnonymous) {
  const descriptor reader = opened(file(), O_RDONLY);
  const mapping view(reader, page, PROT_READ, MAP_SHARED);
  ASSERT_EQ(madvise(view.data(), page, MADV_DONTNEED), 0);
  EXPECT_EQ(view.load(0), 'a');
  void* const copy = mmap(nullptr, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(copy, MAP_FAILED);
  std::memset(copy, 'a', page);
  ASSERT_EQ(mremap(copy, page, page, MREMAP_MAYMOVE | MREMAP_FIXED, view.data()), view.data());
  EXPECT_EQ(view.load(0), 'a');
  ASSERT_EQ(madvise(view.data(), page, MADV_DONTNEED), 0);
  EXPECT_EQ(view.load(0), 0);
}

TEST_P(Mapping, OfAnUnlinkedTemporaryFileCanBeWrittenByOthersOnlyWhileADescriptorStands) {
  descriptor hidden(open(beside(".").c_str(), O_TMPFILE | O_RDWR | O_EXCL, 0));
  ASSERT_GE(hidden, 0) << strerror(errno);
  ASSERT_EQ(pwrite(hidden, "a", 1, 0), 1);
  const mapping view(hidden, page, PROT_READ, MAP_SHARED);
  const std::string path = "/proc/" + std::to_string(getpid()) + "/fd/" + std::to_string(hidden);
  {
    const descriptor intruder = opened(path, O_WRONLY);
    ASSERT_EQ(pwrite(intruder, "b", 1, 0), 1);
  }
  EXPECT_EQ(view.load(0), 'b');
  hidden.close();
  EXPECT_EQ(open_error(path, O_WRONLY), ENOENT);
}

// The swap -----------------------------------------------------------------------------------------------

/* In a child: threads read a mapping of 'a' while swap(target, size) is called over and over for a second, or
 * until limit swaps. Ends with 0, with 2 when a reader saw anything else, or by the reader's fault. */
template <class SwapOnce>
int read_while_swapping(const std::string& file, SwapOnce swap_once) {
  const descriptor reader = opened(file, O_RDONLY);
  const mapping view(reader, 4 * page, PROT_READ, MAP_SHARED);
  std::atomic<bool> stop{false}, changed{false};
  std::atomic<long> reads{0};
  std::vector<std::thread> readers;
  for (int i = 0; i < 2; ++i) {
    readers.emplace_back([&] {
      while (!stop) {
        for (std::size_t at = 0; at < view.size(); at += page)
          if (view.load(at) != 'a') changed = true;
        ++reads;
      }
    });
  }
  eventually([&] { return reads > 0; });
  const auto end = clock::now() + seconds(1);
  int swaps = 0;
  while (clock::now() < end && !changed) {
    if (!swap_once(reader, view.data(), view.size())) return 1;
    ++swaps;
  }
  stop = true;
  for (auto& thread : readers) thread.join();
  NEED(swaps > 100);
  NEED(reads > 100);
  return changed ? 2 : 0;
}

void* private_copy(std::size_t size) {
  void* const copy = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (copy != MAP_FAILED) std::memset(copy, 'a', size);
  return copy;
}

TEST_F(Swap, ByMremapShowsItsReadersOldOrNewAndNeverAHole) {
  child swapper([&] {
    return read_while_swapping(file(), [](int fd, char* target, std::size_t size) {
      void* const copy = private_copy(size);
      if (mremap(copy, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, target) != target) return false;
      // And back to the file, by the other call that replaces in one go.
      return mmap(target, size, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0) == target;
    });
  });
  EXPECT_TRUE(swapper.exits(0)) << "status " << swapper.status();
}

TEST_F(Swap, InTwoStepsShowsAHole) {
  child swapper([&] {
    return read_while_swapping(file(), [](int fd, char* target, std::size_t size) {
      return munmap(target, size) == 0 &&
             mmap(target, size, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0) == target;
    });
  });
  EXPECT_TRUE(swapper.dies_of(SIGSEGV)) << "the contrast, and the proof that the test above can fail";
}

TEST_F(Swap, OfHugePagesIsCheapWhereBothSidesLieAlike) {
  constexpr std::size_t huge = 2 << 20, size = 64 * huge;
  const auto cost = [&](std::size_t off_by) -> std::optional<clock::duration> {
    const mapping source_room(-1, size + 2 * huge, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE);
    const mapping target_room(-1, size + 2 * huge, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE);
    const auto aligned = [&](char* at) {
      return at + (huge - reinterpret_cast<std::uintptr_t>(at) % huge) % huge;
    };
    char* const source = aligned(source_room.data());
    char* const target = aligned(target_room.data()) + off_by;
    if (mprotect(source, size, PROT_READ | PROT_WRITE) != 0) fail("mprotect");
    if (madvise(source, size, MADV_HUGEPAGE) != 0) return std::nullopt;
    std::memset(source, 'a', size);
    std::ifstream smaps("/proc/self/smaps");
    std::string line;
    bool inside = false;
    long huge_kib = 0;
    char start[32];
    std::snprintf(start, sizeof start, "%lx-", reinterpret_cast<unsigned long>(source));
    while (std::getline(smaps, line)) {
      if (line.rfind(start, 0) == 0) inside = true;
      if (inside && line.rfind("AnonHugePages:", 0) == 0) {
        huge_kib = std::atol(line.c_str() + 14);
        break;
      }
    }
    if (huge_kib * 1024 < static_cast<long>(size / 2)) return std::nullopt;
    const auto before = clock::now();
    if (mremap(source, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, target) != target) fail("mremap");
    const auto spent = clock::now() - before;
    if (target[0] != 'a' || target[size - 1] != 'a') fail("the bytes did not move along");
    return spent;
  };
  auto alike = clock::duration::max(), apart = clock::duration::max();
  for (int round = 0; round < 3; ++round) {  // five times dearer one page off, when nothing else runs
    const auto one = cost(0), other = cost(page);
    if (!one || !other) GTEST_SKIP() << "no transparent huge pages to be had";
    alike = std::min(alike, *one);
    apart = std::min(apart, *other);
  }
  EXPECT_LT(alike * 2, apart) << "128 MiB: " << alike.count() << " ns alike, " << apart.count()
                              << " ns one page off";
}

// Children -----------------------------------------------------------------------------------------------

TEST_F(Fork, LeavesAHoleWhereAMappingWasKeptFromTheChild) {
  const descriptor reader = opened(file(), O_RDONLY);
  const mapping view(reader, 4 * page, PROT_READ, MAP_SHARED);
  EXPECT_EQ(touch_signal(view.data()), 0) << "inherited";
  ASSERT_EQ(madvise(view.data(), view.size(), MADV_DONTFORK), 0);
  EXPECT_EQ(view.load(0), 'a') << "the parent keeps it";
  EXPECT_EQ(touch_signal(view.data()), SIGSEGV);

  child unaware([&] {
    NEED(fcntl(reader, F_GETFD) >= 0);  // the descriptor is inherited all the same
    for (int attempt = 0; attempt < 1000; ++attempt) {
      const void* const next = mmap(nullptr, view.size(), PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      if (next == view.data()) return 0;  // and a pointer from before the fork reads zeros there
    }
    return 2;
  });
  EXPECT_TRUE(unaware.exits(0)) << "some later mapping of the child's lands in the hole";

  child careful([&] {
    NEED(mmap(view.data(), view.size(), PROT_NONE,
              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0) == view.data());
    for (int attempt = 0; attempt < 1000; ++attempt)
      NEED(mmap(nullptr, view.size(), PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != view.data());
    return 0;
  });
  EXPECT_TRUE(careful.exits(0)) << "a reservation keeps the address taken";
}

// Odds and ends ------------------------------------------------------------------------------------------

TEST_F(Kernel, GivesNoChangeCookieToPrograms) {
  constexpr unsigned change_cookie = 0x40000000;  // STATX_CHANGE_COOKIE, the kernel's own
  struct statx result {};
  const descriptor reader = opened(file(), O_RDONLY);
  ASSERT_EQ(syscall(SYS_statx, int{reader}, "", AT_EMPTY_PATH, STATX_BASIC_STATS | change_cookie, &result),
            0);
  EXPECT_EQ(result.stx_mask & STATX_BASIC_STATS, STATX_BASIC_STATS + 0u);
  EXPECT_EQ(result.stx_mask & change_cookie, 0u);
}

TEST_F(Kernel, BoundsHowFinelyAMappingMayBePatched) {
  long limit = 0;
  std::ifstream("/proc/sys/vm/max_map_count") >> limit;
  ASSERT_GT(limit, 0);
  if (limit > 1'000'000) GTEST_SKIP() << "max_map_count is " << limit << ": too many to try";
  child patcher([&] {
    const std::size_t pages = 2 * static_cast<std::size_t>(limit);
    const mapping view(-1, pages * page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE);
    for (std::size_t at = 1; at < pages; at += 2) {
      if (mprotect(view.data() + at * page, page, PROT_NONE) == 0) continue;
      NEED(errno == ENOMEM);
      NEED(at > static_cast<std::size_t>(limit) * 9 / 10);
      return 0;
    }
    return 2;
  });
  EXPECT_TRUE(patcher.exits(0)) << "status " << patcher.status();
}

}  // namespace
