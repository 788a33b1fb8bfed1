// SPDX-License-Identifier: Apache-2.0
#include "linux/kernel.hpp"

#include <errno.h>
#include <linux/capability.h>
#include <linux/fs.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <type_traits>

namespace stillmap::kernel {
namespace {

std::atomic<call_function> interposer{nullptr};

template <class T>
long word(T value) noexcept {
  if constexpr (std::is_pointer_v<T>) {
    return reinterpret_cast<long>(value);
  } else {
    return static_cast<long>(value);
  }
}

template <class... Arguments>
long call(long number, Arguments... arguments) noexcept {
  const long values[6] = {word(arguments)...};
  // relaxed: set by tests before they start their threads
  if (const call_function function = interposer.load(std::memory_order_relaxed)) [[unlikely]] {
    return function(number, values);
  }
  const int saved = errno;
  const long result = ::syscall(number, values[0], values[1], values[2], values[3], values[4], values[5]);
  if (result != -1) return result;
  const long error = -static_cast<long>(errno);
  errno = saved;
  return error;
}

template <class... Arguments>
long call_again(long number, Arguments... arguments) noexcept {
  long result;
  do {
    result = call(number, arguments...);
  } while (result == -EINTR);
  return result;
}

timespec timespec_of(std::int64_t ns) noexcept {
  return {ns / 1'000'000'000, ns % 1'000'000'000};
}

}  // namespace

void interpose(call_function function) noexcept {
  interposer.store(function);
}

long open_read_only(const char* path, int flags) noexcept {
  return call_again(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC | O_NOCTTY | flags, 0);
}
// Never made again: the descriptor is gone even when close says EINTR.
long open_read_write(const char* path) noexcept {
  return call_again(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC, 0);
}
long close(int fd) noexcept {
  return call(SYS_close, fd);
}
long read(int fd, void* into, std::size_t bytes) noexcept {
  return call_again(SYS_read, fd, into, bytes);
}
long pread(int fd, void* into, std::size_t bytes, std::uint64_t offset, std::size_t& done) noexcept {
  constexpr std::size_t step_max = std::size_t{1} << 30;  // read(2) takes no more than 2 GiB at once
  for (done = 0; done < bytes;) {
    const long got = call_again(SYS_pread64, fd, static_cast<char*>(into) + done,
                                std::min(bytes - done, step_max), offset + done);
    if (got < 0) return got;
    if (got == 0) break;
    done += static_cast<std::size_t>(got);
  }
  return 0;
}
long pread_cached(int fd, void* into, std::size_t bytes, std::uint64_t offset) noexcept {
  const iovec one{into, bytes};
  return call_again(SYS_preadv2, fd, &one, 1, offset, 0, RWF_NOWAIT);
}
long read_ahead(int fd, std::uint64_t offset, std::uint64_t bytes) noexcept {
  return call(SYS_fadvise64, fd, offset, bytes, POSIX_FADV_WILLNEED);
}
long wait_readable(int fd) noexcept {
  pollfd one{fd, POLLIN, 0};
  return call_again(SYS_ppoll, &one, 1, 0, 0, 0);
}
bool is_readable(int fd) noexcept {
  pollfd one{fd, POLLIN, 0};
  const timespec none{};
  return call_again(SYS_ppoll, &one, 1, &none, 0, 0) == 1;
}
long status_flags(int fd) noexcept {
  return call(SYS_fcntl, fd, F_GETFL);
}
long seek(int fd, std::int64_t offset) noexcept {
  return call(SYS_lseek, fd, offset, SEEK_SET);
}
long tell(int fd) noexcept {
  return call(SYS_lseek, fd, 0, SEEK_CUR);
}
long seek_data(int fd, std::int64_t offset) noexcept {
  return call(SYS_lseek, fd, offset, SEEK_DATA);
}
long stat(int fd, const char* path, struct statx* into) noexcept {
  constexpr unsigned mount_id_unique = 0x4000;  // STATX_MNT_ID_UNIQUE, Linux 6.8
  constexpr unsigned wanted = STATX_BASIC_STATS | STATX_BTIME | mount_id_unique;
  if (path != nullptr && path[0] != '\0') return call_again(SYS_statx, AT_FDCWD, path, 0, wanted, into);
  return call_again(SYS_statx, fd, "", AT_EMPTY_PATH, wanted, into);
}
long filesystem(int fd, struct statfs* into) noexcept {
  return call_again(SYS_fstatfs, fd, into);
}
long link_target(const char* path, char* into, std::size_t bytes) noexcept {
  return call(SYS_readlinkat, AT_FDCWD, path, into, bytes);
}
long write_back(int fd) noexcept {
  return call_again(SYS_sync_file_range, fd, 0L, 0L,
                    SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER);
}
long data_sync(int fd) noexcept {
  return call_again(SYS_fdatasync, fd);
}
long seals(int fd) noexcept {
  return call(SYS_fcntl, fd, F_GET_SEALS);
}
long current_directory(char* into, std::size_t bytes) noexcept {
  return call(SYS_getcwd, into, bytes);
}

long memory_file(std::uint64_t bytes) noexcept {
  struct rlimit limit {};
  if (call(SYS_getrlimit, RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur < bytes) return -EFBIG;
  const long fd = call(SYS_memfd_create, "stillmap", 1u);  // MFD_CLOEXEC
  if (fd < 0 || bytes == 0) return fd;
  const long error = set_size(static_cast<int>(fd), bytes);
  if (error == 0) return fd;
  close(static_cast<int>(fd));
  return error;
}
long open_temporary(const char* folder) noexcept {
  return call_again(SYS_openat, AT_FDCWD, folder, O_TMPFILE | O_EXCL | O_RDWR | O_CLOEXEC, 0);
}
long clone_file(int from, int into) noexcept {
  return call_again(SYS_ioctl, into, FICLONE, from);
}
long allocate(int fd, std::uint64_t bytes) noexcept {
  return call_again(SYS_fallocate, fd, 0, 0L, bytes);
}
long set_size(int fd, std::uint64_t bytes) noexcept {
  return call_again(SYS_ftruncate, fd, bytes);
}
long sync_mapping(void* address, std::size_t bytes) noexcept {
  return call_again(SYS_msync, address, bytes, MS_SYNC);
}

long lock_shared(int fd) noexcept {
  if (const long error = call_again(SYS_flock, fd, LOCK_SH | LOCK_NB); error != 0) return error;
  struct flock whole {};
  whole.l_type = F_RDLCK;
  whole.l_whence = SEEK_SET;
  return call_again(SYS_fcntl, fd, F_OFD_SETLK, &whole);
}

long lease_set(int fd, int type) noexcept {
  return call_again(SYS_fcntl, fd, F_SETLEASE, type);
}
long lease_get(int fd) noexcept {
  return call(SYS_fcntl, fd, F_GETLEASE);
}
long signal_set(int fd, int signal) noexcept {
  return call(SYS_fcntl, fd, F_SETSIG, signal);
}
long owner_set(int fd, pid_t thread) noexcept {
  const f_owner_ex owner{F_OWNER_TID, thread};
  return call(SYS_fcntl, fd, F_SETOWN_EX, &owner);
}

#if defined(__SANITIZE_THREAD__)
#define STILLMAP_THREAD_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define STILLMAP_THREAD_SANITIZER 1
#endif
#endif
#if defined(STILLMAP_THREAD_SANITIZER)
// ThreadSanitizer remembers accesses by address and forgets them when it sees memory mapped anew: it must see
// it.
long map(void* address, std::size_t bytes, int protection, int flags, int fd, std::uint64_t offset) noexcept {
  if (const call_function function = interposer.load()) {
    return function(SYS_mmap, {word(address), word(bytes), protection, flags, fd, word(offset)});
  }
  // Not a file's: it would take the descriptors that we close for others.
  if (fd >= 0) return call(SYS_mmap, address, bytes, protection, flags, fd, offset);
  void* const result = ::mmap(address, bytes, protection, flags, fd, static_cast<off_t>(offset));
  return result == MAP_FAILED ? -static_cast<long>(errno) : word(result);
}
long unmap(void* address, std::size_t bytes) noexcept {
  return ::munmap(address, bytes) == 0 ? 0 : -static_cast<long>(errno);
}
#else
long map(void* address, std::size_t bytes, int protection, int flags, int fd, std::uint64_t offset) noexcept {
  return call(SYS_mmap, address, bytes, protection, flags, fd, offset);
}
long unmap(void* address, std::size_t bytes) noexcept {
  return call(SYS_munmap, address, bytes);
}
#endif
long move_over(void* from, std::size_t bytes, void* to) noexcept {
  return call(SYS_mremap, from, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, to);
}
long remap(void* address, std::size_t bytes, std::size_t new_bytes, int flags, void* to) noexcept {
  return call(SYS_mremap, address, bytes, new_bytes, flags, to);
}
long lock(void* address, std::size_t bytes) noexcept {
  return call(SYS_mlock, address, bytes);
}
long grow(void* address, std::size_t bytes, std::size_t new_bytes) noexcept {
  return call(SYS_mremap, address, bytes, new_bytes, MREMAP_MAYMOVE);
}
long protect(void* address, std::size_t bytes, int protection) noexcept {
  return call(SYS_mprotect, address, bytes, protection);
}
long advise(void* address, std::size_t bytes, int advice) noexcept {
  return call(SYS_madvise, address, bytes, advice);
}
bool is_resident(void* page) noexcept {
  unsigned char there = 0;
  return call(SYS_mincore, page, 1, &there) == 0 && (there & 1) != 0;
}
long copy_own(void* into, const void* from, std::size_t bytes) noexcept {
  const iovec local{into, bytes};
  const iovec remote{const_cast<void*>(from), bytes};
  return call_again(SYS_process_vm_readv, process(), &local, 1, &remote, 1, 0);
}

namespace {

// Not in the headers of Debian 12.
constexpr unsigned long userfault_new = _IO(UFFDIO, 0x00);  // USERFAULTFD_IOC_NEW
struct userfault_poisoning {                                // struct uffdio_poison
  uffdio_range range;
  std::uint64_t mode;
  std::int64_t updated;
};
constexpr unsigned long userfault_poison_call = _IOWR(UFFDIO, 0x08, userfault_poisoning);

uffdio_range range_of(const void* address, std::size_t bytes) noexcept {
  return {reinterpret_cast<std::uintptr_t>(address), bytes};
}

}  // namespace

long userfault_open(int flags) noexcept {
  return call(SYS_userfaultfd, O_CLOEXEC | flags);
}
long userfault_open_by_device() noexcept {
  const long device = call_again(SYS_openat, AT_FDCWD, "/dev/userfaultfd", O_RDWR | O_CLOEXEC, 0);
  if (failed(device)) return device;
  const long result = call(SYS_ioctl, device, userfault_new, O_CLOEXEC);
  close(static_cast<int>(device));
  return result;
}
long userfault_begin(int fd, std::uint64_t features) noexcept {
  uffdio_api wanted{UFFD_API, features, 0};
  return call(SYS_ioctl, fd, UFFDIO_API, &wanted);
}
long userfault_register(int fd, void* address, std::size_t bytes) noexcept {
  uffdio_register wanted{range_of(address, bytes), UFFDIO_REGISTER_MODE_MISSING, 0};
  return call(SYS_ioctl, fd, UFFDIO_REGISTER, &wanted);
}
long userfault_copy(int fd, void* to, const void* from, std::size_t bytes, std::size_t& done) noexcept {
  uffdio_copy wanted{reinterpret_cast<std::uintptr_t>(to), reinterpret_cast<std::uintptr_t>(from), bytes, 0, 0};
  const long result = call(SYS_ioctl, fd, UFFDIO_COPY, &wanted);
  done = result == 0 ? bytes : wanted.copy > 0 ? static_cast<std::size_t>(wanted.copy) : 0;
  return result;
}
long userfault_poison(int fd, void* address, std::size_t bytes) noexcept {
  userfault_poisoning wanted{range_of(address, bytes), 0, 0};
  return call(SYS_ioctl, fd, userfault_poison_call, &wanted);
}
long userfault_wake(int fd, void* address, std::size_t bytes) noexcept {
  uffdio_range wanted = range_of(address, bytes);
  return call(SYS_ioctl, fd, UFFDIO_WAKE, &wanted);
}

long leave_descriptors() noexcept {
  constexpr unsigned unshare_first = 1u << 1;  // CLOSE_RANGE_UNSHARE
  return call(SYS_close_range, 0, ~0u, unshare_first);
}
long descriptor_of_process(int fd) noexcept {
  const long self = call(SYS_pidfd_open, process(), 0);
  if (failed(self)) return self;
  const long result = call(SYS_pidfd_getfd, self, fd, 0);
  close(static_cast<int>(self));
  return result;
}

pid_t process() noexcept {
  return static_cast<pid_t>(::syscall(SYS_getpid));
}
pid_t thread() noexcept {
  return static_cast<pid_t>(::syscall(SYS_gettid));
}
uid_t effective_user() noexcept {
  return static_cast<uid_t>(::syscall(SYS_geteuid));
}
faults faults_of_thread() noexcept {
  struct rusage used {};
  call(SYS_getrusage, RUSAGE_THREAD, &used);
  return {used.ru_majflt, used.ru_minflt};
}
std::uint64_t descriptor_limit() noexcept {
  rlimit limit{};
  return call(SYS_prlimit64, 0, RLIMIT_NOFILE, 0, &limit) == 0 ? std::uint64_t{limit.rlim_cur} : 0;
}
bool has_lease_capability() noexcept {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {};
  if (call(SYS_capget, &header, &data) != 0) return false;
  return (data[CAP_LEASE / 32].effective >> (CAP_LEASE % 32)) & 1u;
}
long signal_wait(int signal, siginfo_t* info, std::int64_t timeout_ns) noexcept {
  const std::uint64_t set = std::uint64_t{1} << (signal - 1);  // the kernel's own set, without libc's filter
  const timespec timeout = timespec_of(timeout_ns);
  return call(SYS_rt_sigtimedwait, &set, info, timeout_ns < 0 ? nullptr : &timeout, sizeof set);
}
long signal_thread(pid_t process, pid_t thread, int signal) noexcept {
  return call(SYS_tgkill, process, thread, signal);
}
long signal_queue(pid_t process, int signal, siginfo_t* info) noexcept {
  return call(SYS_rt_sigqueueinfo, process, signal, info);
}
long signal_process(pid_t process, int signal) noexcept {
  return call(SYS_kill, process, signal);
}
void futex_wait(const std::atomic<std::uint32_t>& word, std::uint32_t seen,
                std::int64_t timeout_ns) noexcept {
  const timespec timeout = timespec_of(timeout_ns);
  call(SYS_futex, &word, FUTEX_WAIT_PRIVATE, seen, timeout_ns < 0 ? nullptr : &timeout, 0, 0);
}
void futex_wake(const std::atomic<std::uint32_t>& word) noexcept {
  call(SYS_futex, &word, FUTEX_WAKE_PRIVATE, 0x7fffffff, 0, 0, 0);
}
void sleep(std::int64_t ns) noexcept {
  const timespec time = timespec_of(ns);
  call(SYS_nanosleep, &time, 0);
}
namespace {
std::int64_t read_clock(clockid_t clock) noexcept {
  timespec now;
  clock_gettime(clock, &now);
  return std::int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}
}  // namespace
std::int64_t now_ns() noexcept {
  return read_clock(CLOCK_MONOTONIC);
}
std::int64_t coarse_now_ns() noexcept {
  return read_clock(CLOCK_MONOTONIC_COARSE);
}
std::int64_t wall_now_ns() noexcept {
  return read_clock(CLOCK_REALTIME_COARSE);
}

}  // namespace stillmap::kernel
