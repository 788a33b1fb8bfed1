// SPDX-License-Identifier: Apache-2.0
//
// leased: the file's own pages under a read lease. No copy and no private memory as long as nobody writes;
// the warden replaces the mapping by a copy, in place, before it lets a writer in. One lease serves all
// snapshots of a file in this process, and one mapping all those that ask for the same.
#include <errno.h>

#include "backing/backing.hpp"
#include "backing/window.hpp"
#include "memory.hpp"
#include "warden/arming.hpp"
#include "warden/warden.hpp"

namespace stillmap {
namespace {

const char* reason_of(long error) noexcept {
  switch (-error) {
    case EAGAIN:
      return "refused: somebody has it open for writing";
    case EACCES:
      return "refused: another user's file, and no CAP_LEASE";
    case EINVAL:
      return "refused: leases are switched off (fs.leases-enable), or the file system has none";
    default:
      return "the lease could not be set up";
  }
}

// A lease that is refused because of a writer is the caller's business; other refusals are properties of the
// file.
int interface_error(long error) noexcept {
  return error == -EAGAIN   ? int{STILL_ERROR_BUSY_WRITER}
         : error == -EINVAL ? int{STILL_ERROR_UNSUPPORTED}
                            : error_of(error);
}

// Maps the range for a hold that is still ARMING, and fills the hold in. What is mapped is the hold's from
// then on.
taking map_for(warden::hold& slot, int fd, std::uint64_t file_bytes, const request& wanted,
               held& into) noexcept {
  std::uint64_t length = 0;
  if (const int error = range_of(wanted, file_bytes, length)) return {error, "the file became shorter"};
  window view;
  if (const long error = map_window(fd, wanted.offset, length, wanted.padding, wanted.place, view); error != 0)
    return {error_of(error), "the file could not be mapped"};
  if (view.file_bytes > wanted.memory_budget || !memory::charge(view.tail_bytes, wanted.memory_budget))
    return {STILL_ERROR_OVER_BUDGET, "a detach would need more private memory than memory_budget allows"};
  slot.bytes = view.file_bytes;
  slot.tail_bytes = view.tail_bytes;
  slot.offset = view.file_offset;
  slot.budget = wanted.memory_budget;
  slot.asked = {wanted.offset, length, wanted.padding, wanted.fork, wanted.access};
  into.data = view.data;
  into.size = length;
  slot.address = view.base;
  slot.placed = wanted.place != nullptr;
  view.memory.release();
  if (slot.bytes > 0) {
    if (const long error = kernel::advise(slot.address, slot.bytes, MADV_DONTFORK); error != 0)
      return {error_of(error), "madvise"};
    if (wanted.access == STILL_ACCESS_RANDOM) kernel::advise(slot.address, slot.bytes, MADV_RANDOM);
    if (wanted.access == STILL_ACCESS_SEQUENTIAL) kernel::advise(slot.address, slot.bytes, MADV_SEQUENTIAL);
    if (wanted.populate) kernel::advise(slot.address, slot.bytes, MADV_POPULATE_READ);
  }
  return {};
}

void settle(held& into, warden::hold* one, const stamps& taken) noexcept {
  into.hold = one;
  into.when = STILL_POINT_IN_TIME;
  into.taken = taken;
  into.stamped = true;
}

// Under a lease that this process holds already. True if `into` is filled.
bool take_joining(opening& from, held& into) noexcept {
  if (from.wanted.synced) return false;  // the standing lease may not have been
  warden::joining place;
  if (!place.find(from.known)) return false;
  std::uint64_t length = 0;
  if (range_of(from.wanted, place.under_lease().size, length) != 0) return false;
  const warden::hold::terms asked{from.wanted.offset, length, from.wanted.padding, from.wanted.fork,
                                  from.wanted.access};
  if (warden::hold* const one = from.wanted.place == nullptr ? place.share(asked) : nullptr) {
    into.data = one->data;
    into.size = length;
    if (from.wanted.populate && one->bytes > 0) kernel::advise(one->address, one->bytes, MADV_POPULATE_READ);
    settle(into, one, place.under_lease());
    return true;
  }
  if (!place.take() ||
      map_for(*place.slot(), place.fd(), place.under_lease().size, from.wanted, into).error != 0)
    return false;
  warden::hold* const one = place.slot();
  one->data = into.data;
  const stamps taken = place.under_lease();
  if (!place.go_live()) return false;
  settle(into, one, taken);
  return true;
}

taking take(opening& from, held& into) noexcept {
  if (take_joining(from, into)) return {};
  warden::arming lease;
  if (const long error = lease.take(from.fd(), from.known); error != 0)
    return {interface_error(error), reason_of(error)};
  if (from.wanted.synced) {
    if (const long error = lease.sync(); error != 0)
      return {error_of(error), "STILL_SYNCED: the file could not be written back"};
  }
  warden::hold* const one = lease.slot();
  if (const taking mapped = map_for(*one, from.fd(), lease.under_lease().size, from.wanted, into);
      mapped.error != 0)
    return mapped;
  one->data = into.data;
  const stamps taken = lease.under_lease();
  descriptor spare;  // for the next way, should this one fail after all
  if (!lease.stands()) open_anew(from.fd(), from.known, spare);
  const bool live = lease.go_live();
  from.file.release();  // the lease's
  if (!live) {
    from.file = std::move(spare);
    return {STILL_ERROR_BUSY_WRITER, "a writer came while the lease was being set up"};
  }
  settle(into, one, taken);
  return {};
}

void release(held& one) noexcept {
  const bool placed = one.hold->placed || one.hold->asked.access == STILL_ACCESS_RANDOM;
  const std::size_t bytes = one.size + one.hold->asked.padding;
  if (warden::close(*one.hold) && !placed) pool::note_closed_mapping(bytes);
}

still_state current(const held& one) noexcept {
  switch (one.hold->stands_on.load()) {
    case warden::footing::own:
      return STILL_PRIVATE;
    case warden::footing::lost:
      return STILL_LOST;
    default:
      return STILL_SHARED;
  }
}

std::uint64_t private_bytes(const held& one) noexcept {
  return one.hold->private_bytes.load() + one.hold->tail_bytes;
}

// Told with the footing: what was kept is counted before.
std::uint64_t lost_bytes(const held& one) noexcept {
  const warden::hold& hold = *one.hold;
  return hold.stands_on.load() == warden::footing::lost ? hold.bytes - hold.kept_bytes.load() : 0;
}

int detach(held& one) noexcept {
  return warden::detach(*one.hold);
}

}  // namespace

const way leased_way{take, release, current, private_bytes, advise_memory, lost_bytes, detach};

}  // namespace stillmap
