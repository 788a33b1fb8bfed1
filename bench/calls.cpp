// SPDX-License-Identifier: Apache-2.0
//
// The least that opening, reading and closing a file of 4 KiB can cost at each level: the system calls alone, made
// by hand, without the library. What the library takes beyond that is its own.
//
//   calls/read/whole/4096       open, fstat, read, close: the loop that proves nothing
//   calls/torn/whole/4096       open, statx, pread, close
//   calls/verified/whole/4096   ... with sync_file_range and lseek(SEEK_DATA) before the pread and statx after it
//   calls/leased/whole/4096     ... with F_SETOWN_EX, F_SETLEASE and statx before it and F_UNLCK after it
#include <benchmark/benchmark.h>
#include <linux/magic.h>
#include <sys/statfs.h>
#include <sys/syscall.h>

#include <limits>

#include "ways.hpp"

namespace stillmap::bench {
namespace {

void look(int fd) {
  struct statx found;
  ::statx(fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS | STATX_BTIME, &found);
}

void pread_all(int fd) {
  char* const memory = recycled(page_bytes);
  if (::pread(fd, memory, page_bytes, 0) == page_bytes) keep(sum(memory, page_bytes));
}

void torn(const char* path) {
  const int fd = ::open(path, O_RDONLY | O_CLOEXEC);
  look(fd);
  pread_all(fd);
  ::close(fd);
}

void verified(const char* path) {
  static const bool seeks = [&] {
    struct statfs found;
    return ::statfs(path, &found) == 0 && found.f_type != XFS_SUPER_MAGIC;
  }();
  const int fd = ::open(path, O_RDONLY | O_CLOEXEC);
  look(fd);
  ::sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER);
  if (seeks) ::lseek(fd, std::numeric_limits<off_t>::max(), SEEK_DATA);
  pread_all(fd);
  look(fd);
  ::close(fd);
}

void leased(const char* path) {
  static const f_owner_ex owner{F_OWNER_TID, static_cast<pid_t>(::syscall(SYS_gettid))};
  const int fd = ::open(path, O_RDONLY | O_CLOEXEC);
  look(fd);
  ::fcntl(fd, F_SETOWN_EX, &owner);
  if (::fcntl(fd, F_SETLEASE, F_RDLCK) != 0) fail(path, "F_SETLEASE");
  look(fd);
  pread_all(fd);
  ::fcntl(fd, F_SETLEASE, F_UNLCK);
  ::close(fd);
}

void read_loop(const char* path) {
  read_recycled(path, sum, {});
}

void add(const char* name, void (*once)(const char*), const scratch_file& file) {
  benchmark::RegisterBenchmark((std::string("calls/") + name + "/whole/4096").c_str(), [once, &file](benchmark::State& state) {
    warm(file.path());
    for (auto _ : state) once(file.path());
  })->Unit(benchmark::kMicrosecond)->UseRealTime()->MinTime(0.01)->Repetitions(15);
}

}  // namespace
}  // namespace stillmap::bench

int main(int count, char** words) {
  using namespace stillmap::bench;
  benchmark::Initialize(&count, words);
  const scratch_file file(page_bytes);
  add("read", read_loop, file);
  add("torn", torn, file);
  add("verified", verified, file);
  add("leased", leased, file);
  benchmark::RunSpecifiedBenchmarks();
}
