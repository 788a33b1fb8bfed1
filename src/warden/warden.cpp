// SPDX-License-Identifier: Apache-2.0
#include <errno.h>

#include "choice.hpp"
#include "linux/kernel.hpp"
#include "memory.hpp"
#include "reserve.hpp"
#include "warden/arming.hpp"
#include "warden/warden.hpp"

namespace stillmap::warden {
namespace {

constexpr std::int64_t asking_poll_ns = 1'000'000;  // a refusal wakes nobody

// Unmaps a hold's range, by its claimant: the file's pages, the private ones of a detach, or the poison. What
// is not ours to unmap is left without access if it shows the file.
void unmap(hold& one) noexcept {
  const std::uint64_t own = one.private_bytes.exchange(0);
  if (one.placed) {
    if (one.bytes > 0 && one.stands_on.load() == footing::file)
      kernel::map(one.address, one.bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  } else if (own > 0 && own == one.bytes) {  // all of it anonymous memory of ours
    if (one.tail_bytes > 0) kernel::unmap(one.address + one.bytes, one.tail_bytes);
    reserve::give_back(one.address, one.bytes);
  } else if (one.address != nullptr) {
    kernel::unmap(one.address, one.bytes + one.tail_bytes);
  }
  memory::discharge(own + one.tail_bytes);
  one.address = nullptr;
  one.bytes = one.tail_bytes = 0;
}

// A slot just taken, under the table's mutex.
hold* cleared(hold* taken) noexcept {
  if (taken == nullptr) return nullptr;
  hold& one = *taken;
  one.address = nullptr;
  one.bytes = one.tail_bytes = 0;
  one.offset = 0;
  one.data = nullptr;
  one.placed = one.absent = false;
  one.private_bytes.store(0);
  one.kept_bytes.store(0);
  one.stands_on.store(footing::file);
  one.asked = {};
  one.owners = 1;
  return taken;
}

// Takes slots, growing the table where it is full.
template <class Take>
auto take_or_grow(table& all, Take take) noexcept {
  for (;;) {
    {
      const std::lock_guard lock(all.mutex);
      if (auto* const one = take()) return one;
    }
    if (!all.grow()) return decltype(take()){nullptr};
  }
}

// The last holder is gone: ends the lease, whatever state the keeper left it in, and frees its slot.
void end(lease& one) noexcept {
  table& all = table::instance();
  bool released = true;
  for (;;) {
    const std::uint32_t word = one.word.load();
    const lease_state state = one.word.state_of(word);
    if (state == lease_state::detaching) {
      kernel::futex_wait(one.word.futex(), word, 1'000'000'000);
    } else if (state == lease_state::live) {
      if (!one.word.change(word, lease_state::closing)) continue;
      all.live_leases.fetch_sub(1);
      released = false;
      break;
    } else {
      break;  // ENDED: the keeper released it
    }
  }
  // After a storm the keeper may have left the descriptor to us.
  if (is_ours(one)) {
    if (!released) kernel::lease_set(one.fd, F_UNLCK);  // at once: the close may wait for storage
    kernel::close(one.fd);
  }
  const std::lock_guard lock(all.mutex);
  all.give_back(&one);
}

}  // namespace

std::int64_t next_mark() noexcept {
  static std::atomic<std::uint64_t> last{static_cast<std::uint64_t>(kernel::now_ns()) * 0x9e3779b97f4a7c15u};
  constexpr std::uint64_t marks = std::uint64_t{1} << 33;
  return static_cast<std::int64_t>(last.fetch_add(1) % marks) + 1;
}

long arming::take(int fd, const facts& known) noexcept {
  if (!start()) return -ENOMEM;  // no threads
  table& all = table::instance();
  inside_ = std::shared_lock(all.gate);
  lease_ = take_or_grow(all, [&] { return all.take_lease(); });
  if (lease_ == nullptr) return -ENOMEM;
  hold_ = take_or_grow(all, [&] { return cleared(all.take_hold(lease_)); });
  if (hold_ == nullptr) return -ENOMEM;
  lease_->fd.store(fd);
  lease_->device = known.at_open.device;
  lease_->inode = known.at_open.inode;
  lease_->may_clone = may_clone(known.system);
  lease_->mark = next_mark();
  if (const long error = kernel::seek(fd, lease_->mark); error < 0) return error;
  if (const long error = kernel::signal_set(fd, signal_number()); error != 0) return error;
  if (const long error = kernel::owner_set(fd, keeper()); error != 0) return error;
  lease_->seen_ns.store(kernel::now_ns());
  if (const long error = kernel::lease_set(fd, F_RDLCK); error != 0) return error;
  if (const long error = read_stamps(fd, nullptr, stamps_); error != 0) return error;
  lease_->taken = stamps_;
  return 0;
}

long arming::sync() noexcept {
  inside_.unlock();  // may wait for storage: a fork must not wait for it
  const long error = kernel::data_sync(lease_->fd);
  inside_.lock();
  return error;
}

bool arming::stands() noexcept {
  const std::int64_t now = kernel::now_ns();
  stands_ = kernel::lease_get(lease_->fd) == F_RDLCK;
  if (stands_) lease_->seen_ns.store(now);
  return stands_;
}

bool arming::go_live() noexcept {
  table& all = table::instance();
  hold* const one = hold_;
  hold_->word.set(hold_state::live);
  {
    const std::lock_guard lock(all.mutex);
    lease_->holders = 1;
    all.enter(lease_);
  }
  lease_->word.set(lease_state::live);
  note_live(*lease_);
  lease_ = nullptr;
  inside_.unlock();
  if (stands_) return true;
  if (detach(*one) == 0) return true;
  close(*one);
  return false;
}

arming::~arming() {
  if (lease_ == nullptr) return;
  if (hold_ != nullptr) unmap(*hold_);
  if (const int fd = lease_->fd; fd >= 0) kernel::lease_set(fd, F_UNLCK);
  table& all = table::instance();
  const std::lock_guard lock(all.mutex);
  if (hold_ != nullptr) hold_->word.set(hold_state::unused);
  all.give_back(lease_);
}

bool is_leased(const facts& known) noexcept {
  table& all = table::instance();
  const std::lock_guard lock(all.mutex);
  return all.find(known.at_open.device, known.at_open.inode, known.at_open.size) != nullptr;
}

bool joining::find(const facts& known) noexcept {
  table& all = table::instance();
  inside_ = std::shared_lock(all.gate);
  {
    const std::lock_guard lock(all.mutex);
    lease_ = all.find(known.at_open.device, known.at_open.inode, known.at_open.size);
    if (lease_ == nullptr) return false;
    ++lease_->holders;
    seen_ = lease_->word.load();
  }
  // Seen whole after the caller's own open and look at the file: its bytes are the leased ones.
  if (lease_->word.state_of(seen_) == lease_state::live && is_ours(*lease_) &&
      kernel::lease_get(lease_->fd) == F_RDLCK)
    return true;
  leave();
  return false;
}

hold* joining::share(const hold::terms& asked) noexcept {
  table& all = table::instance();
  const std::lock_guard lock(all.mutex);
  for (hold* each = lease_->first.load(); each != nullptr; each = each->next.load()) {
    // One at a given place goes when its place does.
    if (each->word.state() == hold_state::live && each->owners > 0 && !each->placed && each->asked == asked) {
      ++each->owners;
      return each;
    }
  }
  return nullptr;
}

bool joining::take() noexcept {
  table& all = table::instance();
  hold_ = take_or_grow(all, [&] { return cleared(all.take_hold(lease_)); });
  return hold_ != nullptr;
}

bool joining::go_live() noexcept {
  // Mapped from the lease's descriptor, which was ours throughout if it is now.
  if (!is_ours(*lease_)) return false;
  const std::uint32_t word = hold_->word.load();
  if (hold_->word.state_of(word) != hold_state::arming || !hold_->word.change(word, hold_state::live))
    return false;
  // The keeper changes the lease's word before it looks for holds: either it is LIVE still, and the keeper
  // will find this one, or this one backs out unless it has been found already.
  if (lease_->word.load() != seen_) {
    const std::uint32_t live = hold_->word.load();
    if (hold_->word.state_of(live) != hold_state::live || !hold_->word.change(live, hold_state::aborted))
      settled(*hold_);
    return false;
  }
  hold_ = nullptr;
  lease_ = nullptr;  // the hold keeps the share of it
  inside_.unlock();
  return true;
}

void joining::leave() noexcept {
  table& all = table::instance();
  bool last = false;
  {
    const std::lock_guard lock(all.mutex);
    last = --lease_->holders == 0;
  }
  if (last) end(*lease_);
  lease_ = nullptr;
}

joining::~joining() {
  if (lease_ == nullptr) return;
  if (hold_ != nullptr) {
    unmap(*hold_);
    const std::lock_guard lock(table::instance().mutex);
    hold_->owners = 0;
    hold_->word.set(hold_state::unused);
  }
  leave();
}

void add_owner(hold& one) noexcept {
  const std::lock_guard lock(table::instance().mutex);
  ++one.owners;
}

bool is_whole(const hold& one) noexcept {
  if (one.absent) return false;
  const lease& under = *one.under;
  return one.word.state() == hold_state::live && under.word.state() == lease_state::live && is_ours(under) &&
         kernel::lease_get(under.fd) == F_RDLCK;
}

int detach(hold& one) noexcept {
  for (;;) {
    const std::uint32_t word = one.word.load();
    switch (one.word.state_of(word)) {
      case hold_state::live:
        break;
      case hold_state::detaching:
        settled(one);
        continue;
      default:
        return one.stands_on.load() == footing::own ? 0 : int{STILL_ERROR_LOST};
    }
    one.under->detach_asked.store(true);
    poke();
    while (one.word.load() == word && one.under->detach_asked.load())
      kernel::futex_wait(one.word.futex(), word, asking_poll_ns);
    if (one.word.load() == word) return STILL_ERROR_OVER_BUDGET;
  }
}

bool detach_all() noexcept {
  table& all = table::instance();
  const std::uint32_t end = all.leases_end();
  for (std::uint32_t i = 0; i < end; ++i)
    if (all.lease_at(i).word.state() == lease_state::live) all.lease_at(i).detach_asked.store(true);
  poke();
  bool whole = true;
  for (std::uint32_t i = 0; i < end; ++i) {
    lease& one = all.lease_at(i);
    for (std::uint32_t word = one.word.load();; word = one.word.load()) {
      const lease_state state = one.word.state_of(word);
      if (state == lease_state::live && !one.detach_asked.load()) whole = false;
      if (state != lease_state::detaching && !(state == lease_state::live && one.detach_asked.load())) break;
      kernel::futex_wait(one.word.futex(), word, asking_poll_ns);
    }
  }
  return whole;
}

bool close(hold& one) noexcept {
  table& all = table::instance();
  {
    const std::lock_guard lock(all.mutex);
    if (--one.owners > 0) return false;
  }
  std::shared_lock inside(all.gate);
  for (;;) {
    const std::uint32_t word = one.word.load();
    if (one.word.state_of(word) == hold_state::detaching) {
      inside.unlock();  // the keeper may be pausing for a fork, which waits for the gate
      settled(one);
      inside.lock();
    } else if (one.word.change(word, hold_state::closing)) {
      break;
    }
  }
  unmap(one);
  lease& under = *one.under;
  bool last = false;
  {
    const std::lock_guard lock(all.mutex);
    one.word.set(hold_state::unused);
    last = --under.holders == 0;
  }
  if (last) end(under);
  return true;
}

}  // namespace stillmap::warden
