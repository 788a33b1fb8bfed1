// SPDX-License-Identifier: Apache-2.0
//
// A file on its way to take another's place. It lives in the folder of the target, for a rename replaces
// atomically only within one file system, and has no name there while it is written (O_TMPFILE), so that
// whoever is killed, or runs out of space, leaves nothing behind. Where a file system has no such files it
// has a name of its own from the start, which a signal handler takes away.
#pragma once

#include <sys/stat.h>

#include <optional>
#include <stdexcept>
#include <string>

namespace still::cp {

// What went wrong, in words ready for stderr.
struct failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// "NAME: words of errno"
failure failure_of(const std::string& name, int error);

class replacement {
 public:
  // target: an absolute or relative path, no symbolic link. A new file gets `mode` less the umask; one that
  // is there already leaves its mode and, where we may give files away, its owner.
  replacement(const std::string& target, mode_t mode, const std::optional<struct stat>& there);
  replacement(const replacement&) = delete;
  replacement& operator=(const replacement&) = delete;
  ~replacement();

  int fd() const { return fd_; }
  // On the disk first, then in the target's place.
  void put_in_place();

 private:
  void name_it();

  std::string target_, name_;
  std::optional<struct stat> there_;
  int fd_ = -1;
  bool named_ = false;
};

}  // namespace still::cp
