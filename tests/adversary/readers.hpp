// SPDX-License-Identifier: Apache-2.0
//
// Threads that read every byte of the snapshots under test, over and over, and compare it with what was read
// first. After each strike the driver waits for one whole pass of every reader that began after the strike:
// what a writer did has then been looked at, and no time has to be guessed.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#include "fault_guard.hpp"

namespace adversary {

struct region {
  const std::byte* data;
  const observation* first;
};

class readers {
 public:
  explicit readers(unsigned count);
  readers(const readers&) = delete;
  readers& operator=(const readers&) = delete;
  ~readers();

  void begin(std::vector<region> regions);
  bool pass();       // false if a reader did not end its pass within a minute
  comparison end();  // stops reading; what all of them found

 private:
  void loop(std::size_t index);

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<region> regions_;
  std::vector<std::uint64_t>
      finished_;  // the ticket that each reader's last whole pass had seen at its start
  std::vector<char> idle_;
  comparison found_;
  std::uint64_t ticket_ = 0;
  bool reading_ = false, quit_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace adversary
