// SPDX-License-Identifier: Apache-2.0
//
// Each writer is one function. A kind whose first change the file system refuses is not here, and left alone;
// a later refusal (a full disk, say) is counted.
#include "torture/writers.hpp"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <new>
#include <thread>
#include <utility>
#include <vector>

namespace still::torture {
namespace {

constexpr unsigned appends_max = 64;  // then the file is cut back to what it was
constexpr off_t hole_begin = 64 * 1024, hole_bytes = 128 * 1024;
constexpr off_t half = static_cast<off_t>(victim_bytes / 2);

descriptor opened(const std::string& path, int flags) {
  return descriptor(::open(path.c_str(), flags | O_CLOEXEC, 0600));
}

int result_of(long got) {
  return got < 0 ? errno : 0;
}

int put(int fd, std::span<const std::byte> data, off_t at = 0) {
  while (!data.empty()) {
    const ssize_t wrote = ::pwrite(fd, data.data(), data.size(), at);
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0) return errno;
    data = data.subspan(static_cast<std::size_t>(wrote));
    at += wrote;
  }
  return 0;
}

int rewrite(victim& v, unsigned char value, const std::string& path, int flags) {
  const descriptor file = opened(path, flags);
  return file ? put(file.get(), v.filled(value)) : errno;
}

int pwrite_whole(victim& v, unsigned char value) {
  return rewrite(v, value, v.path, O_WRONLY);
}

int pwrite_page(victim& v, unsigned char value) {
  const descriptor file = opened(v.path, O_WRONLY);
  return file ? put(file.get(), v.filled(value, page_bytes), page_bytes * (value % 4)) : errno;
}

int pwrite_few(victim& v, unsigned char value) {
  const descriptor file = opened(v.path, O_WRONLY);
  return file ? put(file.get(), v.filled(value, 7), 1234) : errno;
}

int pwritev_parts(victim& v, unsigned char value) {
  const descriptor file = opened(v.path, O_WRONLY);
  if (!file) return errno;
  const auto data = v.filled(value);
  const std::size_t cut = data.size() / 3;
  const iovec parts[2] = {{data.data(), cut}, {data.data() + cut, data.size() - cut}};
  return result_of(::pwritev(file.get(), parts, 2, 0));
}

int append_with(victim& v, unsigned char value, int flags) {
  const descriptor file = opened(v.path, O_WRONLY | flags);
  if (!file) return errno;
  if (v.appended++ == appends_max) {
    v.appended = 0;
    return result_of(::ftruncate(file.get(), victim_bytes));
  }
  const auto data = v.filled(value, 1000);
  ::lseek(file.get(), 0, SEEK_END);
  return result_of(::write(file.get(), data.data(), data.size()));
}

int append(victim& v, unsigned char value) {
  return append_with(v, value, 0);
}
int append_flag(victim& v, unsigned char value) {
  return append_with(v, value, O_APPEND);
}

void* map_shared(const victim& v) {
  const descriptor file = opened(v.path, O_RDWR);
  if (!file) return MAP_FAILED;
  return ::mmap(nullptr, victim_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0);
}

int store(victim& v, unsigned char value) {
  void* const map = map_shared(v);
  if (map == MAP_FAILED) return errno;
  std::memset(map, value, victim_bytes);
  return result_of(::munmap(map, victim_bytes));
}

int store_and_sync(victim& v, unsigned char value) {
  void* const map = map_shared(v);
  if (map == MAP_FAILED) return errno;
  std::memset(map, value, page_bytes);
  const int error = result_of(::msync(map, page_bytes, MS_SYNC));
  ::munmap(map, victim_bytes);
  return error;
}

int map_once(victim& v) {
  void* const map = map_shared(v);
  if (map == MAP_FAILED) return errno;
  v.mapping = static_cast<std::byte*>(map);
  return 0;
}

int store_kept(victim& v, unsigned char value) {
  std::memset(v.mapping, value, victim_bytes);
  return 0;
}

int open_once(victim& v) {
  v.kept = opened(v.path, O_RDWR);
  return v.kept ? 0 : errno;
}

int pwrite_kept(victim& v, unsigned char value) {
  return put(v.kept.get(), v.filled(value));
}

int truncate_and_rewrite(victim& v, unsigned char value) {
  if (::truncate(v.path.c_str(), 0) != 0) return errno;
  return pwrite_whole(v, value);
}

int shorter_and_longer(victim& v, unsigned char value) {
  const descriptor file = opened(v.path, O_RDWR);
  if (!file) return errno;
  if (value % 2 == 1) return result_of(::ftruncate(file.get(), half));
  if (::ftruncate(file.get(), victim_bytes) != 0) return errno;
  return put(file.get(), v.filled(value, page_bytes), half);
}

int open_truncate(victim& v, unsigned char value) {
  return rewrite(v, value, v.path, O_WRONLY | O_TRUNC);
}

// Truncates without breaking a lease; the next change, which brings other bytes, does break it.
int open_readonly_truncate(victim& v, unsigned char value) {
  if (value % 2 == 0) return pwrite_whole(v, value);
  return opened(v.path, O_RDONLY | O_TRUNC) ? 0 : errno;
}

int allocate(victim& v, unsigned char value, int mode) {
  const descriptor file = opened(v.path, O_RDWR);
  if (!file) return errno;
  if (::fallocate(file.get(), mode, hole_begin, hole_bytes) != 0) return errno;
  return put(file.get(), v.filled(value, page_bytes), hole_begin);
}

int punch_hole(victim& v, unsigned char value) {
  return allocate(v, value, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE);
}
int zero_range(victim& v, unsigned char value) {
  return allocate(v, value, FALLOC_FL_ZERO_RANGE);
}

int collapse_range(victim& v, unsigned char value) {
  if (const int error = allocate(v, value, FALLOC_FL_COLLAPSE_RANGE)) return error;
  return pwrite_whole(v, value);
}

int insert_range(victim& v, unsigned char value) {
  const int error = allocate(v, value, FALLOC_FL_INSERT_RANGE);
  return error ? error : result_of(::truncate(v.path.c_str(), victim_bytes));
}

int fallocate_longer(victim& v, unsigned char value) {
  const descriptor file = opened(v.path, O_RDWR);
  if (!file) return errno;
  if (const int error = ::posix_fallocate(file.get(), 0, 2 * static_cast<off_t>(victim_bytes))) return error;
  if (const int error = put(file.get(), v.filled(value))) return error;
  return result_of(::ftruncate(file.get(), victim_bytes));
}

int stage(victim& v, unsigned char value) {
  return rewrite(v, value, v.spare, O_WRONLY | O_CREAT | O_TRUNC);
}

int from_staged(victim& v, ssize_t (*move)(int from, int to, std::size_t left)) {
  const descriptor from = opened(v.spare, O_RDONLY);
  if (!from) return errno;
  const descriptor to = opened(v.path, O_WRONLY);
  if (!to) return errno;
  for (std::size_t left = victim_bytes; left > 0;) {
    const ssize_t moved = move(from.get(), to.get(), left);
    if (moved < 0) return errno;
    if (moved == 0) return EIO;
    left -= static_cast<std::size_t>(moved);
  }
  return 0;
}

int copy_range(victim& v, unsigned char) {
  return from_staged(v, [](int from, int to, std::size_t left) {
    return ::copy_file_range(from, nullptr, to, nullptr, left, 0);
  });
}
int clone(victim& v, unsigned char) {
  return from_staged(v, [](int from, int to, std::size_t left) {
    return ::ioctl(to, FICLONE, from) != 0 ? ssize_t{-1} : static_cast<ssize_t>(left);
  });
}
int send(victim& v, unsigned char) {
  return from_staged(v,
                     [](int from, int to, std::size_t left) { return ::sendfile(to, from, nullptr, left); });
}

int splice_into(victim& v, unsigned char value) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return errno;
  const descriptor out(ends[0]), in(ends[1]);
  const descriptor file = opened(v.path, O_WRONLY);
  if (!file) return errno;
  const auto data = v.filled(value);
  for (std::size_t done = 0; done < data.size();) {
    // A pipe holds 64 KiB, or one page where this user has many.
    const ssize_t filled = ::write(in.get(), data.data() + done, std::min(page_bytes, data.size() - done));
    if (filled < 0) return errno;
    for (ssize_t left = filled; left > 0;) {
      const ssize_t moved =
          ::splice(out.get(), nullptr, file.get(), nullptr, static_cast<std::size_t>(left), 0);
      if (moved < 0) return errno;
      if (moved == 0) return EIO;
      left -= moved;
    }
    done += static_cast<std::size_t>(filled);
  }
  return 0;
}

int rename_over(victim& v, unsigned char) {
  return result_of(::rename(v.spare.c_str(), v.path.c_str()));
}

int make_anew(victim& v, unsigned char value) {
  if (::unlink(v.path.c_str()) != 0 && errno != ENOENT) return errno;
  return rewrite(v, value, v.path, O_WRONLY | O_CREAT | O_EXCL);
}

int write_direct(victim& v, unsigned char value) {
  const descriptor file = opened(v.path, O_WRONLY | O_DIRECT);
  return file ? put(file.get(), v.filled(value, 16 * page_bytes)) : errno;
}

int write_synced(victim& v, unsigned char value) {
  const descriptor file = opened(v.path, O_WRONLY | O_DSYNC);
  return file ? put(file.get(), v.filled(value, 2 * page_bytes)) : errno;
}

int through_hard_link(victim& v, unsigned char value) {
  ::unlink(v.spare.c_str());
  if (::link(v.path.c_str(), v.spare.c_str()) != 0) return errno;
  const int error = rewrite(v, value, v.spare, O_WRONLY);
  ::unlink(v.spare.c_str());
  return error;
}

int through_proc(victim& v, unsigned char value) {
  const descriptor file = opened(v.path, O_RDONLY);
  if (!file) return errno;
  return rewrite(v, value, "/proc/self/fd/" + std::to_string(file.get()), O_WRONLY);
}

constexpr kind all[] = {
    {.name = "pwrite whole", .strike = pwrite_whole, .whole = true},
    {.name = "pwrite one page", .strike = pwrite_page},
    {.name = "pwrite a few bytes", .strike = pwrite_few},
    {.name = "pwritev", .strike = pwritev_parts, .whole = true},
    {.name = "append", .strike = append},
    {.name = "append with O_APPEND", .strike = append_flag},
    {.name = "store through a mapping", .strike = store},
    {.name = "store through a mapping, descriptor closed before", .strike = store_kept, .once = map_once},
    {.name = "store and msync", .strike = store_and_sync},
    {.name = "descriptor opened before", .strike = pwrite_kept, .once = open_once, .whole = true},
    {.name = "truncate and rewrite", .strike = truncate_and_rewrite},
    {.name = "ftruncate shorter and longer", .strike = shorter_and_longer},
    {.name = "open with O_TRUNC", .strike = open_truncate},
    {.name = "open with O_RDONLY|O_TRUNC", .strike = open_readonly_truncate},
    {.name = "punch a hole", .strike = punch_hole},
    {.name = "zero range", .strike = zero_range},
    {.name = "collapse range", .strike = collapse_range},
    {.name = "insert range", .strike = insert_range},
    {.name = "posix_fallocate", .strike = fallocate_longer},
    {.name = "copy_file_range", .strike = copy_range, .before = stage},
    {.name = "FICLONE", .strike = clone, .before = stage},
    {.name = "sendfile", .strike = send, .before = stage},
    {.name = "splice", .strike = splice_into},
    {.name = "O_DIRECT", .strike = write_direct},
    {.name = "O_DSYNC", .strike = write_synced},
    {.name = "rename over", .strike = rename_over, .before = stage},
    {.name = "unlink and make anew", .strike = make_anew},
    {.name = "hard link", .strike = through_hard_link, .whole = true},
    {.name = "/proc/self/fd", .strike = through_proc, .whole = true},
    {.name = "thread of the reading process", .strike = pwrite_whole, .whole = true, .in_the_reader = true},
};
static_assert(std::size(all) <= kinds_max);

bool is_missing(int error) {
  return error == EOPNOTSUPP || error == ENOSYS || error == EINVAL || error == EXDEV || error == ENOTTY ||
         error == EPERM;
}

void strike(scoreboard& board, std::size_t index, std::size_t writer, victim& v) {
  kind_score& score = board.kinds[index];
  const std::uint64_t past = score.strikes + score.failures;
  const auto value = static_cast<unsigned char>(past % 251 + 1);
  const int row = board.row;
  int error = all[index].before ? all[index].before(v, value) : 0;
  const std::int64_t begin = now_ns();
  if (error == 0) error = all[index].strike(v, value);
  if (error == 0) {
    board.note_wait(writer, row, now_ns() - begin);
    ++score.strikes;
  } else if (past == 0 && is_missing(error)) {
    score.missing_error = error;
  } else {
    ++score.failures;
  }
}

}  // namespace

victim::victim(std::string at)
    : path(std::move(at)),
      spare(path + ".spare"),
      memory(static_cast<std::byte*>(
                 std::aligned_alloc(page_bytes, (victim_bytes + page_bytes - 1) / page_bytes * page_bytes)),
             std::free) {
  if (!memory) throw std::bad_alloc();
}

std::span<std::byte> victim::filled(unsigned char value, std::size_t bytes) {
  std::memset(memory.get(), value, bytes);
  return {memory.get(), bytes};
}

std::span<const kind> kinds() {
  return all;
}

std::string victim_path(const std::string& folder, std::size_t kind) {
  return folder + "/" + std::to_string(kind);
}

int make_victim(const victim& one) {
  const descriptor file = opened(one.path, O_WRONLY | O_CREAT | O_EXCL);
  if (!file) return errno;
  return put(file.get(), std::vector<std::byte>(victim_bytes, std::byte{0xff}));
}

void storm(scoreboard& board, const std::string& folder, std::size_t writer) {
  std::vector<std::pair<std::size_t, victim>> mine;
  for (std::size_t i = writer; i < std::size(all); i += writer_processes) {
    if (all[i].in_the_reader) continue;
    mine.emplace_back(i, victim(victim_path(folder, i)));
    if (!all[i].once) continue;
    if (const int error = all[i].once(mine.back().second)) board.kinds[i].missing_error = error;
  }
  for (;;) {
    for (auto& [index, v] : mine)
      if (board.kinds[index].missing_error == 0) strike(board, index, writer, v);
  }
}

void storm_inside(scoreboard& board, const std::string& folder, const std::atomic<bool>& stop) {
  std::vector<std::pair<std::size_t, victim>> mine;
  for (std::size_t i = 0; i < std::size(all); ++i)
    if (all[i].in_the_reader) mine.emplace_back(i, victim(victim_path(folder, i)));
  while (!stop) {
    for (auto& [index, v] : mine) strike(board, index, writer_processes, v);
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

}  // namespace still::torture
