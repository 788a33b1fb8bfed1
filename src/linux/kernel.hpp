// SPDX-License-Identifier: Apache-2.0
//
// The one seam to the kernel: every system call the library makes, once. Calls return a value >= 0 or -errno
// and leave errno alone; descriptors are close-on-exec; a call interrupted by a signal is made again. No
// policy here.
//
// Calls are raw: mmap, munmap and their kin must not meet an interposer of those names that may be loaded
// beside us (a preload of this very library, say). `interpose` lets tests answer in the kernel's place.
#pragma once

#include <fcntl.h>
#include <linux/futex.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>

#include <atomic>
#include <cstddef>
#include <cstdint>

struct statx;
struct statfs;

namespace stillmap::kernel {

using call_function = long (*)(long number, const long (&arguments)[6]);

// Tests only: answers every call from now on; nullptr gives the kernel back.
void interpose(call_function function) noexcept;

long open_read_only(const char* path, int flags) noexcept;
long open_read_write(const char* path) noexcept;  // a file of our own: never one that an application may have leased
long close(int fd) noexcept;
long read(int fd, void* into, std::size_t bytes) noexcept;  // once: 0 is the end
// Until full, end (0, fewer bytes done) or error (-errno; what was done is good all the same).
long pread(int fd, void* into, std::size_t bytes, std::uint64_t offset, std::size_t& done) noexcept;
// Once, and without waiting for storage: fewer bytes, or -EAGAIN, where that would be needed.
long pread_cached(int fd, void* into, std::size_t bytes, std::uint64_t offset) noexcept;
long read_ahead(int fd, std::uint64_t offset, std::uint64_t bytes) noexcept;  // POSIX_FADV_WILLNEED
long wait_readable(int fd) noexcept;
bool is_readable(int fd) noexcept;  // now
long status_flags(int fd) noexcept;  // F_GETFL
long seek(int fd, std::int64_t offset) noexcept;
long tell(int fd) noexcept;
long seek_data(int fd, std::int64_t offset) noexcept;  // -ENXIO: no data from there on
long stat(int fd, const char* path,
          struct statx* into) noexcept;  // path "" or nullptr: the descriptor itself
long filesystem(int fd, struct statfs* into) noexcept;
long link_target(const char* path, char* into, std::size_t bytes) noexcept;  // not terminated
long write_back(
    int fd) noexcept;  // sync_file_range: starts and waits for write-back, so that a store moves stamps
long data_sync(int fd) noexcept;
long seals(int fd) noexcept;
long current_directory(char* into, std::size_t bytes) noexcept;  // length with its NUL

// memfd_create(2), zeros. -EFBIG beyond RLIMIT_FSIZE, where setting the size would be a SIGXFSZ.
long memory_file(std::uint64_t bytes) noexcept;

// An unlinked file in this folder, of mode 0, for reading and writing (O_TMPFILE | O_EXCL).
long open_temporary(const char* folder) noexcept;
long clone_file(int from, int into) noexcept;         // FICLONE: all of it
long allocate(int fd, std::uint64_t bytes) noexcept;  // fallocate(2): blocks and size
long set_size(int fd, std::uint64_t bytes) noexcept;
long sync_mapping(void* address, std::size_t bytes) noexcept;  // msync(MS_SYNC)

// Shared advisory locks on the whole file, flock(2) and F_OFD_SETLK, without waiting; -EAGAIN: refused.
long lock_shared(int fd) noexcept;

// fcntl(2) "Leases" and "Managing signals"
long lease_set(int fd, int type) noexcept;  // F_RDLCK or F_UNLCK
long lease_get(int fd) noexcept;
long signal_set(int fd, int signal) noexcept;
long owner_set(int fd, pid_t thread) noexcept;

// Addresses come back as values; -4095 to -1 are errors.
long map(void* address, std::size_t bytes, int protection, int flags, int fd, std::uint64_t offset) noexcept;
long unmap(void* address, std::size_t bytes) noexcept;
long move_over(void* from, std::size_t bytes, void* to) noexcept;  // mremap(MREMAP_MAYMOVE | MREMAP_FIXED)
long grow(void* address, std::size_t bytes, std::size_t new_bytes) noexcept;  // mremap(MREMAP_MAYMOVE)
long remap(void* address, std::size_t bytes, std::size_t new_bytes, int flags, void* to) noexcept;
long lock(void* address, std::size_t bytes) noexcept;  // mlock(2)
long protect(void* address, std::size_t bytes, int protection) noexcept;
long advise(void* address, std::size_t bytes, int advice) noexcept;
bool is_resident(void* page) noexcept;  // mincore(2)
// Page faults of this thread so far: those that waited for storage, and the others. getrusage(2)
struct faults {
  long waited = 0, others = 0;
};
faults faults_of_thread() noexcept;
long copy_own(void* into, const void* from,
              std::size_t bytes) noexcept;  // process_vm_readv on ourselves: bytes, or EFAULT

// userfaultfd(2), ioctl_userfaultfd(2)
long userfault_open(int flags) noexcept;        // UFFD_USER_MODE_ONLY or 0
long userfault_open_by_device() noexcept;       // /dev/userfaultfd, Linux 6.1: who may open it needs no capability
long userfault_begin(int fd, std::uint64_t features) noexcept;  // UFFDIO_API
long userfault_register(int fd, void* address, std::size_t bytes) noexcept;  // of missing pages
// Installs pages where there are none; `done` bytes are there also on an error. -EEXIST: one is there.
long userfault_copy(int fd, void* to, const void* from, std::size_t bytes, std::size_t& done) noexcept;
long userfault_poison(int fd, void* address, std::size_t bytes) noexcept;  // Linux 6.6; an access is a SIGBUS
long userfault_wake(int fd, void* address, std::size_t bytes) noexcept;

// From now on this thread has a table of descriptors of its own, which is empty. Linux 5.9.
long leave_descriptors() noexcept;
// A duplicate of a descriptor of the process's first thread, in this thread's table. Linux 5.6.
long descriptor_of_process(int fd) noexcept;

pid_t process() noexcept;
pid_t thread() noexcept;
uid_t effective_user() noexcept;
std::uint64_t descriptor_limit() noexcept;  // soft RLIMIT_NOFILE
bool has_lease_capability() noexcept;
long signal_wait(int signal, siginfo_t* info,
                 std::int64_t timeout_ns) noexcept;  // -EAGAIN: time is up; -EINTR
long signal_thread(pid_t process, pid_t thread, int signal) noexcept;
long signal_queue(pid_t process, int signal, siginfo_t* info) noexcept;
long signal_process(pid_t process, int signal) noexcept;
void futex_wait(const std::atomic<std::uint32_t>& word, std::uint32_t seen, std::int64_t timeout_ns) noexcept;
void futex_wake(const std::atomic<std::uint32_t>& word) noexcept;  // all waiters
void sleep(std::int64_t ns) noexcept;                              // or until a signal handler ran
std::int64_t now_ns() noexcept;                                    // CLOCK_MONOTONIC

std::int64_t coarse_now_ns() noexcept;  // CLOCK_MONOTONIC_COARSE: a tick old, a few nanoseconds dear
std::int64_t wall_now_ns() noexcept;    // CLOCK_REALTIME_COARSE: that of time stamps, a tick old

inline bool failed(long result) noexcept {
  return result < 0 && result >= -4095;
}

}  // namespace stillmap::kernel
