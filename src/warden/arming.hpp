// SPDX-License-Identifier: Apache-2.0
//
// The opener's and the closer's side of the warden: from a descriptor to a live hold, and back.
#pragma once

#include <cstdint>

#include "source.hpp"
#include "warden/table.hpp"

namespace stillmap::warden {

// Owns a lease that is not live yet and one hold under it. The order is the caller's to keep:
//   take (registers the slots, sets signal and owner, takes the lease, looks at the file under it), map,
//   go_live.
// Destroyed before go_live: everything is undone.
class arming {
 public:
  arming() noexcept = default;
  arming(const arming&) = delete;
  arming& operator=(const arming&) = delete;
  ~arming();

  // fd must be no other's, and becomes the lease's with go_live; until then it stays the caller's to close.
  // 0, or -errno: EAGAIN a writer is there, EACCES not our file, ENOMEM.
  long take(int fd, const facts& known) noexcept;
  const stamps& under_lease() const noexcept { return stamps_; }
  // Flushes the file under the lease (STILL_SYNCED). 0 or -errno.
  long sync() noexcept;
  // The range must be mapped (by `map`) and the fields of *slot() filled in.
  hold* slot() const noexcept { return hold_; }
  // Whether the lease is whole still. Where a writer came meanwhile the kernel holds him back, as from a lease
  // that is live: there is time to make the bytes private.
  bool stands() noexcept;
  // The descriptor is the lease's from now on. False: a writer had come, and not all could be made private;
  // nothing is left.
  bool go_live() noexcept;

 private:
  std::shared_lock<std::shared_mutex> inside_;
  lease* lease_ = nullptr;
  hold* hold_ = nullptr;
  bool stands_ = false;
  stamps stamps_;
};

// A place under a lease that is live already. `share` gives an equal mapping, else `take` a hold to be mapped
// from the lease's own descriptor.
class joining {
 public:
  joining() noexcept = default;
  joining(const joining&) = delete;
  joining& operator=(const joining&) = delete;
  ~joining();

  // Known must come from the caller's own open. False: no such lease.
  bool find(const facts& known) noexcept;
  hold* share(const hold::terms& asked) noexcept;  // another owner of an equal one, or nullptr
  bool take() noexcept;
  int fd() const noexcept { return lease_->fd; }
  const stamps& under_lease() const noexcept { return lease_->taken; }
  hold* slot() const noexcept { return hold_; }
  bool go_live() noexcept;

 private:
  void leave() noexcept;

  std::shared_lock<std::shared_mutex> inside_;
  lease* lease_ = nullptr;
  hold* hold_ = nullptr;
  std::uint32_t seen_ = 0;
};

// Whether a lease of this file stands that an opener could join.
bool is_leased(const facts& known) noexcept;

void add_owner(hold& one) noexcept;
// Gives up one owner's share; with the last one the range is unmapped, and with the last hold the lease
// released. True: it was the last one.
bool close(hold& one) noexcept;

// Makes the bytes private though no writer came, and gives the lease up once all that hangs on it is private.
// 0, STILL_ERROR_OVER_BUDGET (still leased), STILL_ERROR_LOST.
int detach(hold& one) noexcept;
// The same for every lease that stands when it is called. False: one could not be afforded and stands still.
bool detach_all() noexcept;

// F_RDLCK now, and the descriptor still ours.
bool is_whole(const hold& one) noexcept;

}  // namespace stillmap::warden
