// SPDX-License-Identifier: Apache-2.0
//
// The copiers: a small pool of threads that may wait for storage, so that the keeper never does. Work is
// taken piece by piece, round robin over the detachments, so that a small file need not wait behind a large
// one. Two copy at a time, for more than that gains nothing; where no piece was finished for a while they are
// stuck, on a frozen device say, and one more is let in, so that another lease's break is not held up. A
// spare thread stands ready for that: it is started by a copier, never by the keeper, for starting a thread
// allocates.
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <new>

#include "linux/kernel.hpp"
#include "private_file.hpp"
#include "reserve.hpp"
#include "settings.hpp"
#include "warden/threads.hpp"
#include "warden/warden.hpp"

namespace stillmap::warden::copiers {
namespace {

constexpr int active_usual = 2;  // a second one pays; from two on memory is what they wait for
constexpr int active_max = 15;
constexpr std::int64_t stuck_ns = 5'000'000;  // a cached piece takes 0.2 to 1 ms
constexpr std::size_t closes_max = 1024;
constexpr std::chrono::milliseconds surplus_time{200};

// Between the keeper and the copiers alone; held for a few instructions, and by no one who may wait for a
// lease.
struct pool {
  std::mutex mutex;
  std::condition_variable work;
  detachment* first = nullptr;
  detachment* last = nullptr;
  struct closing {
    int fd;
    std::int64_t mark;
    std::uint64_t device, inode;
  } closes[closes_max];
  std::size_t close_count = 0;
  bool closing_now = false;  // one at a time: it may wait for storage
  bool reserve_wanted = false, tending_now = false;
  int threads = 0, idle = 0;
  int active = 0, active_allowed = active_usual;
  std::int64_t progress_ns = 0;  // when a piece was finished last, or work came to an empty queue
};

// Never destroyed; made anew in a forked child, whose copy may be in any state.
alignas(pool) std::byte place[sizeof(pool)];
pool& the_pool() noexcept {
  static pool* const one = new (place) pool;
  return *one;
}

std::atomic<detachment*> finished{nullptr};

void push_finished(detachment* work) noexcept {
  work->references.fetch_add(1);  // the list's: the keeper may have passed its deadline meanwhile
  detachment* head = finished.load();
  do {
    work->next = head;
  } while (!finished.compare_exchange_weak(head, work));
  poke();
}

private_file::source source_of(const detachment& work) noexcept {
  return {work.fd, work.device, work.inode};
}

// Of the whole range: a mapping of the file's clone. The lease has frozen the size, unless it was broken
// through.
void clone(detachment& work) noexcept {
  private_file::with_clone(source_of(work), [&](int fd) noexcept {
    stamps copy;
    if (const long error = read_stamps(fd, nullptr, copy); error != 0) return error;
    if (copy.size != work.file_bytes) return long{-ESTALE};
    long error = 0;
    work.replacement =
        private_file::map_congruent(fd, PROT_READ, work.offset, work.bytes, work.source, error).release();
    if (error != 0) return error;
    kernel::advise(work.replacement, work.bytes, MADV_DONTFORK);
    work.all_pieces()[0].valid_bytes = work.wanted_bytes;
    return error;
  });
}

// The bytes of one piece, or as many as can be had: a truncation or a read error leaves the rest invalid.
void copy(detachment& work, std::uint32_t index) noexcept {
  if (work.by == means::clone) return clone(work);
  if (work.by == means::spill) {
    long error = 0;
    work.replacement = private_file::map_spill(source_of(work), work.bytes, work.source, error).release();
    if (work.replacement == nullptr) return;
    kernel::advise(work.replacement, work.bytes, MADV_DONTFORK);
  }
  const std::size_t begin = work.piece_begin(index);
  const std::size_t wanted = begin >= work.wanted_bytes
                                 ? 0
                                 : std::min<std::size_t>(work.piece_bytes(index), work.wanted_bytes - begin);
  std::size_t done = 0;
  if (work.fd >= 0) {
    kernel::pread(work.fd, work.replacement + begin, wanted, work.offset + begin, done);
  } else {
    while (done < wanted) {
      const long got =
          kernel::copy_own(work.replacement + begin + done, work.source + begin + done, wanted - done);
      if (got <= 0) break;
      done += static_cast<std::size_t>(got);
    }
  }
  // The reserve's memory holds what it held before.
  if (work.by == means::memory && done == wanted)
    std::memset(work.replacement + begin + wanted, 0, work.piece_bytes(index) - wanted);
  if (work.by == means::spill && private_file::settle_spill(work.replacement, work.bytes) != 0) done = 0;
  work.all_pieces()[index].valid_bytes = done;
}

// Takes the next piece off the queue.
detachment* take_piece(pool& shared, std::uint32_t& index) noexcept {
  detachment* const work = shared.first;
  shared.first = work->next;
  if (shared.first == nullptr) shared.last = nullptr;
  index = work->next_piece++;
  if (work->next_piece < work->pieces) {  // to the end of the queue
    work->next = nullptr;
    (shared.last != nullptr ? shared.last->next : shared.first) = work;
    shared.last = work;
  }
  work->references.fetch_add(1);
  work->all_pieces()[index].state.store(piece_state::copying);
  return work;
}

void finish_piece(detachment& work, std::uint32_t index) noexcept {
  piece_state expected = piece_state::copying;
  if (work.all_pieces()[index].state.compare_exchange_strong(expected, piece_state::done)) {
    if (work.unfinished_pieces.fetch_sub(1) == 1) push_finished(&work);
  } else if (work.replacement != nullptr) {  // too late: the keeper went on without it
    kernel::unmap(work.replacement + work.piece_begin(index), work.piece_bytes(index));
  }
  release(&work);
}

void* run(void*);

// With the lock held, before a thread goes where it may have to wait: is there one to take its place?
bool needs_spare(pool& shared) noexcept {
  const bool needed = shared.idle == 0 && shared.threads <= active_max;
  if (needed) ++shared.threads;
  return needed;
}
void start_spare(pool& shared) noexcept {
  if (start_thread(run, "stillmap-copier")) return;
  const std::lock_guard lock(shared.mutex);
  --shared.threads;
}

void* run(void*) {
  pool& shared = the_pool();
  std::unique_lock lock(shared.mutex);
  for (;;) {
    if (shared.first != nullptr && shared.active < shared.active_allowed) {
      std::uint32_t index = 0;
      detachment* const work = take_piece(shared, index);
      ++shared.active;
      const bool spare = needs_spare(shared);
      lock.unlock();
      if (spare) start_spare(shared);
      copy(*work, index);
      finish_piece(*work, index);
      lock.lock();
      --shared.active;
      shared.active_allowed = std::max(active_usual, shared.active_allowed - 1);
      shared.progress_ns = kernel::now_ns();
    } else if (shared.close_count > 0 && !shared.closing_now) {
      const pool::closing one = shared.closes[--shared.close_count];
      shared.closing_now = true;
      const bool spare = needs_spare(shared);
      lock.unlock();
      if (spare) start_spare(shared);
      if (is_marked(one.fd, one.mark, one.device, one.inode)) kernel::close(one.fd);
      lock.lock();
      shared.closing_now = false;
    } else if (shared.reserve_wanted && !shared.tending_now) {
      shared.reserve_wanted = false;
      shared.tending_now = true;
      const bool spare = needs_spare(shared);
      lock.unlock();
      if (spare) start_spare(shared);
      reserve::tend();
      lock.lock();
      shared.tending_now = false;
    } else {
      // More than the usual ones and a spare end when nobody misses them for a while.
      const bool surplus = shared.threads > active_usual + 1;
      ++shared.idle;
      const bool missed = !surplus ? (shared.work.wait(lock), true)
                                   : shared.work.wait_for(lock, surplus_time) == std::cv_status::no_timeout;
      --shared.idle;
      const bool nothing_to_do = shared.first == nullptr && shared.close_count == 0 && !shared.reserve_wanted;
      if (!missed && nothing_to_do && shared.idle > 0 && shared.threads > active_usual + 1) {
        --shared.threads;
        return nullptr;
      }
    }
  }
}

}  // namespace

bool start() noexcept {
  // A handler that ran here and opened a leased file for writing would keep the keeper from the mutex.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  pool& shared = the_pool();
  bool any = false;
  {
    const std::lock_guard lock(shared.mutex);
    while (shared.threads <= active_usual) {  // and the spare one
      if (!start_thread(run, "stillmap-copier")) break;
      ++shared.threads;
    }
    any = shared.threads > 0;
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return any;
}

void enqueue(detachment* work) noexcept {
  pool& shared = the_pool();
  const std::lock_guard lock(shared.mutex);
  if (shared.first == nullptr) shared.progress_ns = kernel::now_ns();
  work->next = nullptr;
  (shared.last != nullptr ? shared.last->next : shared.first) = work;
  shared.last = work;
  work->pieces > 1 ? shared.work.notify_all() : shared.work.notify_one();
}

void watch() noexcept {
  pool& shared = the_pool();
  const std::lock_guard lock(shared.mutex);
  const std::int64_t now = kernel::now_ns();
  if (shared.first == nullptr || now - shared.progress_ns < stuck_ns || shared.active_allowed == active_max)
    return;
  ++shared.active_allowed;
  shared.progress_ns = now;
  shared.work.notify_one();
}

void withdraw(detachment* work) noexcept {
  pool& shared = the_pool();
  const std::lock_guard lock(shared.mutex);
  detachment* before = nullptr;
  for (detachment* each = shared.first; each != nullptr; before = each, each = each->next) {
    if (each != work) continue;
    (before != nullptr ? before->next : shared.first) = work->next;
    if (shared.last == work) shared.last = before;
    return;
  }
}

bool close_later(const lease& one) noexcept {
  pool& shared = the_pool();
  {
    const std::lock_guard lock(shared.mutex);
    if (shared.close_count == closes_max) return false;
    shared.closes[shared.close_count++] = {one.fd, one.mark, one.device, one.inode};
  }
  shared.work.notify_one();
  return true;
}

void tend_reserve() noexcept {
  pool& shared = the_pool();
  {
    const std::lock_guard lock(shared.mutex);
    shared.reserve_wanted = true;
  }
  shared.work.notify_one();
}

detachment* take_finished() noexcept {
  return finished.exchange(nullptr);
}

void release(detachment* work) noexcept {
  if (work->references.fetch_sub(1) == 1) kernel::unmap(work, work->own_bytes);
}

void forget_after_fork() noexcept {
  the_pool();
  new (place) pool;
  finished.store(nullptr);
}

}  // namespace stillmap::warden::copiers
