// SPDX-License-Identifier: Apache-2.0
//
// One mutex, taken once a pass: the passes themselves run without any lock, as a library's user would read.
#include "readers.hpp"

#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <utility>

namespace adversary {

readers::readers(unsigned count) : finished_(count, 0), idle_(count, 1) {
  for (std::size_t i = 0; i < count; ++i) threads_.emplace_back([this, i] { loop(i); });
}

readers::~readers() {
  {
    const std::lock_guard lock(mutex_);
    quit_ = true;
    reading_ = false;
  }
  changed_.notify_all();
  for (std::thread& one : threads_) one.join();
}

void readers::loop(std::size_t index) {
  // They read without pause and would starve the writers and the driver, whom they are there to watch.
  setpriority(PRIO_PROCESS, static_cast<id_t>(gettid()), 10);
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return quit_ || reading_; });
    if (quit_) return;
    idle_[index] = 0;
    const std::vector<region> regions = regions_;
    while (reading_) {
      const std::uint64_t ticket = ticket_;
      lock.unlock();
      comparison mine;
      for (const region& one : regions) mine.add(compare(one.data, *one.first));
      sched_yield();  // to the next reader, not a whole time slice later
      lock.lock();
      found_.add(mine);
      finished_[index] = ticket;
      changed_.notify_all();
    }
    idle_[index] = 1;
    changed_.notify_all();
  }
}

void readers::begin(std::vector<region> regions) {
  {
    const std::lock_guard lock(mutex_);
    regions_ = std::move(regions);
    found_ = {};
    reading_ = true;
  }
  changed_.notify_all();
}

bool readers::pass() {
  std::unique_lock lock(mutex_);
  const std::uint64_t ticket = ++ticket_;
  return changed_.wait_for(lock, std::chrono::minutes(1), [&] {
    return std::all_of(finished_.begin(), finished_.end(), [&](std::uint64_t one) { return one >= ticket; });
  });
}

comparison readers::end() {
  std::unique_lock lock(mutex_);
  reading_ = false;
  changed_.wait(lock,
                [&] { return std::all_of(idle_.begin(), idle_.end(), [](char one) { return one != 0; }); });
  return found_;
}

}  // namespace adversary
