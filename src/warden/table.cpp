// SPDX-License-Identifier: Apache-2.0
#include "warden/table.hpp"

#include <new>

#include "linux/kernel.hpp"

namespace stillmap::warden {

struct table::chunk {
  lease leases[chunk_leases];
  hold holds[chunk_leases];
};

table& table::instance() noexcept {
  alignas(table) static std::byte place[sizeof(table)];
  static table* const one = new (place) table;
  return *one;
}

std::size_t table::bucket_of(std::uint64_t device, std::uint64_t inode) noexcept {
  return static_cast<std::size_t>(((inode ^ (device << 32)) * 0x9e3779b97f4a7c15u) >> 52) % buckets;
}

lease* table::find(std::uint64_t device, std::uint64_t inode, std::uint64_t size) noexcept {
  for (lease* one = buckets_[bucket_of(device, inode)]; one != nullptr; one = one->next_of_hash) {
    // Without holders it is about to be ended by its last one.
    if (one->holders != 0 && one->device == device && one->inode == inode && one->taken.size == size &&
        one->word.state() == lease_state::live)
      return one;
  }
  return nullptr;
}

void table::enter(lease* one) noexcept {
  lease*& bucket = buckets_[bucket_of(one->device, one->inode)];
  one->next_of_hash = bucket;
  bucket = one;
}

lease* table::take_lease() noexcept {
  lease* const one = free_leases_;
  if (one == nullptr) return nullptr;
  free_leases_ = one->next_of_hash;
  one->next_of_hash = nullptr;
  one->hinted.store(false);
  one->detach_asked.store(false);
  one->word.renew(lease_state::arming);
  return one;
}

void table::give_back(lease* one) noexcept {
  for (lease** link = &buckets_[bucket_of(one->device, one->inode)]; *link != nullptr;
       link = &(*link)->next_of_hash) {
    if (*link == one) {
      *link = one->next_of_hash;
      break;
    }
  }
  for (hold* each = one->first.exchange(nullptr); each != nullptr;) {
    hold* const following = each->next.load();
    each->under = nullptr;
    each->next.store(free_holds_);
    free_holds_ = each;
    each = following;
  }
  one->fd = -1;
  one->next_of_hash = free_leases_;
  free_leases_ = one;
  one->word.set(lease_state::free);
}

hold* table::take_hold(lease* under) noexcept {
  for (hold* each = under->first.load(); each != nullptr; each = each->next.load()) {
    if (each->word.state() == hold_state::unused) {
      each->word.renew(hold_state::arming);
      return each;
    }
  }
  hold* const one = free_holds_;
  if (one == nullptr) return nullptr;
  free_holds_ = one->next.load();
  one->under = under;
  one->word.renew(hold_state::arming);
  one->next.store(under->first.load());
  under->first.store(one);
  return one;
}

bool table::grow() noexcept {
  constexpr std::size_t bytes = sizeof(chunk);
  const long address =
      kernel::map(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (kernel::failed(address)) return false;
  chunk* const more = new (reinterpret_cast<void*>(address)) chunk;
  const std::lock_guard lock(mutex);
  const std::uint32_t end = leases_end_.load();
  if (end / chunk_leases == chunks_max) {
    kernel::unmap(more, bytes);
    return false;
  }
  chunks_[end / chunk_leases].store(more);
  for (std::uint32_t i = 0; i < chunk_leases; ++i) {
    more->leases[i].next_of_hash = free_leases_;
    free_leases_ = &more->leases[i];
    more->holds[i].next.store(free_holds_);
    free_holds_ = &more->holds[i];
  }
  leases_end_.store(end + chunk_leases, std::memory_order_release);
  return true;
}

lease& table::lease_at(std::uint32_t index) const noexcept {
  return chunks_[index / chunk_leases].load()->leases[index % chunk_leases];
}

lease* table::lease_of(int fd) const noexcept {
  const std::uint32_t end = leases_end();
  for (std::uint32_t i = 0; i < end; ++i) {
    lease& one = lease_at(i);
    const lease_state state = one.word.state();
    if ((state == lease_state::live || state == lease_state::arming) && one.fd == fd) return &one;
  }
  return nullptr;
}

}  // namespace stillmap::warden
