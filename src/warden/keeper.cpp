// SPDX-License-Identifier: Apache-2.0
//
// The keeper: the one thread that answers. Its loop: wait for a signal or the next poll; look at the lease
// that the signal names; look at all of them once the queue is empty (a full queue loses signals); put in
// place what the copiers finished; poison what passed its deadline.
//
// The clock of a break starts at the last moment at which the lease was *seen* whole (F_GETLEASE said
// F_RDLCK, the clock read before the call), never at the signal. Every lease is looked at at least every
// eighth of the break time. The margin at the end is for the keeper's own way through the scheduler.
//
// F_RDLCK is never set again on a descriptor: after a forced break it may silently be a new lease, whose
// F_UNLCK would certify changed bytes. F_GETLEASE says F_UNLCK for a pending and for a forced break alike;
// only F_SETLEASE F_UNLCK decides: 0 in time, EAGAIN too late.
#include <errno.h>
#include <signal.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <cstdlib>
#include <new>
#include <utility>

#include "linux/kernel.hpp"
#include "memory.hpp"
#include "reserve.hpp"
#include "settings.hpp"
#include "warden/threads.hpp"
#include "warden/warden.hpp"

namespace stillmap::warden {
namespace {

constexpr std::int64_t second_ns = 1'000'000'000, millisecond_ns = 1'000'000;
constexpr std::int64_t tick_max_ns = second_ns;  // between two looks at lease-break-time
// In case a copier's wake-up met a full signal queue, and for what can be done meanwhile.
constexpr std::int64_t copying_poll_ns = millisecond_ns / 4;
constexpr std::int64_t foreign_backoff_ns = second_ns;  // after a signal of the application's own came by
constexpr std::int64_t foreign_poll_ns = 2 * millisecond_ns;  // ... how often leases are looked at meanwhile
constexpr std::int64_t paused_poll_ns = 10 * millisecond_ns;  // while a fork is under way
constexpr std::size_t foreign_max = 64;
constexpr int drained_max = 4096;
constexpr std::size_t clone_min_bytes = std::size_t{4} << 20;  // copying less costs less than a clone
constexpr std::int64_t clone_min_ns = 2 * millisecond_ns;      // what a clone is given at least
// Between two looks for signals: a break among 10,000 leases waits for no more than eight of them, and a table
// of free slots is passed at once.
constexpr std::uint32_t sweep_step = 512, live_cost = 64;

struct shared_state {
  std::mutex start_mutex;
  std::atomic<pid_t> thread{0};
  std::atomic<std::uint32_t> started{0};  // futex: 0 not, 1 running, 2 failed
  std::atomic<int> signal{0};
  std::atomic<bool> copiers_started{false};
  std::atomic<bool> idle{false};               // sleeps without a time limit
  std::atomic<std::uint32_t> pokes{0};         // futex of the back-off sleep
  std::atomic<std::atomic<std::uint64_t>*> detached{nullptr}, lost{nullptr};  // count_detaches
  std::atomic<std::uint32_t> pause_wanted{0};  // futex
  std::atomic<std::uint32_t> paused{0};        // futex
};
constinit shared_state shared;

// The signal: near SIGRTMAX, of no use to anybody so far.
int choose_signal() noexcept {
  if (const int configured = settings::instance().signal; configured != 0) return configured;
  for (int number = SIGRTMAX - 3; number >= SIGRTMIN; --number) {
    struct sigaction current;
    if (sigaction(number, nullptr, &current) == 0 && current.sa_handler == SIG_DFL) return number;
  }
  return SIGRTMAX - 3;
}

std::int64_t read_break_time_ns() noexcept {
  const long fd = kernel::open_read_only("/proc/sys/fs/lease-break-time", 0);
  if (kernel::failed(fd)) return -1;
  char text[32] = {};
  const long got = kernel::read(static_cast<int>(fd), text, sizeof text - 1);
  kernel::close(static_cast<int>(fd));
  if (got <= 0) return -1;
  const long seconds = std::strtol(text, nullptr, 10);
  return seconds <= 0 ? INT64_MAX : std::int64_t{seconds} * second_ns;
}

class keeper_loop {
 public:
  [[noreturn]] void run() noexcept {
    for (;;) {
      if (obey_pause() || wait()) begin_sweep();
      tick();
      take_finished();
      sweep();
      meet_deadlines();
    }
  }

 private:
  // Once in a while: is the break time another one? Are all leases whole?
  void tick() noexcept {
    const std::int64_t now = kernel::now_ns();
    if (now < next_tick_ns_) return;
    const std::int64_t before = break_time_ns_;
    break_time_ns_ = break_time_ns();
    const std::int64_t interval = std::max(std::min(break_time_ns_, 45 * second_ns) / 8, 10 * millisecond_ns);
    if (now >= next_poll_ns_ || break_time_ns_ < before) {
      next_poll_ns_ = now + interval;
      begin_sweep();
    }
    // Only after a while without any: a program that opens and closes one file after another should not have
    // to wake this thread each time.
    const std::uint32_t opened = table_.opened_leases.load();
    quiet_ = opened == opened_before_;
    opened_before_ = opened;
    reserve::open();
    if (table_.live_leases.load() != 0 && reserve::wants_tending()) copiers::tend_reserve();
    next_tick_ns_ = now + std::min({interval, tick_max_ns, std::max<std::int64_t>(next_poll_ns_ - now, 0)});
  }

  // True if all leases should be looked at: a signal came, and the queue is empty now.
  bool wait() noexcept {
    if (sleep_while_idle()) return true;
    if (kernel::now_ns() < foreign_until_ns_) return wait_beside_foreign_signals();
    siginfo_t info;
    long got = kernel::signal_wait(shared.signal, &info, time_to_wait());
    const bool signalled = got > 0;
    // All of the queue first: one sweep after it, not one a signal.
    for (int taken = 0; got > 0 && taken < drained_max; ++taken) {
      if (!take_signal(info)) break;
      got = kernel::signal_wait(shared.signal, &info, 0);
    }
    return signalled;
  }

  // Without a lease no signal is of interest. Sleeps on a futex until one becomes live or a fork wants to go
  // on: a signal could be lost to a full queue.
  bool sleep_while_idle() noexcept {
    if (answering_ != nullptr || table_.live_leases.load() != 0 || !quiet_) return false;
    const std::uint32_t seen = shared.pokes.load();
    shared.idle.store(true);
    // Whoever makes a lease live after this sees `idle`, and pokes.
    const bool asleep = table_.live_leases.load() == 0 && shared.pause_wanted.load() == 0;
    if (asleep) {
      reserve::shut();
      kernel::futex_wait(shared.pokes, seen, -1);
    }
    shared.idle.store(false);
    if (asleep) next_tick_ns_ = next_poll_ns_ = 0;  // all is to be read anew
    return asleep;
  }

  std::int64_t time_to_wait() noexcept {
    const std::int64_t now = kernel::now_ns();
    if (sweeping() || (shared.pause_wanted.load() != 0 && answering_ == nullptr)) return 0;
    if (answering_ != nullptr) return copying_poll_ns;
    return std::max<std::int64_t>(next_tick_ns_ - now, 0);
  }

  // False where the signal is the application's: the queue is not ours to empty.
  bool take_signal(const siginfo_t& info) noexcept {
    if (info.si_code == POLL_MSG) {  // kill_fasync of a lease break
      if (lease* const one = table_.lease_of(info.si_fd)) {
        if (one->word.state() == lease_state::arming) one->hinted.store(true);
        look(*one);
      }
    } else if (info.si_code != SI_TKILL || info.si_pid != kernel::process()) {
      give_back(info);
      return false;
    }
    return true;
  }

  // sigtimedwait also takes what was sent to the whole process. It is not ours: give it back, and keep away
  // from the queue for a while, lest we take it again. Leases are then found by looking at them.
  void give_back(const siginfo_t& info) noexcept {
    foreign_until_ns_ = kernel::now_ns() + foreign_backoff_ns;
    if (foreign_count_ < foreign_max) foreign_[foreign_count_++] = info;
    give_back_pending();
  }
  void give_back_pending() noexcept {
    while (foreign_count_ > 0) {
      siginfo_t& info = foreign_[foreign_count_ - 1];
      // The kernel lets a thread queue codes below zero alone (rt_sigqueueinfo(2)); what came from kill is
      // sent by kill again, and bears our process id then.
      const long error = info.si_code < 0 && info.si_code != SI_TKILL
                             ? kernel::signal_queue(kernel::process(), shared.signal, &info)
                             : kernel::signal_process(kernel::process(), shared.signal);
      if (error == -EAGAIN) return;  // the queue is full: later
      --foreign_count_;
    }
  }
  bool wait_beside_foreign_signals() noexcept {
    const std::uint32_t seen = shared.pokes.load();
    give_back_pending();
    if (!sweeping())
      kernel::futex_wait(shared.pokes, seen, answering_ != nullptr ? copying_poll_ns : foreign_poll_ns);
    return true;
  }

  // A round over all leases, in steps, from wherever the last one was left: one that is asked for again and
  // again still comes to every lease.
  void begin_sweep() noexcept { sweep_left_ = table_.leases_end(); }
  bool sweeping() const noexcept { return sweep_left_ != 0; }
  void sweep() noexcept {
    const std::uint32_t end = table_.leases_end();
    for (std::uint32_t spent = 0; spent < sweep_step && sweep_left_ != 0; --sweep_left_) {
      if (sweep_at_ >= end) sweep_at_ = 0;
      lease& one = table_.lease_at(sweep_at_++);
      spent += one.word.state() == lease_state::live ? live_cost : 1;
      look(one);
    }
  }

  void look(lease& one) noexcept {
    const std::uint32_t word = one.word.load();
    if (one.word.state_of(word) != lease_state::live) return;
    const std::int64_t now = kernel::now_ns();
    if (!is_ours(one)) {
      answer(one, word, false);
    } else if (kernel::lease_get(one.fd) != F_RDLCK) {
      answer(one, word, true);
    } else if (one.detach_asked.load()) {
      if (is_affordable(one)) {
        answer(one, word, true);
      } else {
        one.detach_asked.store(false);  // who asked goes without
      }
    } else if (one.word.load() == word) {
      one.seen_ns.store(now, std::memory_order_relaxed);  // read by this thread alone once the lease is live
    }
  }

  // Whether a detach that nobody forces on us would keep all bytes.
  static bool is_affordable(const lease& one) noexcept {
    std::uint64_t bytes = 0;
    for (const hold* each = one.first.load(); each != nullptr; each = each->next.load())
      if (each->word.state() == hold_state::live) bytes += each->bytes;
    if (bytes == 0) return true;
    if (!memory::charge(bytes, UINT64_MAX)) return false;
    memory::discharge(bytes);
    std::byte* const trial = memory::map_private(bytes);
    if (trial != nullptr) kernel::unmap(trial, bytes);
    return trial != nullptr;
  }

  void answer(lease& one, std::uint32_t seen, bool by_descriptor) noexcept {
    if (!one.word.change(seen, lease_state::detaching)) return;  // its owner was faster
    const std::int64_t before = break_time_ns_, after = break_time_ns();
    const std::int64_t allowed = std::min(before, after);
    break_time_ns_ = after;
    one.deadline_ns = INT64_MAX;
    if (allowed != INT64_MAX)
      one.deadline_ns = one.seen_ns.load() + allowed - std::max(allowed / 20, 20 * millisecond_ns);
    // Found out late: the process was stopped, say, and readers go on at this moment.
    const bool overtaken = kernel::now_ns() >= one.deadline_ns;
    one.by_descriptor = by_descriptor;
    one.unfinished = 0;
    one.next_answering = answering_;
    answering_ = &one;
    for (hold* each = one.first.load(); each != nullptr; each = each->next.load()) {
      for (bool decided = false; !decided;) {
        const std::uint32_t word = each->word.load();
        switch (each->word.state_of(word)) {
          case hold_state::live:
            decided = each->word.change(word, hold_state::detaching);
            if (!decided) break;
            if (overtaken) revoke(*each);
            each->cloned_in_vain = false;
            if (begin(*each)) ++one.unfinished;
            break;
          case hold_state::arming:
            decided = each->word.change(word, hold_state::aborted);
            break;
          default:
            decided = true;
        }
      }
    }
    one.detach_asked.store(false);  // only now: who asked sees that his hold is on its way
    if (one.unfinished == 0) finish(one);
  }

  // False where nothing is to be had: the hold will be poisoned.
  bool begin(hold& one) noexcept {
    one.detaching = nullptr;
    if (one.bytes == 0) return false;  // all of it is in its private tail
    const lease& under = *one.under;
    if (under.may_clone && under.by_descriptor && !one.cloned_in_vain && one.bytes >= clone_min_bytes)
      return begin_by(means::clone, one);
    return begin_by(means::memory, one) || (under.by_descriptor && begin_by(means::spill, one));
  }

  bool begin_by(means by, hold& one) noexcept {
    lease& under = *one.under;
    const std::size_t piece_size = by == means::memory ? piece_bytes_max : one.bytes;
    const auto pieces = static_cast<std::uint32_t>((one.bytes + piece_size - 1) / piece_size);
    const std::size_t own_bytes =
        memory::page_ceiling(sizeof(detachment) + pieces * sizeof(detachment::piece));
    if (by == means::memory && !memory::charge(one.bytes, one.budget)) return false;
    const long block =
        kernel::map(nullptr, own_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    std::byte* const replacement = by == means::memory && !kernel::failed(block)
                                       ? reserve::take(one.bytes, one.address)
                                       : nullptr;
    if (kernel::failed(block) || (by == means::memory && replacement == nullptr)) {
      if (!kernel::failed(block)) kernel::unmap(reinterpret_cast<void*>(block), own_bytes);
      if (by == means::memory) memory::discharge(one.bytes);
      return false;
    }
    detachment* const work = new (reinterpret_cast<void*>(block)) detachment;
    for (std::uint32_t i = 0; i < pieces; ++i) new (work->all_pieces() + i) detachment::piece;
    work->of = &one;
    work->under = &under;
    work->source = one.address;
    work->offset = one.offset;
    work->wanted_bytes = std::min<std::uint64_t>(one.bytes, under.taken.size - one.offset);
    work->by = by;
    work->replacement = replacement;
    work->bytes = one.bytes;
    work->own_bytes = own_bytes;
    work->piece_size = piece_size;
    work->charged_bytes = by == means::memory ? one.bytes : 0;
    // Cloning writes back what is dirty, and hangs with its file system. After the time that copying would
    // have taken it is given up: the writer waits at most twice as long as with the better of the two.
    if (by == means::clone)
      work->give_up_ns = kernel::now_ns() + std::max(clone_min_ns, static_cast<std::int64_t>(one.bytes / 4));
    work->fd = under.by_descriptor ? under.fd.load() : -1;
    work->device = under.device;
    work->inode = under.inode;
    work->file_bytes = under.taken.size;
    work->pieces = pieces;
    work->unfinished_pieces.store(pieces);
    one.detaching = work;
    copiers::enqueue(work);
    return true;
  }

  static bool is_whole(detachment& work) noexcept {
    for (std::uint32_t i = 0; i < work.pieces; ++i) {
      const detachment::piece& piece = work.all_pieces()[i];
      if (piece.state.load() != piece_state::done || piece.valid_bytes != wanted_of(work, i)) return false;
    }
    return true;
  }

  // A clone that failed or takes too long: the next means. False where there is none.
  bool begin_without_clone(hold& one) noexcept {
    discard(one);
    one.cloned_in_vain = true;
    return begin(one);
  }

  void take_finished() noexcept {
    for (detachment* work = copiers::take_finished(); work != nullptr;) {
      detachment* const following = work->next;
      if (hold* const of = work->of; of != nullptr) {
        const bool again = work->by == means::clone && !is_whole(*work) && begin_without_clone(*of);
        if (!again && --of->under->unfinished == 0) finish(*of->under);
      }
      copiers::release(work);
      work = following;
    }
  }

  void meet_deadlines() noexcept {
    if (answering_ != nullptr) copiers::watch();
    const std::int64_t now = kernel::now_ns();
    for (lease* one = answering_; one != nullptr;) {
      lease* const following = one->next_answering;
      if (now >= one->deadline_ns) {
        finish(*one);
      } else {
        drop_behind(*one);
        give_up_clones(*one, now);
      }
      one = following;
    }
  }

  // Taking the file's pages out of the page table is a good part of what a writer waits for: done for what is
  // copied already, while the copiers are at the rest. A reader who comes by faults them in again, from the
  // page cache, where the lease keeps them as they are.
  static void drop_behind(lease& one) noexcept {
    for_each_detaching(one, [](hold& each) {
      detachment* const work = each.detaching;
      if (work == nullptr || work->pieces < 2) return;
      for (std::uint32_t i = 0; i < work->pieces; ++i) {
        detachment::piece& piece = work->all_pieces()[i];
        if (piece.dropped || piece.state.load() != piece_state::done) continue;
        piece.dropped = true;
        kernel::advise(each.address + work->piece_begin(i), work->piece_bytes(i), MADV_DONTNEED);
      }
    });
  }

  void give_up_clones(lease& one, std::int64_t now) noexcept {
    for_each_detaching(one, [&](hold& each) {
      if (each.detaching == nullptr || now < each.detaching->give_up_ns) return;
      // One that is there already waits for the lease's others: it counts as finished, or is about to.
      if (each.detaching->unfinished_pieces.load() == 0) return;
      if (!begin_without_clone(each)) --one.unfinished;
    });
    if (one.unfinished == 0) finish(one);
  }

  // Everything that will be had is there: swap, poison, release, in this order. Past the deadline the writer
  // may be through already, and what was copied may be his: then access goes first, and comes back only once
  // the release has proved that the lease stood until then.
  void finish(lease& one) noexcept {
    if (one.by_descriptor && !is_ours(one)) {
      // Closed under us while the copiers read: the number may have been another file's.
      one.by_descriptor = false;
      if (kernel::now_ns() < one.deadline_ns) return begin_again(one);
      for_each_detaching(one, [](hold& each) { discard(each); });
    }
    const bool late = kernel::now_ns() >= one.deadline_ns;
    for_each_detaching(one, [late](hold& each) { late ? revoke(each) : put_in_place(each); });

    const int fd = one.fd.load();
    bool forced = false;
    if (one.by_descriptor) {
      const long released = kernel::lease_set(fd, F_UNLCK);
      // EAGAIN: the kernel let the writer in before us. Anything else (EACCES after a change of user): the
      // lease goes with its last mapping, which is gone, and with the descriptor, which follows; the clock
      // decides.
      forced = released == -EAGAIN || (released != 0 && late);
    } else {
      forced = late;
    }
    for_each_detaching(one, [&](hold& each) {
      if (late && (!forced || each.bytes == 0)) put_in_place(each);
      if (forced && each.bytes > 0) {
        discard(each);
        poison(each, each.address, each.bytes);
        each.kept_bytes.store(0);
        each.stands_on.store(footing::lost);
        memory::discharge(each.private_bytes.exchange(0));
      }
      const bool kept = each.stands_on.load() == footing::own;
      if (auto* const count = (kept ? shared.detached : shared.lost).load()) count->fetch_add(1);
      each.word.set(kept ? hold_state::private_memory : hold_state::lost);
      kernel::futex_wake(each.word.futex());
    });

    for (lease** link = &answering_; *link != nullptr; link = &(*link)->next_answering) {
      if (*link == &one) {
        *link = one.next_answering;
        break;
      }
    }
    // A number that is another file's now is nobody's to close. Where the queue is full, the last owner
    // closes.
    if (!one.by_descriptor || copiers::close_later(one)) one.fd.store(-1);
    table_.live_leases.fetch_sub(1);
    one.word.set(lease_state::ended);
    kernel::futex_wake(one.word.futex());
  }

  template <class Action>
  static void for_each_detaching(lease& one, Action action) noexcept {
    for (hold* each = one.first.load(); each != nullptr; each = each->next.load())
      if (each->word.state() == hold_state::detaching) action(*each);
  }

  void begin_again(lease& one) noexcept {
    one.unfinished = 0;
    for_each_detaching(one, [&](hold& each) {
      discard(each);
      if (begin(each)) ++one.unfinished;
    });
    if (one.unfinished == 0) finish(one);
  }

  // Throws away what was copied, finished or not.
  static void discard(hold& one) noexcept {
    detachment* const work = std::exchange(one.detaching, nullptr);
    if (work == nullptr) return;
    copiers::withdraw(work);
    for (std::uint32_t i = 0; i < work->pieces; ++i) {
      if (abandon(*work, i)) free_piece(*work, i);
    }
    memory::discharge(work->charged_bytes);
    work->of = nullptr;
    copiers::release(work);
  }

  // True where the piece's memory is the keeper's to free; else the copier that is in it frees it.
  static bool abandon(detachment& work, std::uint32_t index) noexcept {
    detachment::piece& piece = work.all_pieces()[index];
    piece_state state = piece_state::copying;
    return !piece.state.compare_exchange_strong(state, piece_state::abandoned);
  }

  // Replaces the mapping by what was copied; poisons what was not, and marks it.
  static void put_in_place(hold& one) noexcept {
    if (one.bytes == 0) return one.stands_on.store(footing::own);
    detachment* const work = std::exchange(one.detaching, nullptr);
    if (work == nullptr) {
      poison(one, one.address, one.bytes);
      return one.stands_on.store(footing::lost);
    }
    work->of = nullptr;
    std::uint64_t kept = 0;
    if (is_whole(*work) && kernel::protect(work->replacement, work->bytes, PROT_READ) == 0 &&
        !kernel::failed(kernel::move_over(work->replacement, work->bytes, one.address))) {
      kept = work->bytes;
    } else {
      copiers::withdraw(work);
      for (std::uint32_t i = 0; i < work->pieces; ++i) kept += rescue(one, *work, i);
    }
    kernel::advise(one.address, one.bytes, MADV_DOFORK);  // until now a child would have had it for nothing
    if (work->by == means::memory) {
      memory::discharge(work->bytes - kept);
      one.private_bytes.store(kept);
    }
    one.kept_bytes.store(kept);
    one.stands_on.store(kept == work->bytes ? footing::own : footing::lost);
    copiers::release(work);
  }

  // No access, until it is known what may be seen there.
  static void revoke(hold& one) noexcept {
    if (one.bytes == 0) return;
    if (kernel::protect(one.address, one.bytes, PROT_NONE) != 0) poison(one, one.address, one.bytes);
    one.stands_on.store(footing::lost);
  }

  static void free_piece(detachment& work, std::uint32_t index) noexcept {
    if (work.replacement != nullptr)
      kernel::unmap(work.replacement + work.piece_begin(index), work.piece_bytes(index));
  }

  static std::uint64_t wanted_of(const detachment& work, std::uint32_t index) noexcept {
    const std::size_t begin = work.piece_begin(index);
    return begin >= work.wanted_bytes
               ? 0
               : std::min<std::uint64_t>(work.piece_bytes(index), work.wanted_bytes - begin);
  }

  // One piece of a detachment that did not succeed whole: its good pages in place, the rest poisoned. Returns
  // the bytes kept.
  static std::uint64_t rescue(hold& one, detachment& work, std::uint32_t index) noexcept {
    std::byte* const to = one.address + work.piece_begin(index);
    const std::size_t bytes = work.piece_bytes(index);
    const bool mine = abandon(work, index);
    std::byte* const from =
        mine && work.replacement != nullptr ? work.replacement + work.piece_begin(index) : nullptr;
    const detachment::piece& piece = work.all_pieces()[index];
    std::size_t good = 0;
    if (from != nullptr && piece.state.load() == piece_state::done)
      good = piece.valid_bytes == wanted_of(work, index) ? bytes : memory::page_floor(piece.valid_bytes);
    if (good > 0 &&
        (kernel::protect(from, good, PROT_READ) != 0 || kernel::failed(kernel::move_over(from, good, to)))) {
      kernel::unmap(from, good);
      poison(one, to, good);
      if (good < bytes) kernel::unmap(from + good, bytes - good);
      if (good < bytes) poison(one, to + good, bytes - good);
      return 0;
    }
    if (good < bytes) {
      poison(one, to + good, bytes - good);
      if (from != nullptr) kernel::unmap(from + good, bytes - good);
    }
    return good;
  }

  // No access from now on, and no file behind it. Where the kernel has no room for one more mapping, the
  // access to all of the hold goes, for that splits none; at worst the range itself. The lease is released
  // after this.
  static void poison(hold& one, std::byte* address, std::size_t bytes) noexcept {
    constexpr int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;
    if (!kernel::failed(kernel::map(address, bytes, PROT_NONE, flags, -1, 0))) return;
    if (kernel::protect(one.address, one.bytes, PROT_NONE) != 0) kernel::unmap(one.address, one.bytes);
  }

  // Fork goes on once nothing is under way and what asked to be carried is private. The keeper goes on
  // looking all the same: glibc takes locks after our handler, whose holders may wait for a lease. True where
  // it waited.
  bool obey_pause() noexcept {
    if (shared.pause_wanted.load() == 0) {
      if (shared.paused.exchange(0) != 0) kernel::futex_wake(shared.paused);
      return false;
    }
    if (answering_ != nullptr) return false;
    if (shared.paused.load() == 0) {
      const std::uint32_t end = table_.leases_end();
      for (std::uint32_t i = 0; i < end; ++i) {
        lease& one = table_.lease_at(i);
        if (one.detach_asked.load() && one.word.state() == lease_state::live) look(one);
      }
      if (answering_ != nullptr) return false;
      shared.paused.store(1);
      kernel::futex_wake(shared.paused);
    }
    kernel::futex_wait(shared.pause_wanted, 1, paused_poll_ns);
    return true;
  }

  table& table_ = table::instance();
  std::int64_t break_time_ns_ = 45 * second_ns;  // as last read
  std::int64_t next_tick_ns_ = 0, next_poll_ns_ = 0;
  std::uint32_t opened_before_ = 0;  // at the last tick
  bool quiet_ = false;               // no lease became live between the last two
  std::uint32_t sweep_at_ = 0, sweep_left_ = 0;
  lease* answering_ = nullptr;
  std::int64_t foreign_until_ns_ = 0;
  siginfo_t foreign_[foreign_max] = {};
  std::size_t foreign_count_ = 0;
};

// Never destroyed. Made by whoever starts the thread, which may be before this file's own initialisers run.
alignas(keeper_loop) std::byte loop_place[sizeof(keeper_loop)];

void* run(void*) {
  shared.thread.store(kernel::thread());
  shared.started.store(1);
  kernel::futex_wake(shared.started);
  std::launder(reinterpret_cast<keeper_loop*>(loop_place))->run();
}

}  // namespace

std::int64_t break_time_ns() noexcept {
  static std::atomic<std::int64_t> last{45 * second_ns};  // where /proc cannot be read
  const std::int64_t now = read_break_time_ns();
  if (now > 0) last.store(now);
  return last.load();
}

pid_t keeper() noexcept {
  if (const pid_t thread = shared.thread.load(std::memory_order_acquire)) return thread;
  const std::lock_guard lock(shared.start_mutex);
  if (const pid_t thread = shared.thread.load()) return thread;
  shared.signal.store(choose_signal());
  shared.started.store(0);
  watch_forks();
  new (loop_place) keeper_loop;
  if (!start_thread(run, "stillmap-keeper")) return 0;
  while (shared.started.load() == 0) kernel::futex_wait(shared.started, 0, -1);
  return shared.thread.load();
}

bool start() noexcept {
  if (shared.copiers_started.load(std::memory_order_acquire)) return true;
  if (keeper() == 0 || !copiers::start()) return false;
  shared.copiers_started.store(true, std::memory_order_release);
  return true;
}

int signal_number() noexcept {
  return shared.signal.load();
}

void note_live(lease& one) noexcept {
  table::instance().live_leases.fetch_add(1);
  table::instance().opened_leases.fetch_add(1);
  if (shared.idle.load() || one.hinted.load()) poke();
}

void count_detaches(std::atomic<std::uint64_t>& kept, std::atomic<std::uint64_t>& lost) noexcept {
  shared.detached.store(&kept);
  shared.lost.store(&lost);
}

void poke() noexcept {
  shared.pokes.fetch_add(1);
  kernel::futex_wake(shared.pokes);
  // A full signal queue (EAGAIN) is no loss: then the keeper polls.
  if (const pid_t thread = shared.thread.load())
    kernel::signal_thread(kernel::process(), thread, shared.signal);
}

hold_state settled(const hold& one) noexcept {
  for (;;) {
    const std::uint32_t word = one.word.load();
    const hold_state state = one.word.state_of(word);
    if (state != hold_state::detaching) return state;
    kernel::futex_wait(one.word.futex(), word, second_ns);
  }
}

bool is_marked(int fd, std::int64_t mark, std::uint64_t device, std::uint64_t inode) noexcept {
  struct statx found;
  return fd >= 0 && kernel::tell(fd) == mark && kernel::stat(fd, nullptr, &found) == 0 &&
         found.stx_ino == inode && makedev(found.stx_dev_major, found.stx_dev_minor) == device;
}

bool is_ours(const lease& one) noexcept {
  return is_marked(one.fd, one.mark, one.device, one.inode);
}

namespace keeper_thread {

void pause() noexcept {
  if (shared.thread.load() == 0) return;
  shared.pause_wanted.store(1);
  while (shared.paused.load() == 0) {
    poke();
    kernel::futex_wait(shared.paused, 0, 10 * millisecond_ns);
  }
}

void resume() noexcept {
  if (shared.thread.load() == 0) return;
  shared.pause_wanted.store(0);
  kernel::futex_wake(shared.pause_wanted);
  while (shared.paused.load() != 0) kernel::futex_wait(shared.paused, 1, millisecond_ns);
}

void forget_after_fork() noexcept {
  auto *const detached = shared.detached.load(), *const lost = shared.lost.load();
  new (&shared) shared_state;
  shared.detached.store(detached);
  shared.lost.store(lost);
}

}  // namespace keeper_thread

}  // namespace stillmap::warden
