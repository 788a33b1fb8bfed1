// SPDX-License-Identifier: Apache-2.0
//
// Where a writer strikes from: a process of its own (this program executed anew, so that a sanitizer's run
// time starts clean), or a thread of the very process that holds the snapshots. Both obey the same loop,
// which takes orders from a socket; whoever gives orders waits for answers with a deadline, because a writer
// that waits for ever is one of the failures looked for.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>

#include "writers.hpp"

namespace adversary {

// Seen by both sides while a writer is at work without pause.
struct progress {
  std::atomic<std::uint64_t> begun{0}, finished{0};  // generations
  std::atomic<std::uint64_t> slowest_ns{0};
  std::atomic<bool> stop{false};
};

struct answer {
  strike_result result;
  std::uint64_t took_ns = 0;
  bool timed_out = false;
};

inline constexpr int strike_deadline_ms = 5000;

class striker {
 public:
  enum class place { process, thread };
  explicit striker(place where);
  striker(const striker&) = delete;
  striker& operator=(const striker&) = delete;
  ~striker();

  // kind is an index into writer_kinds().
  answer prepare(std::size_t kind, const target& at);
  answer strike(std::uint64_t generation);
  answer finish();

  // Strikes without pause from generation first on, until told to stop.
  void begin_work(std::uint64_t first);
  answer end_work();
  const progress& so_far() const { return *progress_; }

  const char* name() const { return where_ == place::process ? "process" : "thread"; }
  int pid() const { return pid_; }

 private:
  answer ask(const void* order, int deadline_ms);
  answer await(int deadline_ms);

  place where_;
  int socket_ = -1;
  int pid_ = -1;
  progress* progress_ = nullptr;
  std::thread thread_;
};

// The process half: main calls this first; it does not return where this is a writer's process.
void serve_if_writer_process(int argc, char** argv);

}  // namespace adversary
