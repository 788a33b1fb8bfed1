// SPDX-License-Identifier: Apache-2.0
//
// An ext4 on a loop device of its own, mounted in this mount namespace, that can be frozen, or (its image
// being served by a process of ours through FUSE) be made to answer no read, as a device that has gone away.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <string>

namespace adversary {

class loop_filesystem {
 public:
  // Skips the case where such a thing cannot be made.
  explicit loop_filesystem(bool can_hang);
  loop_filesystem(const loop_filesystem&) = delete;
  loop_filesystem& operator=(const loop_filesystem&) = delete;
  ~loop_filesystem();

  const std::string& folder() const { return folder_; }
  bool freeze();
  void thaw();
  void hang(bool on);  // reads of the device: kept waiting, or answered again

 private:
  std::string image_, server_folder_, folder_;
  std::atomic<bool>* hanging_ = nullptr;  // shared with the server
  pid_t server_ = 0;
  bool frozen_ = false;
};

// Writes the file back and drops it from the page cache.
void drop_cached(const std::string& path);

}  // namespace adversary
