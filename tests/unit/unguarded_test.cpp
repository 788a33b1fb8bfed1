// SPDX-License-Identifier: Apache-2.0
//
// The ways that are to be had by name alone: what they take, what they refuse, and that they say so.
#include <errno.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <stillmap/stillmap.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>

namespace {

enum class lock { flock, posix, description };

int take(lock kind, int fd, short type) {
  if (kind == lock::flock) return ::flock(fd, (type == F_WRLCK ? LOCK_EX : LOCK_SH) | LOCK_NB);
  struct flock whole {};
  whole.l_type = type;
  whole.l_whence = SEEK_SET;
  return ::fcntl(fd, kind == lock::posix ? F_SETLK : F_OFD_SETLK, &whole);
}

class Unguarded : public testing::Test {
 protected:
  void SetUp() override {
    const char* const folder = std::getenv("STILLMAP_TEST_SCRATCH");
    ASSERT_NE(folder, nullptr);
    path_ = std::string(folder) + "/unguarded";
    std::ofstream(path_) << std::string(10'000, 'a');
  }
  void TearDown() override { ::unlink(path_.c_str()); }

  int open(still_backing backing, still_snapshot** out, std::uint32_t padding = 0) const {
    still_options options{};
    options.size = sizeof options;
    options.backing = backing;
    options.padding = padding;
    return still_open(path_.c_str(), &options, out);
  }
  static char first_of(const still_snapshot* one) { return *static_cast<const char*>(still_data(one)); }

  std::string path_;
};

TEST_F(Unguarded, TrustedShowsWhatOthersWriteAndClaimsNothing) {
  still_snapshot* one = nullptr;
  ASSERT_EQ(open(STILL_TRUSTED, &one, 64), 0) << still_message();
  EXPECT_EQ(still_how(one), STILL_TRUSTED);
  EXPECT_EQ(still_when(one), STILL_TORN);
  EXPECT_EQ(still_current(one), STILL_SHARED);
  EXPECT_EQ(still_size(one), 10'000u);
  EXPECT_EQ(first_of(one), 'a');
  EXPECT_EQ(static_cast<const char*>(still_data(one))[10'063], '\0');
  const int fd = ::open(path_.c_str(), O_WRONLY | O_CLOEXEC | O_NONBLOCK);
  ASSERT_GE(fd, 0) << "no lease is held";
  ASSERT_EQ(::pwrite(fd, "b", 1, 0), 1);
  ::close(fd);
  EXPECT_EQ(first_of(one), 'b');
  EXPECT_EQ(still_changed(one), 1);
  still_close(one);
}

TEST_F(Unguarded, CooperativeKeepsOutWhoLocksAndNobodyElse) {
  still_snapshot* one = nullptr;
  ASSERT_EQ(open(STILL_COOPERATIVE, &one), 0) << still_message();
  EXPECT_EQ(still_how(one), STILL_COOPERATIVE);
  EXPECT_EQ(still_when(one), STILL_TORN);
  const int fd = ::open(path_.c_str(), O_RDWR | O_CLOEXEC | O_NONBLOCK);
  ASSERT_GE(fd, 0);
  for (const lock kind : {lock::flock, lock::posix, lock::description}) {
    EXPECT_EQ(take(kind, fd, F_WRLCK), -1);
    EXPECT_EQ(take(kind, fd, F_RDLCK), 0) << "readers share";
    EXPECT_EQ(take(kind, fd, kind == lock::flock ? F_RDLCK : F_UNLCK), 0);
  }
  ASSERT_EQ(::flock(fd, LOCK_UN), 0);
  still_snapshot* const also = still_share(one);
  still_close(one);
  EXPECT_EQ(take(lock::flock, fd, F_WRLCK), -1) << "another owner holds it still";
  still_close(also);
  for (const lock kind : {lock::flock, lock::posix, lock::description}) {
    EXPECT_EQ(take(kind, fd, F_WRLCK), 0);
    // A process's own POSIX lock and that of its descriptor would exclude each other.
    if (kind != lock::flock) {
      EXPECT_EQ(take(kind, fd, F_UNLCK), 0);
    }
  }
  ::close(fd);
}

TEST_F(Unguarded, CooperativeNamesWhoHoldsTheLock) {
  for (const lock kind : {lock::flock, lock::posix, lock::description}) {
    int ready[2];
    ASSERT_EQ(::pipe2(ready, O_CLOEXEC), 0);
    const pid_t holder = ::fork();
    if (holder == 0) {
      const int fd = ::open(path_.c_str(), O_RDWR | O_CLOEXEC);
      const char said = take(kind, fd, F_WRLCK) == 0 ? 'y' : 'n';
      if (::write(ready[1], &said, 1) != 1) ::_exit(1);
      for (;;) ::pause();
    }
    char said = '?';
    EXPECT_EQ(::read(ready[0], &said, 1), 1);
    EXPECT_EQ(said, 'y');
    still_snapshot* one = nullptr;
    EXPECT_EQ(open(STILL_COOPERATIVE, &one), STILL_ERROR_BUSY_WRITER);
    std::string named = std::to_string(holder);
    named.insert(0, 1, '(').push_back(')');
    EXPECT_NE(std::strstr(still_message(), named.c_str()), nullptr)
        << still_message();
    ::kill(holder, SIGKILL);
    ::waitpid(holder, nullptr, 0);
    ASSERT_EQ(open(STILL_COOPERATIVE, &one), 0) << still_message();
    still_close(one);
    ::close(ready[0]);
    ::close(ready[1]);
  }
}

TEST_F(Unguarded, CooperativeNeverClosesADescriptorThatBecameAnothers) {
  const int next = ::dup(0);
  ASSERT_GE(next, 0);
  ::close(next);
  still_snapshot* one = nullptr;
  ASSERT_EQ(open(STILL_COOPERATIVE, &one), 0) << still_message();
  ::close(next);  // as an application that closes all it does not know
  const int ours = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  ASSERT_EQ(ours, next);
  still_close(one);
  EXPECT_NE(::fcntl(ours, F_GETFD), -1);
  ::close(ours);
}

TEST_F(Unguarded, AHigherLevelIsRefused) {
  for (const still_backing backing : {STILL_COOPERATIVE, STILL_TRUSTED}) {
    still_options options{};
    options.size = sizeof options;
    options.backing = backing;
    options.require = STILL_VERIFIED;
    still_snapshot* one = nullptr;
    EXPECT_EQ(still_open(path_.c_str(), &options, &one), STILL_ERROR_UNSUPPORTED);
  }
}

}  // namespace
