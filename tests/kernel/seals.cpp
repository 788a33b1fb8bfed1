// SPDX-License-Identifier: Apache-2.0
//
// Seals of a memfd: which of them prove that the bytes cannot change (F_SEAL_WRITE with F_SEAL_SHRINK), and
// which look as if they did. `sealed` maps a file directly on the strength of F_GET_SEALS alone.
#include <liburing.h>

#include "fixture.hpp"

namespace {

using namespace facts;

descriptor memory_file(unsigned flags = MFD_ALLOW_SEALING) {
  descriptor file(memfd_create("facts", MFD_CLOEXEC | flags));
  if (file < 0) fail("memfd_create");
  const std::string bytes(4 * page, 'a');
  if (pwrite(file, bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size())) fail("pwrite");
  return file;
}

int seal(int fd, int seals) {
  return fcntl(fd, F_ADD_SEALS, seals) == 0 ? 0 : errno;
}

TEST(Seal, TellsAMemfdFromOtherFiles) {
  EXPECT_EQ(fcntl(memory_file(), F_GET_SEALS), 0);
  EXPECT_EQ(fcntl(memory_file(0), F_GET_SEALS), F_SEAL_SEAL) << "no seal can be added: writable for ever";
  const descriptor sealed = memory_file();
  ASSERT_EQ(seal(sealed, F_SEAL_WRITE | F_SEAL_SHRINK), 0);
  EXPECT_EQ(fcntl(sealed, F_GET_SEALS), F_SEAL_WRITE | F_SEAL_SHRINK);
  EXPECT_EQ(fcntl(opened_anew(sealed, O_RDONLY), F_GET_SEALS), F_SEAL_WRITE | F_SEAL_SHRINK)
      << "of the file, not of the descriptor";

  if (const auto root = folder::root("TMPFS")) {
    const folder place(*root);
    write_file(place / "file", page, 'a');
    EXPECT_EQ(fcntl(opened(place / "file", O_RDONLY), F_GET_SEALS), F_SEAL_SEAL);
  }
  for (const char* name : {"EXT4", "XFS", "BTRFS"}) {
    if (const auto root = folder::root(name)) {
      const folder place(*root);
      write_file(place / "file", page, 'a');
      EXPECT_EQ(fcntl(opened(place / "file", O_RDONLY), F_GET_SEALS), -1) << name;
      EXPECT_EQ(errno, EINVAL) << name;
    }
  }
}

TEST(Seal, OfWriteAndShrinkRefusesEveryWriter) {
  const descriptor file = memory_file();
  const descriptor reader = opened_anew(file, O_RDONLY);
  const mapping view(reader, 4 * page, PROT_READ, MAP_SHARED);
  EXPECT_EQ(pwrite(file, "a", 1, 0), 1) << "the contrast: before";
  ASSERT_EQ(seal(file, F_SEAL_WRITE | F_SEAL_SHRINK), 0);
  const auto refused = [](long result) { return result < 0 && errno == EPERM; };
  EXPECT_TRUE(refused(pwrite(file, "b", 1, 0)));
  EXPECT_TRUE(refused(ftruncate(file, page)));
  EXPECT_TRUE(refused(fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, page)));
  EXPECT_EQ(mmap(nullptr, page, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0), MAP_FAILED);
  EXPECT_EQ(errno, EPERM);
  const descriptor anew = opened_anew(file, O_RDWR);
  EXPECT_TRUE(refused(pwrite(anew, "b", 1, 0)));
  const mapping later(file, page, PROT_READ, MAP_SHARED);
  EXPECT_EQ(mprotect(later.data(), page, PROT_READ | PROT_WRITE), -1);
  EXPECT_EQ(errno, EACCES);
  EXPECT_EQ(view.load(0), 'a');
}

TEST(Seal, OfWriteIsRefusedWhileAMappingExistsThatMayBecomeWritable) {
  const descriptor file = memory_file();
  for (const int protection : {PROT_READ | PROT_WRITE, PROT_READ}) {  // PROT_READ: mprotect could change that
    const mapping view(file, page, protection, MAP_SHARED);
    EXPECT_EQ(seal(file, F_SEAL_WRITE), EBUSY) << "protection " << protection;
  }
  const descriptor reader = opened_anew(file, O_RDONLY);
  const mapping view(reader, page, PROT_READ, MAP_SHARED);
  EXPECT_EQ(seal(file, F_SEAL_WRITE), 0);
}

TEST(Seal, OfWriteIsRefusedWhileTheKernelHoldsPagesForWriting) {
  io_uring ring;
  if (const int code = io_uring_queue_init(2, &ring, 0); code != 0)
    GTEST_SKIP() << "no io_uring: " << strerror(-code);
  const descriptor file = memory_file();
  {
    mapping view(file, page, PROT_READ | PROT_WRITE, MAP_SHARED);
    const iovec buffer{view.data(), page};
    ASSERT_EQ(io_uring_register_buffers(&ring, &buffer, 1), 0);
  }
  EXPECT_EQ(seal(file, F_SEAL_WRITE), EBUSY) << "no mapping is left: the pages are pinned";
  ASSERT_EQ(io_uring_unregister_buffers(&ring), 0);
  EXPECT_TRUE(eventually([&] { return seal(file, F_SEAL_WRITE) == 0; }));
  io_uring_queue_exit(&ring);
}

TEST(Seal, OfWriteAloneDoesNotKeepTheEnd) {
  const descriptor file = memory_file();
  ASSERT_EQ(seal(file, F_SEAL_WRITE), 0);
  const mapping view(file, 4 * page, PROT_READ, MAP_SHARED);
  EXPECT_EQ(ftruncate(file, page), 0);
  EXPECT_EQ(touch_signal(view.data() + page), SIGBUS);
  EXPECT_EQ(touch_signal(view.data()), 0);
}

TEST(Seal, OfFutureWritesLeavesOldMappingsWriting) {
  const descriptor file = memory_file();
  const mapping writer(file, page, PROT_READ | PROT_WRITE, MAP_SHARED);
  ASSERT_EQ(seal(file, F_SEAL_FUTURE_WRITE | F_SEAL_SHRINK), 0);
  const mapping view(file, page, PROT_READ, MAP_SHARED);
  EXPECT_EQ(pwrite(file, "b", 1, 0), -1);
  EXPECT_EQ(view.load(0), 'a');
  writer.store(0, 'b');
  EXPECT_EQ(view.load(0), 'b');
}

}  // namespace
