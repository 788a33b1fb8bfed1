// SPDX-License-Identifier: Apache-2.0
//
// Read leases: whom the kernel refuses one, what a held one makes wait, and what passes by it without harm.
//
// The whole of `leased` stands on these: a lease is granted only when nobody can write, and from then on
// nobody becomes a writer without asking. Where that does not hold is leaks.cpp; what happens when the holder
// is late, forced_break.cpp.
#include <liburing.h>
#include <linux/btrfs.h>
#include <linux/fs.h>
#include <linux/loop.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/ptrace.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <sys/uio.h>
#include <sys/xattr.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <thread>
#include <vector>

#include "fixture.hpp"

namespace {

using namespace facts;

constexpr uid_t nobody = 65534;

class Lease : public on_each_file_system {};
INSTANTIATE_TEST_SUITE_P(On, Lease, testing::Values("EXT4", "TMPFS", "XFS", "BTRFS"), file_system_name);

// Refusals -----------------------------------------------------------------------------------------------

TEST_P(Lease, IsRefusedWhileSomeoneHasADescriptorForWriting) {
  const descriptor reader = opened(file(), O_RDONLY);
  for (const int flags : {O_WRONLY, O_RDWR}) {
    const descriptor writer = opened(file(), flags);
    EXPECT_EQ(take(reader), EAGAIN);
  }
  const descriptor other_reader = opened(file(), O_RDONLY);
  EXPECT_EQ(take(reader), 0);
  EXPECT_EQ(held(reader), F_RDLCK);
}

TEST_P(Lease, IsRefusedWhileAWriterIsInFlightInAMessage) {
  const descriptor reader = opened(file(), O_RDONLY);
  int ends[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
  const descriptor sender(ends[0]), receiver(ends[1]);
  {
    const descriptor writer = opened(file(), O_WRONLY);
    char byte = '!';
    iovec part{&byte, 1};
    alignas(cmsghdr) char space[CMSG_SPACE(sizeof(int))] = {};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = space;
    message.msg_controllen = sizeof space;
    cmsghdr* const header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    const int number = writer;
    std::memcpy(CMSG_DATA(header), &number, sizeof number);
    ASSERT_EQ(sendmsg(sender, &message, 0), 1);
  }
  EXPECT_EQ(take(reader), EAGAIN);  // no process has it open now
  char byte;
  ASSERT_EQ(read(receiver, &byte, 1), 1);  // without room for the descriptor: the kernel drops it
  EXPECT_EQ(take(reader), 0);
}

TEST_P(Lease, IsRefusedWhileAWriterHasOnlyAMapping) {
  const descriptor reader = opened(file(), O_RDONLY);
  struct {
    int protection, flags;
  } const kinds[] = {{PROT_READ | PROT_WRITE, MAP_SHARED}, {PROT_READ, MAP_SHARED}, {PROT_READ, MAP_PRIVATE}};
  for (const auto& kind : kinds) {
    descriptor writer = opened(file(), O_RDWR);
    mapping view(writer, page, kind.protection, kind.flags);
    writer.close();
    EXPECT_EQ(take(reader), EAGAIN) << "protection " << kind.protection << ", flags " << kind.flags;
    view.unmap();
    EXPECT_EQ(take(reader), 0);
    EXPECT_EQ(give(reader), 0);
  }
  // The contrast: a mapping made from a descriptor for reading is no writer.
  descriptor other = opened(file(), O_RDONLY);
  const mapping view(other, page, PROT_READ, MAP_SHARED);
  other.close();
  EXPECT_EQ(take(reader), 0);
}

TEST_P(Lease, IsRefusedWhileAnIoUringHasTheWriterRegistered) {
  const descriptor reader = opened(file(), O_RDONLY);
  io_uring ring;
  if (const int code = io_uring_queue_init(2, &ring, 0); code != 0)
    GTEST_SKIP() << "no io_uring: " << strerror(-code);
  {
    const descriptor writer = opened(file(), O_WRONLY);
    const int number = writer;
    ASSERT_EQ(io_uring_register_files(&ring, &number, 1), 0);
  }
  EXPECT_EQ(take(reader), EAGAIN);
  ASSERT_EQ(io_uring_unregister_files(&ring), 0);
  EXPECT_TRUE(eventually([&] { return take(reader) == 0; }));
  io_uring_queue_exit(&ring);
}

/* A loop device over the file; gone with its last descriptor. */
descriptor loop_over(const std::string& path, bool writable) {
  const descriptor control = opened("/dev/loop-control", O_RDWR);
  const descriptor backing = opened(path, writable ? O_RDWR : O_RDONLY);
  for (int attempt = 0; attempt < 50; ++attempt) {
    const int number = ioctl(control, LOOP_CTL_GET_FREE);
    if (number < 0) fail("LOOP_CTL_GET_FREE");
    descriptor loop = opened("/dev/loop" + std::to_string(number), writable ? O_RDWR : O_RDONLY);
    loop_config config{};
    config.fd = static_cast<__u32>(backing);
    config.info.lo_flags = LO_FLAGS_AUTOCLEAR | (writable ? 0u : LO_FLAGS_READ_ONLY + 0u);
    if (ioctl(loop, LOOP_CONFIGURE, &config) == 0) return loop;
    if (errno != EBUSY) fail("LOOP_CONFIGURE");  // EBUSY: someone else was quicker
  }
  fail("no free loop device");
}

TEST_P(Lease, IsRefusedUnderAWritableLoopDevice) {
  const descriptor reader = opened(file(), O_RDONLY);
  descriptor loop;
  try {
    loop = loop_over(file(), true);
  } catch (const std::system_error& error) {
    GTEST_SKIP() << "no loop device: " << error.what();
  }
  EXPECT_EQ(take(reader), EAGAIN);
  loop.close();
  EXPECT_TRUE(eventually([&] { return take(reader) == 0; }));
  EXPECT_EQ(give(reader), 0);
  loop = loop_over(file(), false);  // the contrast
  EXPECT_EQ(take(reader), 0);
}

TEST_P(Lease, IsRefusedOnAPathDescriptorAndOnOnesOwnForWriting) {
  EXPECT_EQ(take(opened(file(), O_PATH)), EBADF);
  EXPECT_EQ(take(opened(file(), O_RDWR)), EAGAIN);
  EXPECT_EQ(take(opened(file(), O_WRONLY)), EAGAIN);
  EXPECT_EQ(take(opened(file(), O_RDONLY)), 0);
}

TEST_P(Lease, IsRefusedOnOtherPeoplesFilesWithoutTheCapability) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root, to become somebody else";
  const descriptor roots = opened(file(), O_RDONLY);
  write_file(beside("theirs"), page, 'a');
  ASSERT_EQ(chown(beside("theirs").c_str(), nobody, nobody), 0);
  const descriptor theirs = opened(beside("theirs"), O_RDONLY);
  EXPECT_EQ(take(theirs), 0) << "root has CAP_LEASE";
  EXPECT_EQ(give(theirs), 0);
  child somebody([&] {
    NEED(setresuid(nobody, nobody, nobody) == 0);
    NEED(take(roots) == EACCES);
    NEED(take(theirs) == 0);
    return 0;
  });
  EXPECT_TRUE(somebody.exits(0));
}

// What waits ---------------------------------------------------------------------------------------------

struct target {
  std::string path, link, descriptor_path, map_path;
  file_handle* handle;
  int mount;
};

struct way {
  const char* name;
  int unavailable;  // the errno that says: not on this machine
  std::function<int(const target&)> act;
};

int open_for_writing(const std::string& path) {
  return open_error(path, O_WRONLY);
}

int open_through_io_uring(const std::string& path) {
  io_uring ring;
  if (io_uring_queue_init(2, &ring, 0) != 0) return ENOSYS;
  io_uring_prep_openat(io_uring_get_sqe(&ring), AT_FDCWD, path.c_str(), O_WRONLY, 0);
  io_uring_cqe* event = nullptr;
  if (io_uring_submit(&ring) != 1 || io_uring_wait_cqe(&ring, &event) != 0) return EIO;
  return event->res < 0 ? -event->res : 0;
}

int open_in_new_namespaces(const std::string& path, int kinds) {
  if (unshare(kinds) != 0) return ENOSYS;
  return open_for_writing(path);
}

const way ways_to_write[] = {
    {"open O_WRONLY", 0, [](const target& t) { return open_error(t.path, O_WRONLY); }},
    {"open O_RDWR", 0, [](const target& t) { return open_error(t.path, O_RDWR); }},
    {"open O_WRONLY|O_TRUNC", 0, [](const target& t) { return open_error(t.path, O_WRONLY | O_TRUNC); }},
    {"a hard link", 0, [](const target& t) { return open_for_writing(t.link); }},
    {"/proc/PID/fd", 0, [](const target& t) { return open_for_writing(t.descriptor_path); }},
    {"/proc/PID/map_files", EPERM, [](const target& t) { return open_for_writing(t.map_path); }},
    {"truncate to the same size", 0,
     [](const target& t) { return truncate(t.path.c_str(), 4 * page) == 0 ? 0 : errno; }},
    {"truncate shorter", 0, [](const target& t) { return truncate(t.path.c_str(), 1) == 0 ? 0 : errno; }},
    {"truncate longer", 0,
     [](const target& t) { return truncate(t.path.c_str(), 8 * page) == 0 ? 0 : errno; }},
    {"io_uring openat", ENOSYS, [](const target& t) { return open_through_io_uring(t.path); }},
    {"open_by_handle_at", EPERM,
     [](const target& t) {
       const descriptor opened_file(open_by_handle_at(t.mount, t.handle, O_WRONLY));
       return opened_file < 0 ? errno : 0;
     }},
    {"another mount namespace", ENOSYS,
     [](const target& t) { return open_in_new_namespaces(t.path, CLONE_NEWNS); }},
    {"another user namespace", ENOSYS,
     [](const target& t) { return open_in_new_namespaces(t.path, CLONE_NEWUSER | CLONE_NEWNS); }},
    {"swapon", EPERM,
     [](const target&
            t) {  // no swap header in it: refused with EINVAL, but only after the opening that waits
       return swapon(t.path.c_str(), 0) != 0 && errno == EPERM ? EPERM : 0;
     }},
    {"acct", ENOSYS,
     [](const target& t) {
       if (acct(t.path.c_str()) != 0) return errno == EPERM ? ENOSYS : errno == EINVAL ? 0 : errno;
       acct(nullptr);
       return 0;
     }},
};

TEST_P(Lease, MakesEveryWayToBecomeAWriterWait) {
  ASSERT_EQ(link(file().c_str(), beside("link").c_str()), 0);
  const descriptor mount = opened(beside("."), O_RDONLY | O_DIRECTORY);
  alignas(file_handle) char handle_space[sizeof(file_handle) + MAX_HANDLE_SZ] = {};
  auto* const handle = reinterpret_cast<file_handle*>(handle_space);
  handle->handle_bytes = MAX_HANDLE_SZ;
  int mount_id = 0;
  ASSERT_EQ(name_to_handle_at(AT_FDCWD, file().c_str(), handle, &mount_id, 0), 0);

  for (const way& one : ways_to_write) {
    SCOPED_TRACE(one.name);
    ASSERT_EQ(truncate(file().c_str(), 4 * page), 0);
    const descriptor reader = opened(file(), O_RDONLY);
    const mapping view(reader, 4 * page, PROT_READ, MAP_SHARED);
    const std::string process = "/proc/" + std::to_string(getpid());
    char range[64];
    std::snprintf(range, sizeof range, "/map_files/%lx-%lx", reinterpret_cast<unsigned long>(view.data()),
                  reinterpret_cast<unsigned long>(view.data() + view.size()));
    const target at{file(),          beside("link"), process + "/fd/" + std::to_string(reader),
                    process + range, handle,         mount};
    ASSERT_EQ(take(reader), 0);
    child writer([&] { return one.act(at); });
    if (!waits_for_lease(writer, reader)) {
      if (one.unavailable != 0 && writer.exits(one.unavailable)) {
        std::printf("skip: %s: %s\n", one.name, strerror(one.unavailable));
        continue;
      }
      ADD_FAILURE() << "did not wait; wait status " << writer.status();
      continue;
    }
    EXPECT_EQ(give(reader), 0) << "released in time";
    EXPECT_TRUE(writer.exits(0)) << "status " << writer.status();
  }
}

TEST_P(Lease, MakesItsOwnProcessWaitAsWell) {
  const descriptor reader = opened(file(), O_RDONLY);
  ASSERT_EQ(take(reader), 0);
  std::atomic<pid_t> task{0};
  std::atomic<bool> done{false};
  std::thread writer([&] {
    task = gettid();
    const descriptor opened_file(::open(file().c_str(), O_WRONLY));
    done = true;
  });
  EXPECT_TRUE(
      eventually([&] { return task != 0 && held(reader) == F_UNLCK && task_state(getpid(), task) == 'S'; }));
  EXPECT_FALSE(done);
  EXPECT_EQ(give(reader), 0);
  writer.join();
  EXPECT_TRUE(done);
}

TEST_P(Lease, TurnsAwayWritersThatWillNotWait) {
  const descriptor reader = opened(file(), O_RDONLY);
  ASSERT_EQ(take(reader), 0);
  EXPECT_EQ(open_error(file(), O_RDONLY | O_NONBLOCK), 0);
  EXPECT_EQ(held(reader), F_RDLCK) << "a reader breaks nothing";
  EXPECT_EQ(open_error(file(), O_WRONLY | O_NONBLOCK), EAGAIN);
  EXPECT_EQ(held(reader), F_UNLCK) << "a writer does, though it went away";
  EXPECT_EQ(give(reader), 0);
  EXPECT_EQ(open_error(file(), O_WRONLY | O_NONBLOCK), 0);
}

TEST_P(Lease, StaysBrokenWhenASignalTakesTheWriterAway) {
  const descriptor reader = opened(file(), O_RDONLY);
  ASSERT_EQ(take(reader), 0);
  child writer([&] {
    struct sigaction ignore {};
    ignore.sa_handler = [](int) {};  // no SA_RESTART
    sigaction(SIGUSR1, &ignore, nullptr);
    return open_error(file(), O_WRONLY);
  });
  ASSERT_TRUE(waits_for_lease(writer, reader));
  ASSERT_EQ(kill(writer.pid(), SIGUSR1), 0);
  EXPECT_TRUE(writer.exits(EINTR));
  EXPECT_EQ(held(reader), F_UNLCK);
  EXPECT_EQ(give(reader), 0);
}

// What passes by -----------------------------------------------------------------------------------------

TEST_P(Lease, IsNotBrokenByWhatLeavesTheBytesAlone) {
  const descriptor reader = opened(file(), O_RDONLY);
  const mapping view(reader, 4 * page, PROT_READ, MAP_SHARED);
  write_file(beside("twin"), 4 * page, 'a');
  ASSERT_EQ(take(reader), 0);
  const auto intact = [&](const char* what) {
    EXPECT_EQ(held(reader), F_RDLCK) << what;
    for (std::size_t at = 0; at < view.size(); at += page) EXPECT_EQ(view.load(at), 'a') << what;
  };

  ASSERT_EQ(rename(file().c_str(), beside("renamed").c_str()), 0);
  intact("rename");
  ASSERT_EQ(link(beside("renamed").c_str(), beside("link").c_str()), 0);
  intact("link");
  ASSERT_EQ(unlink(beside("link").c_str()), 0);
  intact("unlink");
  ASSERT_EQ(chmod(beside("renamed").c_str(), 0600), 0);
  intact("chmod");
  ASSERT_EQ(chown(beside("renamed").c_str(), nobody, nobody), 0);
  intact("chown");
  ASSERT_EQ(setxattr(beside("renamed").c_str(), "user.note", "x", 1, 0), 0);
  intact("setxattr");
  ASSERT_EQ(utimensat(AT_FDCWD, beside("renamed").c_str(), nullptr, 0), 0);
  intact("utimensat");
  ASSERT_EQ(rename(beside("twin").c_str(), beside("renamed").c_str()), 0);  // the last name is gone
  intact("another file renamed over it");
  EXPECT_EQ(stat_of(reader).stx_nlink, 0u);
  const descriptor advised = opened_anew(reader, O_RDONLY);
  ASSERT_EQ(madvise(view.data(), view.size(), MADV_PAGEOUT), 0);
  ASSERT_EQ(posix_fadvise(advised, 0, 0, POSIX_FADV_DONTNEED), 0);
  intact("its pages reclaimed");

  // The contrast, through the descriptor, since no name is left.
  EXPECT_EQ(open_error("/proc/self/fd/" + std::to_string(reader), O_WRONLY | O_NONBLOCK), EAGAIN);
  EXPECT_EQ(held(reader), F_UNLCK);
}

class LeaseBesideReflinks : public Lease {};
INSTANTIATE_TEST_SUITE_P(On, LeaseBesideReflinks, testing::Values("XFS", "BTRFS"), file_system_name);

TEST_P(LeaseBesideReflinks, IsNotBrokenByDeduplicationDefragmentationOrWritesToATwin) {
  const descriptor reader = opened(file(), O_RDONLY);
  const descriptor twin = opened(beside("twin"), O_RDWR | O_CREAT);
  ASSERT_EQ(ioctl(twin, FICLONE, int{reader}), 0);
  const mapping view(reader, 4 * page, PROT_READ, MAP_SHARED);
  ASSERT_EQ(take(reader), 0);

  alignas(file_dedupe_range) char space[sizeof(file_dedupe_range) + sizeof(file_dedupe_range_info)] = {};
  auto* const range = reinterpret_cast<file_dedupe_range*>(space);
  range->src_length = 4 * page;
  range->dest_count = 1;
  range->info[0].dest_fd = reader;
  ASSERT_EQ(ioctl(twin, FIDEDUPERANGE, range), 0);
  EXPECT_EQ(range->info[0].status, FILE_DEDUPE_RANGE_SAME);
  EXPECT_EQ(held(reader), F_RDLCK);

  if (on("BTRFS")) {
    EXPECT_EQ(ioctl(reader, BTRFS_IOC_DEFRAG, nullptr), 0);
    EXPECT_EQ(held(reader), F_RDLCK);
  }
  ASSERT_EQ(pwrite(twin, "b", 1, 0), 1);
  ASSERT_EQ(fdatasync(twin), 0);
  EXPECT_EQ(held(reader), F_RDLCK);
  EXPECT_EQ(view.load(0), 'a');
}

TEST_P(Lease, LeavesNoWayToWriteThroughADescriptorForReading) {
  const descriptor reader = opened(file(), O_RDONLY);
  const descriptor other = opened(file(), O_RDONLY);
  write_file(beside("source"), 4 * page, 'b');
  const descriptor source = opened(beside("source"), O_RDONLY);
  mapping view(reader, 4 * page, PROT_READ, MAP_SHARED);
  ASSERT_EQ(take(reader), 0);
  const auto refused = [](long result, std::initializer_list<int> allowed) {
    return result < 0 && std::find(allowed.begin(), allowed.end(), errno) != allowed.end();
  };

  EXPECT_TRUE(refused(pwrite(other, "b", 1, 0), {EBADF}));
  EXPECT_TRUE(refused(ftruncate(other, 0), {EINVAL, EBADF}));
  EXPECT_TRUE(refused(fallocate(other, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, page), {EBADF}));
  EXPECT_TRUE(refused(ioctl(other, FICLONE, int{source}), {EBADF, EOPNOTSUPP, ENOTTY}));
  EXPECT_TRUE(refused(copy_file_range(source, nullptr, other, nullptr, page, 0), {EBADF}));
  EXPECT_TRUE(refused(sendfile(other, source, nullptr, page), {EBADF}));
  EXPECT_EQ(mmap(nullptr, page, PROT_WRITE, MAP_SHARED, other, 0), MAP_FAILED);
  EXPECT_EQ(errno, EACCES);
  EXPECT_TRUE(refused(mprotect(view.data(), page, PROT_READ | PROT_WRITE), {EACCES}));

  const descriptor memory = opened("/proc/self/mem", O_RDWR);
  const auto address = static_cast<off_t>(reinterpret_cast<std::uintptr_t>(view.data()));
  EXPECT_TRUE(refused(pwrite(memory, "b", 1, address), {EIO, EFAULT}));
  char byte = 'b';
  const iovec from{&byte, 1}, to{view.data(), 1};
  EXPECT_TRUE(refused(process_vm_writev(getpid(), &from, 1, &to, 1, 0), {EFAULT}));
  {
    child traced([&] {
      NEED(ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) == 0);
      raise(SIGSTOP);
      return 0;
    });
    int status = 0;
    ASSERT_EQ(waitpid(traced.pid(), &status, 0), traced.pid());
    ASSERT_TRUE(WIFSTOPPED(status));
    EXPECT_TRUE(refused(ptrace(PTRACE_POKEDATA, traced.pid(), view.data(), nullptr), {EIO, EFAULT}));
  }
  EXPECT_EQ(held(reader), F_RDLCK);
  EXPECT_EQ(view.load(0), 'a');

  // The contrast: the same memory call does write where writing is allowed.
  char own = 'a';
  const iovec own_part{&own, 1};
  EXPECT_EQ(process_vm_writev(getpid(), &from, 1, &own_part, 1, 0), 1);
  EXPECT_EQ(own, 'b');
}

TEST_P(Lease, OnAFileBeingExecutedIsGrantedAndWritersAreTurnedAway) {
  std::error_code code;
  std::filesystem::copy_file("/bin/cat", beside("program"), code);
  if (code) GTEST_SKIP() << "/bin/cat cannot be copied: " << code.message();
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  descriptor out(ends[0]), in(ends[1]);
  child program([&] {
    dup2(out, 0);
    execl(beside("program").c_str(), "program", nullptr);
    return 1;
  });
  const std::string link = "/proc/" + std::to_string(program.pid()) + "/exe";
  ASSERT_TRUE(eventually([&] {
    std::error_code ignored;
    return std::filesystem::equivalent(link, beside("program"), ignored);
  }));
  const descriptor reader = opened(beside("program"), O_RDONLY);
  EXPECT_EQ(take(reader), 0);
  EXPECT_EQ(open_error(beside("program"), O_WRONLY), ETXTBSY);
  EXPECT_EQ(open_error(beside("program"), O_RDONLY | O_TRUNC), ETXTBSY);
  EXPECT_EQ(held(reader), F_RDLCK);
  in.close();
  EXPECT_TRUE(program.exits(0));
  EXPECT_EQ(open_error(beside("program"), O_WRONLY | O_NONBLOCK), EAGAIN)
      << "the contrast: now it is the lease";
}

}  // namespace
