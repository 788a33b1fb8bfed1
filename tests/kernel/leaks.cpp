// SPDX-License-Identifier: Apache-2.0
//
// Where a lease does not protect: the eight leaks, B1 to B8 of docs/kernel.md, each shown at work. A lease is
// held, F_GETLEASE says so before and after, and yet the reader's mapping faults or shows other bytes.
//
// A test here that fails is good news of a kind: that kernel has closed the leak. It is still to be looked
// at, for the refusals that the library makes because of it could then go.
//
// Mounts are made in a mount namespace of a child's own and go with it.
#include <dirent.h>
#include <liburing.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <linux/fuse.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include <atomic>
#include <thread>
#include <vector>

#include "fixture.hpp"

namespace {

using namespace facts;

class Leak : public on_each_file_system {};
INSTANTIATE_TEST_SUITE_P(On, Leak, testing::Values("EXT4", "TMPFS", "XFS", "BTRFS"), file_system_name);

constexpr int not_here = 77;  // exit code of a child that finds its means missing; it has said why

/* Runs a whole test in a child with mounts of its own. */
template <class Body>
void in_own_mounts(Body body) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root, to mount";
  child apart([&] {
    if (unshare(CLONE_NEWNS) != 0 || mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) {
      std::perror("skip: no mount namespace");
      return not_here;
    }
    return body();
  });
  if (apart.exits(not_here)) GTEST_SKIP() << "the reason stands above";
  EXPECT_TRUE(apart.exits(0)) << "wait status " << apart.status();
}

// B1 -----------------------------------------------------------------------------------------------------

TEST_P(Leak, B1TruncationByAnOpenForReadingBreaksNothing) {
  const descriptor reader = opened(file(), O_RDONLY);
  const mapping view(reader, 4 * page, PROT_READ, MAP_SHARED);
  ASSERT_EQ(view.load(0), 'a');
  ASSERT_EQ(take(reader), 0);
  EXPECT_EQ(open_error(file(), O_RDONLY | O_TRUNC), 0) << "no waiting";
  EXPECT_EQ(held(reader), F_RDLCK) << "and no break";
  EXPECT_EQ(stat_of(reader).stx_size, 0u);
  EXPECT_EQ(touch_signal(view.data()), SIGBUS);
  char byte;
  const iovec local{&byte, 1}, remote{view.data(), 1};
  EXPECT_EQ(process_vm_readv(getpid(), &local, 1, &remote, 1, 0), -1);
  EXPECT_EQ(errno, EFAULT);
  EXPECT_EQ(pread(reader, &byte, 1, 0), 0);

  // It faults, but it never shows other bytes: to make the file longer again takes what does break the lease.
  child writer([&] { return truncate(file().c_str(), 4 * page) == 0 ? 0 : errno; });
  EXPECT_TRUE(waits_for_lease(writer, reader));
  EXPECT_EQ(touch_signal(view.data()), SIGBUS) << "still";
  EXPECT_EQ(give(reader), 0);
  EXPECT_TRUE(writer.exits(0));
  EXPECT_EQ(view.load(0), 0) << "what a reader would see who had released without poisoning first";
}

// B2 to B4: overlayfs ------------------------------------------------------------------------------------

class LeakOfOverlay : public on_each_file_system {
 protected:
  void SetUp() override {
    on_each_file_system::SetUp();
    if (IsSkipped()) return;
    const auto upper = folder::root("OVERLAY_UPPER"), overlay = folder::root("OVERLAY");
    ASSERT_TRUE(upper && overlay);
    upper_file_ = *upper + file().substr(overlay->size());
    ASSERT_EQ(access(upper_file_.c_str(), F_OK), 0);
  }
  const std::string& upper_file() const { return upper_file_; }

 private:
  std::string upper_file_;
};
INSTANTIATE_TEST_SUITE_P(On, LeakOfOverlay, testing::Values("OVERLAY"), file_system_name);

TEST_P(LeakOfOverlay, B2OverlayForgetsAWriterThatMappedAndClosed) {
  const descriptor reader = opened(file(), O_RDONLY);
  const mapping view(reader, page, PROT_READ, MAP_SHARED);
  descriptor writer = opened(file(), O_RDWR);
  const mapping writers_view(writer, page, PROT_READ | PROT_WRITE, MAP_SHARED);
  EXPECT_EQ(take(reader), EAGAIN) << "the contrast: while the descriptor stands";
  writer.close();
  EXPECT_EQ(take(reader), 0);
  EXPECT_EQ(view.load(0), 'a');
  writers_view.store(0, 'b');
  EXPECT_EQ(view.load(0), 'b');
  EXPECT_EQ(held(reader), F_RDLCK);
  EXPECT_EQ(take(opened(upper_file(), O_RDONLY)), EAGAIN) << "the upper file knows of the writer";
}

TEST_P(LeakOfOverlay, B3LeaseThroughTheOverlayDoesNotHoldWritersOfTheLayerBelow) {
  const descriptor reader = opened(file(), O_RDONLY);
  const mapping view(reader, page, PROT_READ, MAP_SHARED);
  ASSERT_EQ(take(reader), 0);
  EXPECT_EQ(view.load(0), 'a');
  {
    const descriptor writer = opened(upper_file(), O_WRONLY | O_NONBLOCK);
    EXPECT_EQ(pwrite(writer, "b", 1, 0), 1);
  }
  EXPECT_EQ(view.load(0), 'b');
  EXPECT_EQ(held(reader), F_RDLCK);
  EXPECT_EQ(open_error(file(), O_WRONLY | O_NONBLOCK), EAGAIN) << "the contrast: through the overlay";
}

TEST_P(LeakOfOverlay, B3LeaseOnALowerFileHoldsItsWritersNoMore) {
  const auto lower = folder::root("OVERLAY_LOWER"), overlay = folder::root("OVERLAY");
  ASSERT_TRUE(lower && overlay);
  const folder place(*lower);
  write_file(place / "file", page, 'a');
  const std::string through = *overlay + place.path().substr(lower->size()) + "/file";
  if (access(through.c_str(), F_OK) != 0)
    GTEST_SKIP() << "the overlay does not show what came into its lower layer later";
  const descriptor reader = opened(through, O_RDONLY);
  const mapping view(reader, page, PROT_READ, MAP_SHARED);
  ASSERT_EQ(take(reader), 0);
  const descriptor writer = opened(place / "file", O_WRONLY | O_NONBLOCK);
  ASSERT_EQ(pwrite(writer, "b", 1, 0), 1);
  EXPECT_EQ(view.load(0), 'b');
  EXPECT_EQ(held(reader), F_RDLCK);
}

/* A lease on a file that is an overlay's upper one, and truncate(2) through that overlay. */
int truncate_through_overlay(const std::string& through, const std::string& upper) {
  const descriptor reader = opened(upper, O_RDONLY);
  const mapping view(reader, page, PROT_READ, MAP_SHARED);
  NEED(take(reader) == 0);
  NEED(view.load(page / 2) == 'a');
  child writer([&] {
    NEED(truncate(through.c_str(), 1) == 0);
    NEED(truncate(through.c_str(), page) == 0);
    return 0;
  });
  NEED(writer.exits(0));  // it does not wait
  NEED(held(reader) == F_RDLCK);
  NEED(view.load(page / 2) == 0);                              // and the bytes are others
  NEED(open_error(through, O_WRONLY | O_NONBLOCK) == EAGAIN);  // the contrast: opening through the overlay
  NEED(held(reader) == F_UNLCK);
  return 0;
}

TEST_P(LeakOfOverlay, B4LeaseOnAnUpperFileDoesNotHoldTruncationThroughTheOverlay) {
  EXPECT_EQ(truncate_through_overlay(file(), upper_file()), 0);
}

TEST_P(Leak, B4LeaseOnAnUpperFileDoesNotHoldTruncationThroughAnOverlayAboveIt) {
  in_own_mounts([&] {
    for (const char* name : {"upper", "lower", "work", "overlay"})
      NEED(mkdir(beside(name).c_str(), 0777) == 0);
    write_file(beside("upper/file"), page, 'a');
    const std::string options =
        "lowerdir=" + beside("lower") + ",upperdir=" + beside("upper") + ",workdir=" + beside("work");
    if (mount("overlay", beside("overlay").c_str(), "overlay", 0, options.c_str()) != 0) {
      std::perror("skip: no overlay");
      return not_here;
    }
    return truncate_through_overlay(beside("overlay/file"), beside("upper/file"));
  });
}

// B5 -----------------------------------------------------------------------------------------------------

TEST(LeakOfMemfd, B5ItsOwnDescriptorForWritingCountsAsNoWriter) {
  const descriptor file(memfd_create("facts", MFD_CLOEXEC));
  ASSERT_EQ(pwrite(file, "a", 1, 0), 1);
  const descriptor reader = opened_anew(file, O_RDONLY);
  const mapping view(reader, page, PROT_READ, MAP_SHARED);
  EXPECT_EQ(take(reader), 0);
  EXPECT_EQ(view.load(0), 'a');
  ASSERT_EQ(pwrite(file, "b", 1, 0), 1);
  EXPECT_EQ(view.load(0), 'b');
  EXPECT_EQ(held(reader), F_RDLCK);
  EXPECT_EQ(stat_of(reader).stx_nlink, 0u) << "what tells it from a file of tmpfs with a name";
  EXPECT_EQ(give(reader), 0);

  const descriptor second_writer = opened_anew(file, O_RDWR);
  EXPECT_EQ(take(reader), EAGAIN) << "the contrast: one opened anew counts";
}

TEST_P(Leak, B5ANamelessFileOfAnOrdinaryKindDoesCountItsWriter) {
  const descriptor file(open(beside(".").c_str(), O_TMPFILE | O_RDWR, 0600));
  ASSERT_GE(file, 0);
  EXPECT_EQ(take(opened_anew(file, O_RDONLY)), EAGAIN);
}

// B6 -----------------------------------------------------------------------------------------------------

TEST_P(Leak, B6AnIoUringBufferOutlivesTheMappingItWasMadeFrom) {
  io_uring ring;
  if (const int code = io_uring_queue_init(2, &ring, 0); code != 0)
    GTEST_SKIP() << "no io_uring: " << strerror(-code);
  descriptor writer = opened(file(), O_RDWR);
  mapping writers_view(writer, page, PROT_READ | PROT_WRITE, MAP_SHARED);
  const iovec buffer{writers_view.data(), page};
  const int registered = io_uring_register_buffers(&ring, &buffer, 1);
  if (!on("TMPFS")) {
    EXPECT_TRUE(registered == -EFAULT || registered == -EOPNOTSUPP)
        << registered << ": a pin that lasts is refused where dirty pages are tracked";
    io_uring_queue_exit(&ring);
    return;
  }
  ASSERT_EQ(registered, 0);
  const descriptor reader = opened(file(), O_RDONLY);
  EXPECT_EQ(take(reader), EAGAIN);
  writers_view.unmap();
  writer.close();
  EXPECT_EQ(take(reader), 0) << "nobody is left that could write";
  const mapping view(reader, page, PROT_READ, MAP_SHARED);
  EXPECT_EQ(view.load(0), 'a');

  write_file(beside("source"), page, 'b');
  const descriptor source = opened(beside("source"), O_RDONLY);
  io_uring_prep_read_fixed(io_uring_get_sqe(&ring), source, buffer.iov_base, page, 0, 0);
  io_uring_cqe* event = nullptr;
  ASSERT_EQ(io_uring_submit(&ring), 1);
  ASSERT_EQ(io_uring_wait_cqe(&ring, &event), 0);
  EXPECT_EQ(event->res, static_cast<int>(page));
  EXPECT_EQ(view.load(0), 'b');
  EXPECT_EQ(held(reader), F_RDLCK);
  io_uring_queue_exit(&ring);
}

// B7 -----------------------------------------------------------------------------------------------------

/* A FUSE file system that is one regular file, read past the page cache. Spoken by hand: five kinds of
 * request, and the point of it is to keep one READ waiting for as long as we like. */
class slow_file {
 public:
  explicit slow_file(const std::string& at) : device_(opened("/dev/fuse", O_RDWR)) {
    char options[128];
    std::snprintf(options, sizeof options, "fd=%d,rootmode=100644,user_id=0,group_id=0", int{device_});
    if (mount("facts", at.c_str(), "fuse", MS_NOSUID | MS_NODEV, options) != 0) fail("mount fuse");
  }
  /* Answers what comes until this kind of request does, and leaves that one waiting. */
  void serve_until(std::uint32_t opcode) {
    for (;;) {
      const fuse_in_header in = next();
      if (in.opcode == opcode) {
        waiting_ = in.unique;
        return;
      }
      switch (in.opcode) {
        case FUSE_INIT: {
          fuse_init_out out{};
          out.major = FUSE_KERNEL_VERSION;
          out.minor = FUSE_KERNEL_MINOR_VERSION;
          out.max_write = page;
          answer(in.unique, &out, sizeof out);
          break;
        }
        case FUSE_GETATTR: {
          fuse_attr_out out{};
          out.attr.ino = FUSE_ROOT_ID;
          out.attr.mode = S_IFREG | 0644;
          out.attr.nlink = 1;
          out.attr.size = page;
          answer(in.unique, &out, sizeof out);
          break;
        }
        case FUSE_OPEN: {
          fuse_open_out out{};
          out.open_flags = FOPEN_DIRECT_IO;
          answer(in.unique, &out, sizeof out);
          break;
        }
        default:
          answer(in.unique, nullptr, 0, -ENOSYS);
      }
    }
  }
  void finish_read(char fill) {
    const std::string bytes(page, fill);
    answer(waiting_, bytes.data(), bytes.size());
  }
  /* In a forked child: only the server keeps the device. */
  void leave() { device_.close(); }
  void refuse() { answer(waiting_, nullptr, 0, -ENOSYS); }

 private:
  fuse_in_header next() {
    request_.resize(FUSE_MIN_READ_BUFFER + page);
    fuse_in_header in{};
    if (read(device_, request_.data(), request_.size()) < static_cast<ssize_t>(sizeof in))
      fail("read /dev/fuse");
    std::memcpy(&in, request_.data(), sizeof in);
    return in;
  }
  void answer(std::uint64_t unique, const void* body, std::size_t size, int error = 0) {
    const fuse_out_header head{static_cast<std::uint32_t>(sizeof(fuse_out_header) + size), error, unique};
    const iovec parts[2] = {{const_cast<fuse_out_header*>(&head), sizeof head},
                            {const_cast<void*>(body), size}};
    if (writev(device_, parts, 2) < 0) fail("write /dev/fuse");
  }

  descriptor device_;
  std::vector<char> request_;
  std::uint64_t waiting_ = 0;
};

TEST_P(Leak, B7AReadUnderWayIntoAMappingOutlivesTheMapping) {
  in_own_mounts([&] {
    if (access("/dev/fuse", R_OK | W_OK) != 0) {
      std::perror("skip: /dev/fuse");
      return not_here;
    }
    write_file(beside("slow"), page, 's');
    const gate unmap, unmapped;
    // Declared before the device, hence gone after it: closing the device ends the read, without which its
    // process cannot be killed.
    std::optional<child> writer;
    slow_file slow(beside("slow"));
    writer.emplace([&] {
      slow.leave();
      mapping view(opened(file(), O_RDWR), page, PROT_READ | PROT_WRITE, MAP_SHARED);
      view.store(0, 'a');
      const descriptor source = opened(beside("slow"), O_RDONLY);
      std::atomic<ssize_t> got{0};
      std::thread in_flight([&, into = view.data()] { got = read(source, into, page); });
      unmap.wait();
      view.unmap();
      unmapped.say();
      in_flight.join();
      NEED(got == static_cast<ssize_t>(page));
      return 0;
    });
    slow.serve_until(FUSE_READ);

    const descriptor reader = opened(file(), O_RDONLY);
    NEED(take(reader) == EAGAIN);  // the mapping
    unmap.say();
    unmapped.wait();
    NEED(take(reader) == 0);  // nobody is left that could write
    const mapping view(reader, page, PROT_READ, MAP_SHARED);
    NEED(view.load(0) == 'a');
    slow.finish_read('b');
    slow.serve_until(FUSE_FLUSH);  // its close, after the read is over
    slow.refuse();
    NEED(view.load(0) == 'b');
    NEED(held(reader) == F_RDLCK);
    NEED(writer->exits(0));
    return 0;
  });
}

// B8 -----------------------------------------------------------------------------------------------------

class LeakOfADevice : public on_any_file_system, public testing::WithParamInterface<const char*> {
 protected:
  /* Gives `file` on a small file system of this kind, whose blocks cannot be written any more: the image lies
   * in a tmpfs that is full, and the file's own blocks have been punched out of it. */
  int make_refusing(const std::string& place, std::string* file) {
    const std::string image = place + "/image", inside = place + "/inside";
    NEED(mount("tmpfs", place.c_str(), "tmpfs", 0, "size=400m") == 0);
    NEED(mkdir(inside.c_str(), 0700) == 0);
    const std::string kind = GetParam();
    const char* const make = kind == "ext4"
                                 ? "mkfs.ext4 -q -b 4096 -O ^has_journal -E nodiscard,lazy_itable_init=0"
                                 : "mkfs.xfs -q -K";
    const descriptor disk = opened(image, O_RDWR | O_CREAT);
    NEED(ftruncate(disk, 320 << 20) == 0);
    const std::string script = std::string(make) + " " + image + " && mount -o loop " + image + " " + inside;
    if (std::system(script.c_str()) != 0) {
      dprintf(2, "skip: no %s can be made and mounted here\n", GetParam());
      return not_here;
    }
    NEED(fallocate(disk, 0, 0, 320 << 20) == 0);  // so that only what is punched below is missing
    *file = inside + "/file";
    write_file(*file, 4 * page, 'a');
    const descriptor reader = opened(*file, O_RDONLY);
    NEED(fsync(reader) == 0);
    NEED(syncfs(reader) == 0);

    alignas(fiemap) char space[sizeof(fiemap) + 8 * sizeof(fiemap_extent)] = {};
    auto* const map = reinterpret_cast<fiemap*>(space);
    map->fm_length = 4 * page;
    map->fm_extent_count = 8;
    NEED(ioctl(reader, FS_IOC_FIEMAP, map) == 0 && map->fm_mapped_extents == 1);
    NEED(fallocate(disk, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                   static_cast<off_t>(map->fm_extents[0].fe_physical), 4 * page) == 0);
    const descriptor filler = opened(place + "/filler", O_WRONLY | O_CREAT);
    for (off_t step = 1 << 24; step >= static_cast<off_t>(page); step /= 2) {
      struct stat now {};
      for (;;) {
        NEED(fstat(filler, &now) == 0);
        if (fallocate(filler, 0, now.st_size, step) != 0) break;
      }
      NEED(errno == ENOSPC);
    }
    return 0;
  }
};
INSTANTIATE_TEST_SUITE_P(Under, LeakOfADevice, testing::Values("ext4", "xfs"), file_system_name);

TEST_P(LeakOfADevice, B8ThatRefusesTheDirtyPagesOfADeadWriterBringsOldContentBack) {
  in_own_mounts([&] {
    const std::string place = beside("device");
    NEED(mkdir(place.c_str(), 0700) == 0);
    std::string file;
    if (const int code = make_refusing(place, &file); code != 0) return code;
    child writer([&] {
      const descriptor out = opened(file, O_RDWR);
      const mapping view(out, page, PROT_READ | PROT_WRITE, MAP_SHARED);
      NEED(view.load(0) == 'a');
      view.store(0, 'b');
      return 0;
    });
    NEED(writer.exits(0));

    const descriptor reader = opened(file, O_RDONLY);
    const mapping view(reader, page, PROT_READ, MAP_SHARED);
    NEED(take(reader) == 0);
    NEED(view.load(0) == 'b');
    const int refused = fdatasync(reader) == 0 ? 0 : errno;
    dprintf(1, "%s: fdatasync: %s\n", GetParam(), strerror(refused));
    NEED(refused == EIO || refused == ENOSPC);  // what STILL_SYNCED goes by
    NEED(held(reader) == F_RDLCK);
    NEED(madvise(view.data(), page, MADV_PAGEOUT) == 0);
    const bool changed = eventually([&] {
      madvise(view.data(), page, MADV_PAGEOUT);
      return view.load(0) != 'b';
    });
    NEED(changed);
    NEED(view.load(0) == 0);  // what the device has there
    NEED(held(reader) == F_RDLCK);
    return 0;
  });
}

}  // namespace
