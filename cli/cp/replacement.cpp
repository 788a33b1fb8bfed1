// SPDX-License-Identifier: Apache-2.0
//
// A name exists, at most, from just before the rename on. The handler below runs on the main thread alone,
// for the others block its signals: so it sees a name either not yet made, or made and doomed, and none is
// made behind its back.
#include "cp/replacement.hpp"

#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <random>

namespace still::cp {
namespace {

constexpr std::array ending_signals = {SIGINT, SIGTERM, SIGHUP};

char doomed[PATH_MAX];
volatile sig_atomic_t armed = 0;

void on_end(int number) {
  if (armed != 0) ::unlink(doomed);
  ::signal(number, SIG_DFL);
  ::raise(number);  // delivered when this returns
}

void arm(const std::string& name) {
  if (name.size() >= sizeof doomed) throw failure_of(name, ENAMETOOLONG);
  std::memcpy(doomed, name.c_str(), name.size() + 1);
  armed = 1;
  for (const int number : ending_signals) {
    struct sigaction now;
    if (::sigaction(number, nullptr, &now) != 0 || now.sa_handler != SIG_DFL) continue;  // nohup stays
    now.sa_handler = on_end;
    ::sigaction(number, &now, nullptr);
  }
}

std::string folder_of(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  return slash == std::string::npos ? "./" : path.substr(0, slash + 1);
}

std::string fresh_name(const std::string& target) {
  std::random_device random;
  char name[40];
  std::snprintf(name, sizeof name, ".still-cp-%08x%08x", random(), random());
  return folder_of(target) + name;
}

constexpr int attempts_max = 16;  // at a name of 64 random bits

}  // namespace

failure failure_of(const std::string& name, int error) {
  return failure(name + ": " + std::strerror(error));
}

replacement::replacement(const std::string& target, mode_t mode, const std::optional<struct stat>& there)
    : target_(target), there_(there) {
  const mode_t first = there ? 0600 : mode & 0777;
  fd_ = ::open(folder_of(target).c_str(), O_TMPFILE | O_WRONLY | O_CLOEXEC, first);
  // EISDIR, ENOENT: a kernel, or a FUSE server, that does not know the flag.
  if (fd_ < 0 && errno != EOPNOTSUPP && errno != EISDIR && errno != ENOENT && errno != EINVAL)
    throw failure_of(target, errno);
  for (int i = 0; fd_ < 0 && i < attempts_max; ++i) {
    name_ = fresh_name(target);
    arm(name_);
    fd_ = ::open(name_.c_str(), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, first);
    if (fd_ >= 0) {
      named_ = true;
      break;
    }
    armed = 0;
    if (errno != EEXIST) throw failure_of(target, errno);
  }
  if (fd_ < 0) throw failure_of(target, EEXIST);
}

replacement::~replacement() {
  if (named_) ::unlink(name_.c_str());
  armed = 0;
  if (fd_ >= 0) ::close(fd_);
}

void replacement::name_it() {
  const std::string self = "/proc/self/fd/" + std::to_string(fd_);
  for (int i = 0; i < attempts_max; ++i) {
    name_ = fresh_name(target_);
    arm(name_);
    if (::linkat(AT_FDCWD, self.c_str(), AT_FDCWD, name_.c_str(), AT_SYMLINK_FOLLOW) == 0) {
      named_ = true;
      return;
    }
    armed = 0;
    if (errno != EEXIST) break;
  }
  throw failure_of(target_, errno);
}

void replacement::put_in_place() {
  if (there_) {
    // The owner first, for that takes set-user-ID bits away. Only root may give a file away: then it is ours.
    [[maybe_unused]] const int given = ::fchown(fd_, there_->st_uid, there_->st_gid);
    if (::fchmod(fd_, there_->st_mode & (given == 0 ? 07777 : 0777)) != 0) throw failure_of(target_, errno);
  }
  if (::fsync(fd_) != 0) throw failure_of(target_, errno);
  if (!named_) name_it();
  if (::rename(name_.c_str(), target_.c_str()) != 0) throw failure_of(target_, errno);
  named_ = false;
  armed = 0;
}

}  // namespace still::cp
