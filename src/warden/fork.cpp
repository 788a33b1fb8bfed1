// SPDX-License-Identifier: Apache-2.0
//
// fork(2). A child has the forking thread alone: no keeper, no copiers. Before the fork every slot is brought
// to rest, and mappings that asked for it (STILL_FORK_CARRY) are made private. In the child a leased mapping
// is absent (MADV_DONTFORK): the hole it leaves is taken by a reservation without access, before anything
// else can land there, and the inherited lease descriptors are closed, never unlocked through: the lease is
// the parent's.
//
// vfork and posix_spawn share the parent's memory until exec and need none of this; a raw clone skips it.
#include <pthread.h>
#include <stillmap/stillmap.h>

#include <new>

#include "files_thread.hpp"
#include "linux/kernel.hpp"
#include "linux/mounts.hpp"
#include "ranges/tree.hpp"
#include "memory.hpp"
#include "pager/pager.hpp"
#include "pool.hpp"
#include "reserve.hpp"
#include "settings.hpp"
#include "warden/warden.hpp"

namespace stillmap::warden {
namespace {

template <class Action>
void for_each_lease(Action action) noexcept {
  table& all = table::instance();
  const std::uint32_t end = all.leases_end();
  for (std::uint32_t i = 0; i < end; ++i) action(all.lease_at(i));
}

bool asks_to_be_carried(const lease& one) noexcept {
  for (const hold* each = one.first.load(); each != nullptr; each = each->next.load())
    if (each->asked.fork == STILL_FORK_CARRY && each->word.state() == hold_state::live) return true;
  return false;
}

void before_fork() noexcept {
  table& all = table::instance();
  pager::before_fork();  // may wait for storage
  ranges::lock_for_fork();
  // Locks first: who holds one may be in a handler that waits for a lease, and the keeper must still answer.
  lock_settings_for_fork();
  lock_mounts_for_fork();
  pool::lock_for_fork();
  all.gate.lock();
  all.mutex.lock();
  reserve::lock_for_fork();  // a closer, within the gate, gives memory back
  for_each_lease([](lease& one) {
    if (one.word.state() == lease_state::live && asks_to_be_carried(one)) one.detach_asked.store(true);
  });
  keeper_thread::pause();
}

void after_fork_in_parent() noexcept {
  unlock_settings_after_fork();
  unlock_mounts_after_fork();
  pool::unlock_after_fork();
  reserve::unlock_after_fork();
  keeper_thread::resume();
  table& all = table::instance();
  all.mutex.unlock();
  all.gate.unlock();
  ranges::unlock_after_fork();
  pager::after_fork_in_parent();
}

// Never over what another library's handler put there in the meantime: that is theirs, and the range is ours
// no more. Of a detach that was under way some pieces may stand there already.
void keep_out(hold& one, bool under_way) noexcept {
  const int flags =
      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | (under_way ? MAP_FIXED : MAP_FIXED_NOREPLACE);
  if (kernel::failed(kernel::map(one.address, one.bytes, PROT_NONE, flags, -1, 0))) {
    one.address += one.bytes;
    one.bytes = 0;
  }
}

void after_fork_in_child() noexcept {
  unlock_settings_after_fork();
  unlock_mounts_after_fork();
  pool::unlock_after_fork();
  reserve::forget_after_fork();
  reserve::unlock_after_fork();
  ranges::unlock_after_fork();
  pager::after_fork_in_child();
  for_each_lease([](lease& one) {
    const lease_state state = one.word.state();
    if (state == lease_state::free || state == lease_state::ended) return;
    if (is_ours(one)) kernel::close(one.fd);
    one.fd.store(-1);
    for (hold* each = one.first.load(); each != nullptr; each = each->next.load()) {
      const hold_state standing = each->word.state();
      if (standing != hold_state::live && standing != hold_state::detaching) continue;
      each->absent = true;
      const bool all_in_tail = each->bytes == 0;
      if (!all_in_tail) keep_out(*each, standing == hold_state::detaching);
      memory::discharge(each->private_bytes.exchange(0));
      each->stands_on.store(all_in_tail ? footing::own : footing::lost);
      each->word.set(all_in_tail ? hold_state::private_memory : hold_state::lost);
    }
    one.word.set(lease_state::ended);
  });
  table& all = table::instance();
  all.live_leases.store(0);
  keeper_thread::forget_after_fork();
  copiers::forget_after_fork();
  files_thread::forget_after_fork();
  // Unlocked, for before_fork locked them, and made anew, for threads that waited are counted in them and are
  // not here.
  all.mutex.unlock();
  all.gate.unlock();
  new (&all.mutex) std::mutex;
  new (&all.gate) std::shared_mutex;
}

// As early as can be, so that in the child ours is among the first handlers to run.
[[gnu::constructor]] void watch_early() noexcept {
  watch_forks();
}

}  // namespace

void watch_forks() noexcept {
  static std::atomic<bool> watching{false};
  if (!watching.exchange(true)) pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

}  // namespace stillmap::warden
