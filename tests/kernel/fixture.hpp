// SPDX-License-Identifier: Apache-2.0
//
// What the kernel's facts are shown with: owners of descriptors, mappings and child processes, a folder on
// each file system that tests/support/with-filesystems offers, and the four calls of a lease. Pure system
// calls; the stillmap library is not linked, so that a kernel that differs is told apart from a library that
// is wrong.
//
// Nothing here sleeps to let something happen: eventually() polls for a condition and has a deadline. What is
// expected to kill a process is done in a child, whose wait status is looked at. In a child, NEED takes the
// place of ASSERT: it says on stderr which line was not met and ends the child with 1.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/stat.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <system_error>
#include <utility>

#define NEED(condition)                                                                                \
  do {                                                                                                 \
    if (!(condition)) {                                                                                \
      dprintf(2, "%s:%d: in a child: not so: %s (errno %d)\n", __FILE__, __LINE__, #condition, errno); \
      return 1;                                                                                        \
    }                                                                                                  \
  } while (0)

namespace facts {

using std::chrono::milliseconds;
using std::chrono::seconds;
using clock = std::chrono::steady_clock;

inline constexpr std::size_t page = 4096;

[[noreturn]] inline void fail(const std::string& what) {
  throw std::system_error(errno, std::generic_category(), what);
}

/* Polls once a millisecond; true as soon as the condition is. */
template <class Condition>
bool eventually(Condition condition, milliseconds limit = seconds(10)) {
  const auto deadline = clock::now() + limit;
  for (;;) {
    if (condition()) return true;
    if (clock::now() >= deadline) return false;
    const timespec pace{0, 1'000'000};
    nanosleep(&pace, nullptr);
  }
}

class descriptor {
 public:
  descriptor() = default;
  explicit descriptor(int number) : number_(number) {}
  descriptor(descriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  descriptor& operator=(descriptor&& other) noexcept {
    if (this != &other) {
      close();
      number_ = std::exchange(other.number_, -1);
    }
    return *this;
  }
  ~descriptor() { close(); }
  void close() {
    if (number_ >= 0) ::close(std::exchange(number_, -1));
  }
  operator int() const { return number_; }  // so that system calls read as in their manual pages

 private:
  int number_ = -1;
};

inline descriptor opened(const std::string& path, int flags, mode_t mode = 0666) {
  const int number = ::open(path.c_str(), flags | O_CLOEXEC, mode);
  if (number < 0) fail("open " + path);
  return descriptor(number);
}

/* A second open file description of the same file. */
inline descriptor opened_anew(int fd, int flags) {
  return opened("/proc/self/fd/" + std::to_string(fd), flags);
}

/* open(2)'s errno, or 0. The descriptor is gone at once. */
inline int open_error(const std::string& path, int flags) {
  const descriptor attempt(::open(path.c_str(), flags | O_CLOEXEC, 0666));
  return attempt < 0 ? errno : 0;
}

class mapping {
 public:
  mapping(int fd, std::size_t size, int protection, int flags, off_t offset = 0) : size_(size) {
    void* const at = mmap(nullptr, size, protection, flags, fd, offset);
    if (at == MAP_FAILED) fail("mmap");
    at_ = static_cast<char*>(at);
  }
  mapping(const mapping&) = delete;
  mapping& operator=(const mapping&) = delete;
  ~mapping() { unmap(); }
  void unmap() {
    if (at_ != nullptr) munmap(std::exchange(at_, nullptr), size_);
  }
  char* data() const { return at_; }
  std::size_t size() const { return size_; }
  char load(std::size_t at) const { return *static_cast<const volatile char*>(at_ + at); }
  void store(std::size_t at, char value) const { *static_cast<volatile char*>(at_ + at) = value; }

 private:
  char* at_ = nullptr;
  std::size_t size_;
};

/* R, S, D, Z, T of a task, or 0 when there is none. */
inline char task_state(pid_t process, pid_t task) {
  std::ifstream file("/proc/" + std::to_string(process) + "/task/" + std::to_string(task) + "/stat");
  std::string line;
  if (!std::getline(file, line)) return 0;
  const auto name_end = line.rfind(')');
  return name_end == std::string::npos || name_end + 2 >= line.size() ? char{0} : line[name_end + 2];
}

/* A forked process that runs body and exits with what it returns. Killed when its owner goes. */
class child {
 public:
  template <class Body>
  explicit child(Body body) {
    std::fflush(nullptr);
    pid_ = fork();
    if (pid_ < 0) fail("fork");
    if (pid_ == 0) {
      int code = 1;
      try {
        code = body();
      } catch (const std::exception& error) {
        dprintf(2, "in a child: %s\n", error.what());
      }
      _exit(code);
    }
  }
  child(const child&) = delete;
  child& operator=(const child&) = delete;
  ~child() {
    if (!status_) {
      ::kill(pid_, SIGKILL);
      waitpid(pid_, nullptr, 0);
    }
  }
  pid_t pid() const { return pid_; }
  bool ended() {
    int status = 0;
    if (!status_ && waitpid(pid_, &status, WNOHANG) == pid_) status_ = status;
    return status_.has_value();
  }
  /* The wait status; -1 when it does not end in time. */
  int status(milliseconds limit = seconds(20)) {
    return eventually([&] { return ended(); }, limit) ? *status_ : -1;
  }
  bool exits(int code, milliseconds limit = seconds(20)) {
    const int seen = status(limit);
    return seen != -1 && WIFEXITED(seen) && WEXITSTATUS(seen) == code;
  }
  bool dies_of(int signal, milliseconds limit = seconds(20)) {
    const int seen = status(limit);
    return seen != -1 && WIFSIGNALED(seen) && WTERMSIG(seen) == signal;
  }
  bool asleep() {
    const char state = task_state(pid_, pid_);
    return !ended() && (state == 'S' || state == 'D');
  }

 private:
  pid_t pid_ = -1;
  std::optional<int> status_;
};

/* Whether reading one byte at this address kills, and with what: 0, SIGBUS or SIGSEGV. */
inline int touch_signal(const char* address) {
  child reader([&] { return *static_cast<const volatile char*>(address) == 'x' ? 0 : 0; });
  const int status = reader.status();
  return status != -1 && WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

/* One way between a parent and its child: say() lets wait() of the other side go on. */
class gate {
 public:
  gate() {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) fail("pipe2");
    out_ = descriptor(ends[0]);
    in_ = descriptor(ends[1]);
  }
  void say() const {
    if (write(in_, "!", 1) != 1) fail("write to a gate");
  }
  void wait() const {
    pollfd ready{out_, POLLIN, 0};
    char byte;
    if (poll(&ready, 1, 20'000) != 1 || read(out_, &byte, 1) != 1)
      fail("the other side of a gate says nothing");
  }

 private:
  descriptor out_, in_;
};

/* The four calls of a lease. take and give: 0 or errno. */
inline int take(int fd) {
  return fcntl(fd, F_SETLEASE, F_RDLCK) == 0 ? 0 : errno;
}
inline int give(int fd) {
  return fcntl(fd, F_SETLEASE, F_UNLCK) == 0 ? 0 : errno;
}
inline int held(int fd) {
  return fcntl(fd, F_GETLEASE);
}

/* A writer of ours hangs in the kernel because of the lease on fd. */
inline bool waits_for_lease(child& writer, int fd) {
  return eventually([&] { return writer.ended() || (held(fd) == F_UNLCK && writer.asleep()); }) &&
         !writer.ended();
}

/* A signal that nothing else here uses, with its handling left at the default and blocked. */
inline sigset_t only(int signal) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, signal);
  return set;
}

/* The next such signal pending for this thread or process; 0 when none comes in time. */
inline int next_signal(int signal, siginfo_t* info, milliseconds limit) {
  const sigset_t set = only(signal);
  const timespec wait{limit.count() / 1000, (limit.count() % 1000) * 1'000'000};
  int seen;
  do seen = sigtimedwait(&set, info, &wait);
  while (seen < 0 && errno == EINTR);
  return seen < 0 ? 0 : seen;
}

inline struct statx stat_of(int fd) {
  struct statx result {};
  if (syscall(SYS_statx, fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS, &result) != 0) fail("statx");
  return result;
}
inline std::int64_t nanoseconds(const statx_timestamp& stamp) {
  return stamp.tv_sec * 1'000'000'000 + stamp.tv_nsec;
}
inline std::int64_t ctime_of(int fd) {
  return nanoseconds(stat_of(fd).stx_ctime);
}
inline std::int64_t mtime_of(int fd) {
  return nanoseconds(stat_of(fd).stx_mtime);
}

/* For the time of its life /proc/sys/fs/lease-break-time is this. The first value is noted in memory shared
 * with the process that supervises the tests (main.cpp), which puts it back if these die half way. */
class break_time {
 public:
  explicit break_time(int value);
  break_time(const break_time&) = delete;
  break_time& operator=(const break_time&) = delete;
  ~break_time();
};

/* A folder of a test's own on the file system that $STILLMAP_TEST_<name> names. */
class folder {
 public:
  static std::optional<std::string> root(const std::string& name) {
    const char* const found = std::getenv(("STILLMAP_TEST_" + name).c_str());
    if (found == nullptr || *found == 0) return std::nullopt;
    return found;
  }
  explicit folder(const std::string& root) : path_(root + "/facts.XXXXXX") {
    if (mkdtemp(path_.data()) == nullptr) fail("mkdtemp " + path_);
    std::filesystem::permissions(path_, std::filesystem::perms::all);
  }
  folder(const folder&) = delete;
  folder& operator=(const folder&) = delete;
  ~folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

inline void write_file(const std::string& path, std::size_t size, char fill) {
  const descriptor file = opened(path, O_WRONLY | O_CREAT | O_TRUNC);
  const std::string bytes(size, fill);
  if (pwrite(file, bytes.data(), size, 0) != static_cast<ssize_t>(size)) fail("pwrite " + path);
  if (fchmod(file, 0666) != 0) fail("fchmod " + path);
}

/* The tests of a suite run once on each file system that is there; the others are skipped by name. */
class on_each_file_system : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const auto root = folder::root(GetParam());
    if (!root) GTEST_SKIP() << "no " << GetParam() << " here: STILLMAP_TEST_" << GetParam() << " is unset";
    folder_.emplace(*root);
    file_ = *folder_ / "file";
    write_file(file_, 4 * page, 'a');
  }
  bool on(const char* name) const { return std::strcmp(GetParam(), name) == 0; }
  const std::string& file() const { return file_; }  // four pages of 'a'
  std::string beside(const std::string& name) const { return *folder_ / name; }

 private:
  std::optional<folder> folder_;
  std::string file_;
};

/* For what is claimed of the kernel, whatever the file system: the first one at hand. */
class on_any_file_system : public testing::Test {
 protected:
  void SetUp() override {
    auto root = folder::root("EXT4");
    if (!root) root = folder::root("SCRATCH");
    if (!root) GTEST_SKIP() << "neither STILLMAP_TEST_EXT4 nor STILLMAP_TEST_SCRATCH is set";
    folder_.emplace(*root);
    file_ = *folder_ / "file";
    write_file(file_, 4 * page, 'a');
  }
  const std::string& file() const { return file_; }
  std::string beside(const std::string& name) const { return *folder_ / name; }

 private:
  std::optional<folder> folder_;
  std::string file_;
};

inline std::string file_system_name(const testing::TestParamInfo<const char*>& info) {
  return info.param;
}

}  // namespace facts
