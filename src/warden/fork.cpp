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

#include "linux/kernel.hpp"
#include "linux/mounts.hpp"
#include "pool.hpp"
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
  all.gate.lock();
  all.mutex.lock();
  for_each_lease([](lease& one) {
    if (one.word.state() == lease_state::live && asks_to_be_carried(one)) one.detach_asked.store(true);
  });
  keeper_thread::pause();
  pool::lock_for_fork();
  lock_mounts_for_fork();
}

void after_fork_in_parent() noexcept {
  unlock_mounts_after_fork();
  pool::unlock_after_fork();
  keeper_thread::resume();
  table& all = table::instance();
  all.mutex.unlock();
  all.gate.unlock();
}

// Never over what another library's handler put there in the meantime: that is theirs now.
void reserve(std::byte* address, std::size_t bytes) noexcept {
  constexpr int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE;
  kernel::map(address, bytes, PROT_NONE, flags, -1, 0);
}

void after_fork_in_child() noexcept {
  unlock_mounts_after_fork();
  pool::unlock_after_fork();
  for_each_lease([](lease& one) {
    const lease_state state = one.word.state();
    if (state != lease_state::live && state != lease_state::arming) return;
    if (is_ours(one)) kernel::close(one.fd);
    one.fd.store(-1);
    for (hold* each = one.first.load(); each != nullptr; each = each->next.load()) {
      if (each->word.state() != hold_state::live) continue;
      reserve(each->address, each->bytes);
      each->absent = true;
      each->stands_on.store(each->bytes == 0 ? footing::own : footing::lost);
      each->word.set(each->bytes == 0 ? hold_state::private_memory : hold_state::lost);
    }
    one.word.set(lease_state::ended);
  });
  table& all = table::instance();
  all.live_leases.store(0);
  keeper_thread::forget_after_fork();
  copiers::forget_after_fork();
  // Made anew, not unlocked: threads that waited for them are counted in them, and are not here.
  new (&all.mutex) std::mutex;
  new (&all.gate) std::shared_mutex;
}

// As early as can be, so that in the child ours is among the first handlers to run.
[[gnu::constructor]] void watch_forks() noexcept {
  pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

}  // namespace
}  // namespace stillmap::warden
