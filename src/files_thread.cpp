// SPDX-License-Identifier: Apache-2.0
#include "files_thread.hpp"

#include <errno.h>

#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <mutex>
#include <new>

#include "linux/kernel.hpp"
#include "warden/threads.hpp"
#include "warden/warden.hpp"

namespace stillmap::files_thread {
namespace {

constexpr std::chrono::milliseconds surplus_time{200};
constexpr int threads_max = 16;  // others need not wait behind storage that hangs

struct job {
  void (*work)(void*) noexcept;
  void* context;
  job* next = nullptr;
  std::atomic<std::uint32_t> state{queued};  // futex
  static constexpr std::uint32_t queued = 0, done = 1, refused = 2;
};

struct queue {
  std::mutex mutex;
  std::condition_variable filled;
  job* first = nullptr;
  job* last = nullptr;
  int threads = 0, idle = 0, waiting = 0;
};

// Never destroyed; made anew in a forked child, whose copy may be in any state.
alignas(queue) std::byte place[sizeof(queue)];
queue& the_queue() noexcept {
  static queue* const one = new (place) queue;
  return *one;
}

// A handler that ran while this is held and opened a leased file for writing would wait for a detach that may
// need this queue.
class all_signals_blocked {
 public:
  all_signals_blocked() noexcept {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~all_signals_blocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

 private:
  sigset_t before_;
};

void end(job& one, std::uint32_t how) noexcept {
  // The job lies on its owner's stack, and is gone as soon as the owner sees this. The wake-up then meets
  // whatever is there: futex waiters bear one for nothing.
  const std::atomic<std::uint32_t>& word = one.state;
  one.state.store(how);
  kernel::futex_wake(word);
}

job* take(queue& shared) noexcept {
  job* const one = shared.first;
  shared.first = one->next;
  if (shared.first == nullptr) shared.last = nullptr;
  --shared.waiting;
  return one;
}

void* serve(void*) {
  queue& shared = the_queue();
  const bool apart = kernel::leave_descriptors() == 0;
  std::unique_lock lock(shared.mutex);
  if (!apart) {
    --shared.threads;
    while (shared.threads == 0 && shared.first != nullptr) end(*take(shared), job::refused);
    return nullptr;
  }
  for (;;) {
    if (shared.first == nullptr) {
      // One stands ready; more end when nobody misses them for a while.
      const bool surplus = shared.threads > 1;
      ++shared.idle;
      const bool missed = !surplus ? (shared.filled.wait(lock), true)
                                   : shared.filled.wait_for(lock, surplus_time) == std::cv_status::no_timeout;
      --shared.idle;
      if (!missed && shared.idle > 0 && shared.first == nullptr) {
        --shared.threads;
        return nullptr;
      }
      continue;
    }
    job* const one = take(shared);
    lock.unlock();
    one->work(one->context);
    end(*one, job::done);
    lock.lock();
  }
}

}  // namespace

bool run(void (*work)(void*) noexcept, void* context) noexcept {
  warden::watch_forks();
  queue& shared = the_queue();
  job one{work, context};
  {
    const all_signals_blocked quiet;
    std::unique_lock lock(shared.mutex);
    (shared.last != nullptr ? shared.last->next : shared.first) = &one;
    shared.last = &one;
    ++shared.waiting;
    if (shared.idle >= shared.waiting) {
      shared.filled.notify_one();
    } else if (shared.threads < threads_max) {
      ++shared.threads;
      lock.unlock();  // starting a thread allocates
      if (!warden::start_thread(serve, "stillmap-files")) {
        lock.lock();
        --shared.threads;
        while (shared.threads == 0 && shared.first != nullptr) end(*take(shared), job::refused);
      }
    }
  }
  while (one.state.load() == job::queued) kernel::futex_wait(one.state, job::queued, -1);
  return one.state.load() == job::done;
}

long descriptor_of(int fd, int thread) noexcept {
  const long same = kernel::descriptor_of_process(fd);
  if (same >= 0) return same;
  // Refused by a container's filter, or the first thread is gone: opened anew.
  char link[64];
  std::snprintf(link, sizeof link, "/proc/self/task/%d/fd/%d", thread, fd);
  return kernel::open_read_only(link, O_NONBLOCK);
}

void forget_after_fork() noexcept {
  the_queue();
  new (place) queue;
}

}  // namespace stillmap::files_thread
