// SPDX-License-Identifier: Apache-2.0
#include "snapshot.hpp"

#include <errno.h>
#include <sys/utsname.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <type_traits>

#include "crossing.hpp"
#include "failure.hpp"
#include "linux/kernel.hpp"
#include "memory.hpp"
#include "options.hpp"
#include "settings.hpp"
#include "warden/arming.hpp"
#include "warden/warden.hpp"

namespace stillmap {
namespace {

const way* way_of(still_backing backing) noexcept {
  switch (backing) {
    case STILL_SEALED:
      return &sealed_way;
    case STILL_LEASED:
      return &leased_way;
    case STILL_CLONED:
      return &cloned_way;
    case STILL_COPIED:
      return &copied_way;
    case STILL_SPILLED:
      return &spilled_way;
    case STILL_PAGED:
      return &paged_way;
    case STILL_COOPERATIVE:
      return &cooperative_way;
    case STILL_TRUSTED:
      return &trusted_way;
    default:
      return nullptr;
  }
}

// Multigrain time stamps came with Linux 6.13, for the file systems whose stamps we go by.
bool kernel_has_multigrain_stamps() noexcept {
  static const bool result = [] {
    utsname name;
    int major = 0, minor = 0;
    if (::uname(&name) != 0 || std::sscanf(name.release, "%d.%d", &major, &minor) != 2) return false;
    return major > 6 || (major == 6 && minor >= 13);
  }();
  return result;
}

// As it was a moment ago: after a change of user a lease may be tried in vain, or left out, which costs no
// promise.
uid_t recent_user() noexcept {
  constexpr std::int64_t recent_ns = 10'000'000;
  static std::atomic<std::int64_t> looked_ns{-recent_ns};
  static std::atomic<uid_t> user{0};
  const std::int64_t now = kernel::coarse_now_ns();
  if (now - looked_ns.load(std::memory_order_acquire) >= recent_ns) {
    user.store(kernel::effective_user(), std::memory_order_relaxed);
    looked_ns.store(now, std::memory_order_release);
  }
  return user.load(std::memory_order_relaxed);
}

bool stamps_prove(const facts& known) noexcept {
  return kernel_has_multigrain_stamps() &&
         (known.system == file_system::ext4 || known.system == file_system::xfs ||
          known.system == file_system::btrfs);
}

// What a plan is made from first: as if nothing could be leased.
machine look_at_machine() noexcept {
  machine here;
  here.may_lease = false;
  here.multigrain_stamps = kernel_has_multigrain_stamps();
  const std::uint64_t budget = settings::instance().memory_budget, charged = memory::charged();
  here.budget_left = charged < budget ? budget - charged : 0;
  return here;
}

// Whether a copy of what would be leased otherwise may be cheaper, and then how the page cache holds it. Only where
// the copy is as good as the lease: still_changed can be asked of it, but for tmpfs, and nothing stands that could
// be joined.
void look_for_a_copy(opening& from, std::uint64_t length, bool named, machine& here,
                     const thresholds& limits) noexcept {
  const request& wanted = from.wanted;
  if (wanted.backing != STILL_AUTO || wanted.place != nullptr || wanted.strict || wanted.synced ||
      wanted.access == STILL_ACCESS_RANDOM || length <= limits.copy_max || length > limits.copy_small_folios_max)
    return;
  const facts& known = from.known;
  if (!named || !here.may_lease || !leases_hold(known.system) || known.under_overlay || known.verity ||
      !(stamps_prove(known) || known.system == file_system::tmpfs))
    return;
  if (!pool::is_warm(length + wanted.padding) || warden::is_leased(known)) return;
  here.warm_memory = true;
  if (length <= limits.copy_warm_max) return;
  // A fork meanwhile would leave a mapping in the child that keeps a lease of this descriptor from ending.
  const std::shared_lock inside(warden::table::instance().gate);
  gather_folios(from.fd(), wanted.offset, length, from.known);
}

void look_closer(opening& from, std::uint64_t length, bool named, machine& here, const thresholds& limits) noexcept {
  gather_for_leases(from.fd(), from.known);
  here.may_lease = recent_user() == from.known.owner || kernel::has_lease_capability();
  // Leases that last are for what is not copied: the limit need not be asked for below that.
  if (length > limits.copy_random_max)
    here.lease_room = warden::table::instance().live_leases.load() < kernel::descriptor_limit() / 4;
  look_for_a_copy(from, length, named, here, limits);
}

// With the path from the root, as it stands now. nullptr: no memory.
still_snapshot* make_snapshot(const char* path) noexcept {
  char folder[4096];
  std::size_t folder_length = 0, length = 0;
  if (path != nullptr && path[0] != '/') {
    const long used = kernel::current_directory(folder, sizeof folder - 1);  // with its NUL
    if (used > 0) {
      folder_length = static_cast<std::size_t>(used);
      folder[folder_length - 1] = '/';
    } else {
      path = nullptr;  // a folder that is too deep for the call, or gone: as one opened by descriptor
    }
  }
  if (path != nullptr) length = std::strlen(path) + 1;
  void* const place = std::malloc(sizeof(still_snapshot) + folder_length + length);
  if (place == nullptr) return nullptr;
  auto* const one = new (place) still_snapshot;
  auto* const behind = reinterpret_cast<char*>(one + 1);
  if (folder_length > 0) std::memcpy(behind, folder, folder_length);
  if (length > 0) std::memcpy(behind + folder_length, path, length);
  one->named = length > 0;
  return one;
}

static_assert(std::is_trivially_destructible_v<still_snapshot>);
void free_snapshot(still_snapshot* one) noexcept {
  std::free(one);
}

const char* remedy_for(int error, const request& wanted, const facts& known) noexcept {
  switch (error) {
    case STILL_ERROR_BUSY_WRITER:
    case STILL_ERROR_CHANGING:
      if (wanted.backing == STILL_COOPERATIVE) return "try again once the lock is released";
      return wanted.require == STILL_POINT_IN_TIME && known.system != file_system::tmpfs
                 ? "require = STILL_VERIFIED or STILL_TORN would accept a copy"
                 : "require = STILL_TORN would accept a copy whose pages may come from different instants";
    case STILL_ERROR_UNSUPPORTED:
      return wanted.backing != STILL_AUTO
                 ? "backing = STILL_AUTO would take another way"
                 : "require = STILL_TORN would accept a copy whose pages may come from different instants";
    case STILL_ERROR_OVER_BUDGET:
      return wanted.strict ? "a larger memory_budget would do, or a lease, without STILL_STRICT"
                           : "a larger memory_budget would do";
    case EMFILE:
      return "raise RLIMIT_NOFILE";
    default:
      return "";
  }
}

// An enumeration's value as C passed it, which need not be one of C++'s.
template <class Enumeration>
unsigned raw(const Enumeration& field) noexcept {
  unsigned value;
  static_assert(sizeof value == sizeof field);
  std::memcpy(&value, &field, sizeof value);
  return value;
}

// What a way that failed left there is gone.
bool lay_out_again(const request& wanted) noexcept {
  const std::size_t bytes = memory::page_ceiling(wanted.length + wanted.padding);
  return !kernel::failed(kernel::map(wanted.place, bytes, PROT_READ | PROT_WRITE,
                                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0));
}

void note_taken(plan& chosen, std::size_t index, still_snapshot& into) noexcept {
  chosen.steps[index].result = outcome::taken;
  into.how = chosen.steps[index].backing;
  into.by = way_of(into.how);
  for (std::size_t later = index + 1; later < chosen.count; ++later) {
    step& unused = chosen.steps[later];
    if (unused.result == outcome::planned) unused = {unused.backing, outcome::passed_over, 0, "not needed"};
  }
}

// The copy that comes first in the plan, in the one way that is cheap: at rest, or under a lease. False: nothing came
// of it, and the file is to be taken for one that may be changing.
bool take_once(opening& from, still_snapshot& into) noexcept {
  from.once = true;
  const bool taken = copied_way.take(from, into.held).error == 0;
  from.once = false;
  for (std::size_t i = 0; taken && i < from.chosen.count; ++i)
    if (from.chosen.steps[i].backing == STILL_COPIED) note_taken(from.chosen, i, into);
  if (!taken) {
    into.held = {};
    from.known.at_rest = false;
  }
  return taken;
}

// Walks the plan. 0, or the error that says most: of the way insisted on, else of the last one tried.
int walk(opening& from, still_snapshot& into, const char*& reason) noexcept {
  int error = from.chosen.refusal;
  reason = from.chosen.refusal_reason;
  int copy_error = 0;
  for (std::size_t i = 0; i < from.chosen.count; ++i) {
    step& each = from.chosen.steps[i];
    if (each.result != outcome::planned) continue;
    if (each.backing == STILL_SPILLED && copy_error != 0 && copy_error != STILL_ERROR_OVER_BUDGET &&
        copy_error != ENOMEM) {
      each = {each.backing, outcome::passed_over, 0, "a copy failed, and not for want of memory"};
      continue;
    }
    const way* const by = way_of(each.backing);
    const taking result = by->take(from, into.held);
    if (result.reason != nullptr) each.reason = result.reason;
    if (result.error == 0) {
      note_taken(from.chosen, i, into);
      return 0;
    }
    each.result = outcome::failed;
    each.error = result.error;
    if (each.backing == STILL_COPIED) copy_error = result.error;
    // What the file is too short for, no other way will give; a writer in the way of a copy is the better
    // answer than one in the way of the lease that was tried before; that there can be no clone is the worst.
    if (each.backing != STILL_CLONED || error == from.chosen.refusal) {
      error = result.error;
      reason = each.reason;
    }
    into.held = {};
    if (from.wanted.place != nullptr && !lay_out_again(from.wanted)) return ENOMEM;
    if (error == ERANGE || error == EOVERFLOW) break;
  }
  return error;
}

}  // namespace

long open_anew(int caller_fd, const facts& known, descriptor& into) noexcept {
  char link[32];
  std::snprintf(link, sizeof link, "/proc/self/fd/%d", caller_fd);
  const long fd = kernel::open_read_only(link, O_NONBLOCK);
  if (fd < 0) return fd;
  descriptor own(static_cast<int>(fd));
  stamps now;
  if (const long error = read_stamps(own.get(), nullptr, now); error != 0) return error;
  if (now.device != known.at_open.device || now.inode != known.at_open.inode) return -ESTALE;
  into = std::move(own);
  return 0;
}

int range_of(const request& wanted, std::uint64_t file_bytes, std::uint64_t& length) noexcept {
  if (wanted.offset > file_bytes) return ERANGE;
  if (wanted.length > file_bytes - wanted.offset) return ERANGE;
  length = wanted.length != 0 ? wanted.length : file_bytes - wanted.offset;
  // A window's arithmetic adds a page, the padding and some; an address space is smaller than this anyway.
  return length > (std::uint64_t{1} << 62) ? EOVERFLOW : 0;
}

int read_options(const still_options* options, request& into) noexcept {
  still_options known{};
  known.size = sizeof known;
  if (options != nullptr) {
    if (const int error = copy_versioned(known, *options)) return error;
  }
  if (raw(known.backing) > STILL_TRUSTED || raw(known.require) > STILL_POINT_IN_TIME) return EINVAL;
  if (known.access < STILL_ACCESS_DEFAULT || known.access > STILL_ACCESS_RANDOM) return EINVAL;
  if (known.fork < STILL_FORK_ABSENT || known.fork > STILL_FORK_CARRY) return EINVAL;
  constexpr unsigned flags = unsigned{STILL_STRICT} | unsigned{STILL_SYNCED} | unsigned{STILL_POPULATE};
  if ((known.flags & ~flags) != 0) return EINVAL;
  if (known.offset + known.length < known.offset) return EOVERFLOW;
  into.backing = known.backing;
  // Who names a way that proves nothing need not also say so.
  const bool unproved = known.backing == STILL_COOPERATIVE || known.backing == STILL_TRUSTED ||
                        known.backing == STILL_PAGED;
  into.require = known.require != 0 ? known.require : unproved ? STILL_TORN : STILL_VERIFIED;
  into.offset = known.offset;
  into.length = known.length;
  into.memory_budget = known.memory_budget != 0 ? known.memory_budget : settings::instance().memory_budget;
  into.access = static_cast<std::int8_t>(known.access);
  into.fork = static_cast<std::int8_t>(known.fork);
  into.strict = (known.flags & STILL_STRICT) != 0;
  into.synced = (known.flags & STILL_SYNCED) != 0;
  into.populate = (known.flags & STILL_POPULATE) != 0;
  into.padding = known.padding;
  return 0;
}

int open_snapshot(const char* path, int caller_fd, const request& wanted, still_snapshot** out,
                  record* record) noexcept {
  still_snapshot* const one = make_snapshot(path);
  if (one == nullptr) return fail({ENOMEM, path != nullptr ? path : "", "", "", culprits::none, 0, 0});
  const int error = open_into(path, caller_fd, wanted, *one, record);
  if (error == 0)
    *out = one;
  else
    free_snapshot(one);
  return error;
}

int open_into(const char* path, int caller_fd, const request& wanted, still_snapshot& into,
              record* record) noexcept {
  opening from(wanted);
  from.caller_fd = caller_fd;
  char name[32];
  if (path == nullptr) std::snprintf(name, sizeof name, "descriptor %d", caller_fd);
  const auto failed = [&](int error, const char* cause, culprits named = culprits::none) noexcept {
    const stamps& file = from.known.at_open;
    return fail({error, path != nullptr ? path : name, cause, remedy_for(error, wanted, from.known), named,
                 file.device, file.inode});
  };

  if (path != nullptr) {
    const long fd = kernel::open_read_only(path, 0);
    if (fd < 0) return failed(error_of(fd), "open");
    from.file = descriptor(static_cast<int>(fd));
  }
  if (const long error = gather(from.fd(), from.known); error != 0) return failed(error_of(error), "statx");
  if (from.known.kind == file_kind::directory) return failed(EISDIR, "a directory has no bytes to hold");
  long anew = 0;
  if (path == nullptr) {
    if (from.known.kind != file_kind::stream) anew = open_anew(caller_fd, from.known, from.file);
    // What has no size is read from its start, which must not move the caller's offset.
    if (anew != 0 && from.known.kind != file_kind::regular)
      return failed(error_of(anew), "the descriptor could not be opened anew");
    from.known.own_descriptor = static_cast<bool>(from.file);
  }
  std::uint64_t length = 0;
  if (from.known.kind == file_kind::regular) {
    if (const int error = range_of(wanted, from.known.at_open.size, length))
      return failed(error, "the range lies beyond the end of the file");
  }

  // still_mmap counts for nothing: it may be called in a signal handler, where nothing is to be measured.
  const thresholds& limits = crossing::limits(wanted.place == nullptr ? length : 0);
  machine here = look_at_machine();
  from.chosen = choose(from.known, wanted, here, limits);
  bool taken = record == nullptr && !from.chosen.leases_matter && take_once(from, into);
  if (!taken) {
    look_closer(from, length, into.named, here, limits);
    from.chosen = choose(from.known, wanted, here, limits);
    taken = from.chosen.warm_copy && take_once(from, into);
    if (!taken && from.chosen.warm_copy) {
      here.warm_memory = false;
      from.chosen = choose(from.known, wanted, here, limits);
    }
  }
  // With a descriptor more there would have been a way.
  if (from.chosen.refusal != 0 && (anew == -EMFILE || anew == -ENFILE))
    return failed(error_of(anew), from.chosen.refusal_reason);
  const char* reason = "";
  const int error = taken ? 0 : walk(from, into, reason);
  if (record != nullptr) *record = {from.known, from.chosen};
  if (error != 0) {
    const bool busy = error == STILL_ERROR_BUSY_WRITER || error == STILL_ERROR_CHANGING;
    return failed(error, reason,
                  !busy                                 ? culprits::none
                  : wanted.backing == STILL_COOPERATIVE ? culprits::lockers
                                                        : culprits::writers);
  }
  into.asked = wanted;
  into.never_changes = from.known.sealed_memory || from.known.verity;
  into.proof_by_stamps = into.held.stamped && stamps_prove(from.known) && into.held.when >= STILL_VERIFIED;
  return 0;
}

void close_snapshot(still_snapshot* one) noexcept {
  one->by->release(one->held);
  free_snapshot(one);
}

bool has_changed(const still_snapshot& one) noexcept {
  const stamps& taken = one.held.taken;
  stamps named;
  const char* const path = one.path();
  if (path != nullptr) {
    if (read_stamps(-1, path, named) != 0) return true;
    if (named.device != taken.device || named.inode != taken.inode || named.size != taken.size) return true;
  }
  if (one.how == STILL_SEALED) return false;
  if (one.how == STILL_LEASED) {
    stamps now;
    const warden::hold& hold = *one.held.hold;
    if (warden::is_whole(hold) && read_stamps(hold.under->fd, nullptr, now) == 0 && now.size == taken.size)
      return false;
  }
  if (!one.proof_by_stamps || path == nullptr) return true;
  // Armed anew in between, so that a store through a mapping made since shows as well. A write that is under way
  // moved the stamps when it began.
  const descriptor file(static_cast<int>(kernel::open_read_only(path, O_NONBLOCK)));
  stamps before, after;
  if (!file || read_stamps(file.get(), nullptr, before) != 0 || before != taken) return true;
  if (kernel::write_back(file.get()) != 0) return true;
  return read_stamps(file.get(), nullptr, after) != 0 || after != taken;
}

// Equal stamps, taken while no writer was there, prove equal bytes: any later store moves the change time. A
// clone is made beside writers.
bool identity_is_exact(const still_snapshot& one) noexcept {
  return one.never_changes ||
         (one.held.when == STILL_POINT_IN_TIME && one.proof_by_stamps && one.how != STILL_CLONED);
}

}  // namespace stillmap
