// SPDX-License-Identifier: Apache-2.0
//
// Each writer is one function that does one thing to the file and says which call failed. Errors are data
// here: a sealed file refuses, a file system lacks an operation, and both are counted by whoever asked for
// the strike.
#include "writers.hpp"

#include <fcntl.h>
#include <liburing.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

namespace adversary {
namespace {

constexpr std::uint64_t chunk_bytes = 64 * 1024;
constexpr std::uint64_t appends_max = 64;  // then the file is cut back to what it was

// A descriptor that closes itself.
class handle {
 public:
  explicit handle(int fd) : fd_(fd) {}
  handle(const handle&) = delete;
  handle& operator=(const handle&) = delete;
  ~handle() {
    if (fd_ >= 0) close(fd_);
  }
  explicit operator bool() const { return fd_ >= 0; }
  int get() const { return fd_; }

 private:
  int fd_;
};

int open_file(const std::string& path, int flags) {
  return open(path.c_str(), flags | O_CLOEXEC, 0600);
}

strike_result failed(const char* call) {
  const int error = errno;
  return {error, call, false};
}

// For calls that not every file system has.
strike_result failed_or_missing(const char* call) {
  const int error = errno;
  return {error, call,
          error == EOPNOTSUPP || error == ENOSYS || error == EINVAL || error == EXDEV || error == ENOTTY};
}

strike_result fine() {
  return {};
}

off_t signed_offset(std::uint64_t value) {
  return static_cast<off_t>(value);
}

// All of data at offset, in as few calls as the kernel allows.
strike_result pwrite_all(int fd, std::span<const std::byte> data, std::uint64_t offset) {
  while (!data.empty()) {
    const ssize_t done = pwrite(fd, data.data(), data.size(), signed_offset(offset));
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) return failed("pwrite");
    data = data.subspan(static_cast<std::size_t>(done));
    offset += static_cast<std::uint64_t>(done);
  }
  return fine();
}

strike_result overwrite(session& s, int fd, std::uint64_t generation) {
  return pwrite_all(fd, s.stamped(0, s.at.where.size, generation), 0);
}

strike_result overwrite_path(session& s, const std::string& path, int flags, std::uint64_t generation) {
  const handle file(open_file(path, flags));
  if (!file) return failed("open");
  return overwrite(s, file.get(), generation);
}

strike_result with_write(session& s, std::uint64_t generation) {
  const handle file(open_file(s.at.path, O_WRONLY));
  if (!file) return failed("open");
  std::span<const std::byte> data = s.stamped(0, s.at.where.size, generation);
  while (!data.empty()) {
    const ssize_t done = write(file.get(), data.data(), data.size());
    if (done <= 0) return failed("write");
    data = data.subspan(static_cast<std::size_t>(done));
  }
  return fine();
}

strike_result with_pwrite(session& s, std::uint64_t generation) {
  const handle file(open_file(s.at.path, O_RDWR));
  if (!file) return failed("open");
  for (std::uint64_t at = 0; at < s.at.where.size; at += chunk_bytes) {
    const std::uint64_t size = std::min(chunk_bytes, s.at.where.size - at);
    if (const auto r = pwrite_all(file.get(), s.stamped(at, size, generation), at); r.error) return r;
  }
  return fine();
}

strike_result with_pwritev2(session& s, std::uint64_t generation) {
  const handle file(open_file(s.at.path, O_WRONLY));
  if (!file) return failed("open");
  const std::span<std::byte> data = s.stamped(0, s.at.where.size, generation);
  std::uint64_t at = 0;
  while (at < data.size()) {
    const std::span<std::byte> rest = data.subspan(static_cast<std::size_t>(at));
    const std::size_t cut = rest.size() / 3;
    const iovec parts[2] = {{rest.data(), cut}, {rest.data() + cut, rest.size() - cut}};
    const ssize_t done = pwritev2(file.get(), parts, 2, signed_offset(at), RWF_DSYNC);
    if (done <= 0) return failed_or_missing("pwritev2");
    at += static_cast<std::uint64_t>(done);
  }
  return fine();
}

strike_result with_append(session& s, std::uint64_t generation) {
  if (s.appended == appends_max) {
    s.appended = 0;
    if (truncate(s.at.path.c_str(), signed_offset(s.at.where.size)) != 0) return failed("truncate");
    return fine();
  }
  const handle file(open_file(s.at.path, O_WRONLY | O_APPEND));
  if (!file) return failed("open");
  const auto data = s.stamped(s.at.where.size + s.appended * append_bytes, append_bytes, generation);
  if (write(file.get(), data.data(), data.size()) != static_cast<ssize_t>(data.size()))
    return failed("write");
  ++s.appended;
  return fine();
}

strike_result with_open_truncate(session& s, std::uint64_t generation) {
  return overwrite_path(s, s.at.path, O_WRONLY | O_TRUNC, generation);
}

// Takes write access without breaking leases. The second step does break them, and brings other bytes.
strike_result with_readonly_truncate(session& s, std::uint64_t generation) {
  if (generation % 2 == 1) {
    const handle file(open_file(s.at.path, O_RDONLY | O_TRUNC));
    return file ? fine() : failed("open");
  }
  return overwrite_path(s, s.at.path, O_WRONLY, generation);
}

strike_result with_truncate_down(session& s, std::uint64_t generation) {
  const std::uint64_t half = middle_of(s.at.where.size);
  if (generation % 2 == 1)
    return truncate(s.at.path.c_str(), signed_offset(half)) ? failed("truncate") : fine();
  const handle file(open_file(s.at.path, O_WRONLY));
  if (!file) return failed("open");
  return pwrite_all(file.get(), s.stamped(half, s.at.where.size - half, generation), half);
}

strike_result with_truncate_up(session& s, std::uint64_t generation) {
  if (generation % 2 == 1) {
    if (truncate(s.at.path.c_str(), 0) != 0) return failed("truncate");
    return truncate(s.at.path.c_str(), signed_offset(s.at.where.size)) ? failed("truncate") : fine();
  }
  return overwrite_path(s, s.at.path, O_WRONLY, generation);
}

strike_result with_ftruncate(session& s, std::uint64_t generation) {
  const handle file(open_file(s.at.path, O_RDWR));
  if (!file) return failed("open");
  if (generation % 2 == 1) return ftruncate(file.get(), 0) ? failed("ftruncate") : fine();
  return overwrite(s, file.get(), generation);
}

strike_result allocate(session& s, int mode, const char* call) {
  const handle file(open_file(s.at.path, O_RDWR));
  if (!file) return failed("open");
  const layout& where = s.at.where;
  if (fallocate(file.get(), mode, signed_offset(where.hole_begin),
                signed_offset(where.hole_end - where.hole_begin)) != 0) {
    return failed_or_missing(call);
  }
  return fine();
}

strike_result fill_hole(session& s, std::uint64_t generation) {
  const handle file(open_file(s.at.path, O_RDWR));
  if (!file) return failed("open");
  const layout& where = s.at.where;
  return pwrite_all(file.get(), s.stamped(where.hole_begin, where.hole_end - where.hole_begin, generation),
                    where.hole_begin);
}

strike_result with_punch_hole(session& s, std::uint64_t generation) {
  if (generation % 2 == 0) return fill_hole(s, generation);
  return allocate(s, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, "fallocate(PUNCH_HOLE)");
}

strike_result with_zero_range(session& s, std::uint64_t generation) {
  if (generation % 2 == 0) return fill_hole(s, generation);
  return allocate(s, FALLOC_FL_ZERO_RANGE, "fallocate(ZERO_RANGE)");
}

strike_result with_collapse_range(session& s, std::uint64_t generation) {
  if (generation % 2 == 1) return allocate(s, FALLOC_FL_COLLAPSE_RANGE, "fallocate(COLLAPSE_RANGE)");
  if (const auto r = allocate(s, FALLOC_FL_INSERT_RANGE, "fallocate(INSERT_RANGE)"); r.error) return r;
  return fill_hole(s, generation);
}

// The mirror image: room is made first, so the file is longer between the steps.
strike_result with_insert_range(session& s, std::uint64_t generation) {
  if (generation % 2 == 1) return allocate(s, FALLOC_FL_INSERT_RANGE, "fallocate(INSERT_RANGE)");
  return allocate(s, FALLOC_FL_COLLAPSE_RANGE, "fallocate(COLLAPSE_RANGE)");
}

// Stores through a shared mapping, front to back: word by word, each seen after the one before. Not memcpy,
// which stores the first and the last bytes of a block behind its middle; a copy of that very moment would
// show it.
void store(std::byte* to, std::span<const std::byte> from) {
  std::size_t at = 0;
  for (std::uint64_t word; at + sizeof word <= from.size(); at += sizeof word) {
    std::memcpy(&word, from.data() + at, sizeof word);
    std::atomic_ref(*reinterpret_cast<std::uint64_t*>(to + at)).store(word, std::memory_order_release);
  }
  for (; at < from.size(); ++at) {
    std::atomic_ref(*reinterpret_cast<unsigned char*>(to + at))
        .store(std::to_integer<unsigned char>(from[at]), std::memory_order_release);
  }
}

strike_result with_mapping(session& s, std::uint64_t generation) {
  const std::size_t size = s.at.where.size;
  void* map;
  {
    const handle file(open_file(s.at.path, O_RDWR));
    if (!file) return failed("open");
    map = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0);
  }
  if (map == MAP_FAILED) return failed("mmap");
  store(static_cast<std::byte*>(map), s.stamped(0, size, generation));
  munmap(map, size);
  return fine();
}

strike_result with_direct(session& s, std::uint64_t generation) {
  const std::uint64_t whole = s.at.where.size / page_bytes * page_bytes;
  const handle file(open_file(s.at.path, O_WRONLY | O_DIRECT));
  if (!file) return failed_or_missing("open(O_DIRECT)");
  const std::span<std::byte> data = s.stamped(0, s.at.where.size, generation);
  if (const auto r = pwrite_all(file.get(), data.first(whole), 0); r.error) return r;
  if (whole == data.size()) return fine();
  if (fcntl(file.get(), F_SETFL, 0) != 0) return failed("fcntl(F_SETFL)");
  return pwrite_all(file.get(), data.subspan(whole), whole);
}

// A file beside the target that holds generation, for kinds that move bytes from file to file.
strike_result stage(session& s, std::uint64_t generation) {
  const handle file(open_file(s.at.spare, O_WRONLY | O_CREAT | O_TRUNC));
  if (!file) return failed("open(staged)");
  return overwrite(s, file.get(), generation);
}

strike_result from_staged(session& s, std::uint64_t generation,
                          strike_result (*move)(int from, int to, std::uint64_t size)) {
  if (const auto r = stage(s, generation); r.error) return r;
  const handle from(open_file(s.at.spare, O_RDONLY));
  if (!from) return failed("open(staged)");
  const handle to(open_file(s.at.path, O_WRONLY));
  if (!to) return failed("open");
  return move(from.get(), to.get(), s.at.where.size);
}

strike_result copy_range(int from, int to, std::uint64_t size) {
  off_t in = 0, out = 0;
  while (static_cast<std::uint64_t>(out) < size) {
    const ssize_t done = copy_file_range(from, &in, to, &out, size - static_cast<std::uint64_t>(out), 0);
    if (done <= 0) return failed_or_missing("copy_file_range");
  }
  return fine();
}

strike_result clone_into(int from, int to, std::uint64_t) {
  return ioctl(to, FICLONE, from) != 0 ? failed_or_missing("ioctl(FICLONE)") : fine();
}

strike_result send_into(int from, int to, std::uint64_t size) {
  off_t in = 0;
  while (static_cast<std::uint64_t>(in) < size) {
    const ssize_t done = sendfile(to, from, &in, size - static_cast<std::uint64_t>(in));
    if (done <= 0) return failed("sendfile");
  }
  return fine();
}

strike_result splice_into(int from, int to, std::uint64_t size) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return failed("pipe2");
  const handle out(ends[0]), in(ends[1]);
  std::uint64_t moved = 0;
  while (moved < size) {
    const ssize_t filled = splice(from, nullptr, in.get(), nullptr, size - moved, SPLICE_F_MOVE);
    if (filled <= 0) return failed("splice(from file)");
    for (ssize_t left = filled; left > 0;) {
      const ssize_t done =
          splice(out.get(), nullptr, to, nullptr, static_cast<std::size_t>(left), SPLICE_F_MOVE);
      if (done <= 0) return failed("splice(into file)");
      left -= done;
    }
    moved += static_cast<std::uint64_t>(filled);
  }
  return fine();
}

strike_result with_copy_file_range(session& s, std::uint64_t g) {
  return from_staged(s, g, copy_range);
}
strike_result with_ficlone(session& s, std::uint64_t g) {
  return from_staged(s, g, clone_into);
}
strike_result with_sendfile(session& s, std::uint64_t g) {
  return from_staged(s, g, send_into);
}
strike_result with_splice(session& s, std::uint64_t g) {
  return from_staged(s, g, splice_into);
}

strike_result with_rename_over(session& s, std::uint64_t generation) {
  if (const auto r = stage(s, generation); r.error) return r;
  return rename(s.at.spare.c_str(), s.at.path.c_str()) ? failed("rename") : fine();
}

strike_result with_unlink(session& s, std::uint64_t generation) {
  if (unlink(s.at.path.c_str()) != 0 && errno != ENOENT) return failed("unlink");
  return overwrite_path(s, s.at.path, O_WRONLY | O_CREAT | O_EXCL, generation);
}

strike_result with_hard_link(session& s, std::uint64_t generation) {
  unlink(s.at.spare.c_str());
  if (link(s.at.path.c_str(), s.at.spare.c_str()) != 0) return failed("link");
  const strike_result result = overwrite_path(s, s.at.spare, O_WRONLY, generation);
  unlink(s.at.spare.c_str());
  return result;
}

strike_result with_reopen(session& s, std::uint64_t generation) {
  const handle reader(open_file(s.at.path, O_RDONLY));
  if (!reader) return failed("open");
  char name[64];
  std::snprintf(name, sizeof name, "/proc/self/fd/%d", reader.get());
  return overwrite_path(s, name, O_WRONLY, generation);
}

strike_result with_file_handle(session& s, std::uint64_t generation) {
  alignas(file_handle) char space[sizeof(file_handle) + MAX_HANDLE_SZ] = {};
  auto* name = reinterpret_cast<file_handle*>(space);
  name->handle_bytes = MAX_HANDLE_SZ;
  int mount = 0;
  if (name_to_handle_at(AT_FDCWD, s.at.path.c_str(), name, &mount, 0) != 0) {
    return failed_or_missing("name_to_handle_at");
  }
  const handle folder(open_file(s.at.path.substr(0, s.at.path.rfind('/')), O_RDONLY | O_DIRECTORY));
  if (!folder) return failed("open(folder)");
  const handle file(open_by_handle_at(folder.get(), name, O_WRONLY | O_CLOEXEC));
  if (!file)
    return errno == EPERM ? strike_result{EPERM, "open_by_handle_at", true}
                          : failed_or_missing("open_by_handle_at");
  return overwrite(s, file.get(), generation);
}

int ring_call(io_uring* ring) {
  io_uring_cqe* done = nullptr;
  int result = io_uring_submit(ring);
  if (result >= 0) {
    do result = io_uring_wait_cqe(ring, &done);
    while (result == -EINTR);
  }
  if (result < 0) return result;
  result = done->res;
  io_uring_cqe_seen(ring, done);
  return result;
}

strike_result with_io_uring(session& s, std::uint64_t generation) {
  strike_result failure;
  io_uring* ring = s.ring(&failure);
  if (!ring) return failure;
  io_uring_sqe* ask = io_uring_get_sqe(ring);
  io_uring_prep_openat(ask, AT_FDCWD, s.at.path.c_str(), O_WRONLY | O_CLOEXEC, 0);
  const int fd = ring_call(ring);
  if (fd < 0) return {-fd, "io_uring openat", false};
  const handle file(fd);
  const std::span<std::byte> data = s.stamped(0, s.at.where.size, generation);
  for (std::uint64_t at = 0; at < data.size();) {
    ask = io_uring_get_sqe(ring);
    io_uring_prep_write(ask, fd, data.data() + at, static_cast<unsigned>(data.size() - at), at);
    const int done = ring_call(ring);
    if (done <= 0) return {-done, "io_uring write", false};
    at += static_cast<std::uint64_t>(done);
  }
  return fine();
}

strike_result with_nonblocking_open(session& s, std::uint64_t generation) {
  timespec begin, now;
  clock_gettime(CLOCK_MONOTONIC, &begin);
  for (;;) {
    const int fd = open_file(s.at.path, O_WRONLY | O_NONBLOCK);
    if (fd >= 0) {
      const handle file(fd);
      return overwrite(s, fd, generation);
    }
    if (errno != EAGAIN) return failed("open");
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (now.tv_sec - begin.tv_sec > 6) return {ETIMEDOUT, "open(O_NONBLOCK) kept saying EAGAIN", false};
    sched_yield();
  }
}

// Breaks a lease and then does nothing.
strike_result with_open_alone(session& s, std::uint64_t) {
  const handle file(open_file(s.at.path, O_RDWR));
  return file ? fine() : failed("open");
}

strike_result with_equal_truncate(session& s, std::uint64_t) {
  return truncate(s.at.path.c_str(), signed_offset(s.at.where.size)) ? failed("truncate") : fine();
}

strike_result open_before(session& s) {
  s.fd = open_file(s.at.path, O_RDWR);
  return s.fd < 0 ? failed("open") : fine();
}

strike_result map_before(session& s) {
  const handle file(open_file(s.at.path, O_RDWR));
  if (!file) return failed("open");
  void* map = mmap(nullptr, s.at.where.size, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0);
  if (map == MAP_FAILED) return failed("mmap");
  s.map = static_cast<std::byte*>(map);
  return fine();
}

strike_result with_open_before(session& s, std::uint64_t generation) {
  return overwrite(s, s.fd, generation);
}

strike_result with_mapping_before(session& s, std::uint64_t generation) {
  store(s.map, s.stamped(0, s.at.where.size, generation));
  return fine();
}

constexpr std::uint64_t hole_size_min = 64 * 1024;

// name, shape, strike, prepare, size_min, changes, faults, there_before, truncates_readonly
constexpr writer_kind kinds[] = {
    {"write", shape::ascending, with_write, nullptr, 0, true, false, false, false},
    {"pwrite", shape::ascending, with_pwrite, nullptr, 0, true, false, false, false},
    {"pwritev2", shape::ascending, with_pwritev2, nullptr, 1, true, false, false, false},
    {"append", shape::appended, with_append, nullptr, 0, false, false, false, false},
    {"open_truncate_rewrite", shape::fresh, with_open_truncate, nullptr, 0, true, false, false, false},
    {"open_readonly_truncate", shape::fresh, with_readonly_truncate, nullptr, 1, true, true, false, true},
    {"truncate_down", shape::tail, with_truncate_down, nullptr, 16, true, true, false, false},
    {"truncate_up", shape::sparse, with_truncate_up, nullptr, 0, true, false, false, false},
    {"truncate_to_equal_size", shape::still, with_equal_truncate, nullptr, 0, false, false, false, false},
    {"ftruncate", shape::fresh, with_ftruncate, nullptr, 0, true, true, false, false},
    {"punch_hole", shape::hole, with_punch_hole, nullptr, hole_size_min, true, false, false, false},
    {"zero_range", shape::hole, with_zero_range, nullptr, hole_size_min, true, false, false, false},
    {"collapse_range", shape::shifted, with_collapse_range, nullptr, hole_size_min, true, true, false, false},
    {"insert_range", shape::shifted, with_insert_range, nullptr, hole_size_min, true, false, false, false},
    {"shared_mapping", shape::ascending, with_mapping, nullptr, 1, true, false, false, false},
    {"direct", shape::unordered, with_direct, nullptr, 0, true, false, false, false},
    {"copy_file_range", shape::ascending, with_copy_file_range, nullptr, 1, true, false, false, false},
    {"ficlone", shape::ascending, with_ficlone, nullptr, 1, true, false, false, false},
    {"sendfile", shape::ascending, with_sendfile, nullptr, 0, true, false, false, false},
    {"splice", shape::ascending, with_splice, nullptr, 0, true, false, false, false},
    {"rename_over", shape::whole, with_rename_over, nullptr, 0, false, false, false, false},
    {"unlink_and_recreate", shape::fresh, with_unlink, nullptr, 0, false, false, false, false},
    {"hard_link", shape::ascending, with_hard_link, nullptr, 0, true, false, false, false},
    {"proc_fd_reopen", shape::ascending, with_reopen, nullptr, 0, true, false, false, false},
    {"file_handle", shape::ascending, with_file_handle, nullptr, 0, true, false, false, false},
    {"io_uring", shape::ascending, with_io_uring, nullptr, 0, true, false, false, false},
    {"nonblocking_open", shape::ascending, with_nonblocking_open, nullptr, 0, true, false, false, false},
    {"open_alone", shape::still, with_open_alone, nullptr, 0, false, false, false, false},
    {"descriptor_from_before", shape::ascending, with_open_before, open_before, 0, true, false, true, false},
    {"mapping_from_before", shape::ascending, with_mapping_before, map_before, 1, true, false, true, false},
};

}  // namespace

session::session(target where) : at(std::move(where)) {}

session::~session() {
  if (map) munmap(map, at.where.size);
  if (fd >= 0) close(fd);
  if (ring_) io_uring_queue_exit(ring_.get());
  std::free(buffer_);
  unlink(at.spare.c_str());
}

std::span<std::byte> session::stamped(std::uint64_t offset, std::uint64_t size, std::uint64_t generation) {
  if (size > capacity_ || !buffer_) {
    std::free(buffer_);
    capacity_ = std::max<std::uint64_t>((size + page_bytes - 1) / page_bytes * page_bytes, page_bytes);
    void* fresh = std::aligned_alloc(page_bytes, capacity_);
    if (!fresh) {
      std::perror("adversary: no memory for a writer");
      std::exit(2);
    }
    buffer_ = static_cast<std::byte*>(fresh);
  }
  const std::span<std::byte> result(buffer_, static_cast<std::size_t>(size));
  write_stamps(result, offset, generation);
  return result;
}

io_uring* session::ring(strike_result* failure) {
  if (ring_) return ring_.get();
  auto fresh = std::make_unique<io_uring>();
  if (const int result = io_uring_queue_init(4, fresh.get(), 0); result < 0) {
    *failure = {-result, "io_uring_queue_init", true};
    return nullptr;
  }
  ring_ = std::move(fresh);
  return ring_.get();
}

std::span<const writer_kind> writer_kinds() {
  return kinds;
}

void create_stamped(const std::string& path, std::uint64_t size) {
  const handle file(open_file(path, O_WRONLY | O_CREAT | O_EXCL));
  std::vector<std::byte> bytes(static_cast<std::size_t>(size));
  write_stamps(bytes, 0, 0);
  if (!file || pwrite_all(file.get(), bytes, 0).error) {
    std::fprintf(stderr, "adversary: cannot create %s: %s\n", path.c_str(), std::strerror(errno));
    std::exit(2);
  }
}

}  // namespace adversary
