// SPDX-License-Identifier: Apache-2.0
#include "ranges/mapping.hpp"

#include <errno.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "crossing.hpp"
#include "linux/descriptor.hpp"
#include "ranges/tree.hpp"
#include "memory.hpp"
#include "settings.hpp"
#include "warden/arming.hpp"

// Not in the headers of Debian 12's libc.
#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24
#endif
#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif

namespace stillmap::ranges {
namespace {

constexpr address addresses_end = address{1} << 56;  // no address space is larger: munmap(2) says EINVAL
constexpr int attempts_max = 8;  // at a file whose size changes while it is mapped

std::byte* pointer(address at) noexcept {
  return reinterpret_cast<std::byte*>(at);
}
address value(const void* at) noexcept {
  return reinterpret_cast<address>(at);
}
bool is_aligned(std::uint64_t at) noexcept {
  return (at & (memory::page_bytes() - 1)) == 0;
}

// Ends what keeps a range's bytes. The addresses stay taken: what showed the file gives no access any more.
void end(range& one) noexcept {
  if (one.by != nullptr) {
    one.by->release(one.bytes);
    one.by = nullptr;
  } else {
    memory::discharge(one.charged_bytes);
  }
  one.charged_bytes = 0;
}

// Makes it private memory that nobody guards or answers for. 0 or -ENOMEM.
long loosen(range& one) noexcept {
  if (one.slot) {
    const changing tree;
    arena::forget(one.size());
    one.slot = {};
  }
  if (one.by == nullptr) return 0;
  one.charged_bytes = one.bytes.charged_bytes;
  one.anonymous = one.by == &copied_way;
  std::uint64_t tail_bytes = one.anonymous ? 0 : one.charged_bytes;
  if (one.by == &leased_way) {
    warden::hold& hold = *one.bytes.hold;
    const int detached = warden::detach(hold);
    if (detached == STILL_ERROR_OVER_BUDGET) return -ENOMEM;
    one.lost = detached != 0;
    tail_bytes = hold.tail_bytes;
    one.charged_bytes = leased_way.private_bytes(one.bytes);
    one.anonymous = one.charged_bytes == hold.bytes + hold.tail_bytes;
    memory::charge_always(one.charged_bytes);
    warden::close(hold);
  }
  if (tail_bytes > 0 && tail_bytes < one.size()) one.seam = one.end.load() - tail_bytes;
  one.by = nullptr;
  return 0;
}

// Pages of a clone or of a spill that are to be written: the kernel would share them with a forked child. Also
// those that may not be read for a while: later there would be nothing to copy from.
long make_anonymous(range& one) noexcept {
  if (one.anonymous) return 0;
  const std::size_t bytes = one.size();
  std::byte* const begin = pointer(one.begin.load());
  const std::uint64_t charged = bytes - one.charged_bytes;
  if (!memory::charge(charged, UINT64_MAX)) return -ENOMEM;
  std::byte* const copy = memory::map_congruent(bytes, begin);
  if (copy == nullptr) return memory::discharge(charged), -ENOMEM;
  for (std::size_t done = 0; done < bytes;) {
    const long got = kernel::copy_own(copy + done, begin + done, bytes - done);
    if (got <= 0) {  // a disk error
      kernel::unmap(copy, bytes);
      memory::discharge(charged);
      return -ENOMEM;
    }
    done += static_cast<std::size_t>(got);
  }
  if (kernel::protect(copy, bytes, PROT_READ) != 0 || kernel::failed(kernel::move_over(copy, bytes, begin))) {
    kernel::unmap(copy, bytes);
    memory::discharge(charged);
    return -ENOMEM;
  }
  one.charged_bytes = bytes;
  one.anonymous = true;
  one.seam = 0;
  return 0;
}

// Cuts [begin, end) out of loose ranges, and ends those that lie in it. The list is out of the tree.
void cut(changing& tree, range* list, address begin, address end_) noexcept {
  while (list != nullptr) {
    range* const following = list->next;
    range& one = *list;
    const address from = one.begin.load(), to = one.end.load();
    const bool anonymous = one.anonymous;
    const auto part = [&](range& of, address first, address last) {
      of.begin.store(first);
      of.end.store(last);
      of.charged_bytes = anonymous ? last - first : 0;
      if (of.seam <= first || of.seam >= last) of.seam = 0;
      tree.put(&of);
    };
    if (begin <= from && to <= end_) {
      if (one.slot) arena::forget(one.size());  // it is still mapped
      end(one);
      tree.give_back(&one);
    } else {
      memory::discharge(one.charged_bytes);
      if (to > end_) {
        // Without memory for one more note the rear is private memory that we know nothing of.
        if (range* const rear = from < begin ? tree.make() : &one) {
          rear->shared = one.shared;
          rear->anonymous = anonymous;
          rear->lost = one.lost;
          rear->seam = one.seam;
          if (anonymous) memory::charge_always(to - end_);
          part(*rear, end_, to);
        }
      }
      if (from < begin) {
        if (anonymous) memory::charge_always(begin - from);
        part(one, from, begin);
      }
    }
    list = following;
  }
}

// Before something else takes [begin, end): nothing of ours is there afterwards. What reaches beyond stays, as
// loose memory. 0 or -ENOMEM, and nothing is done.
long clear(address begin, address end_) noexcept {
  if (!are_ours(begin, end_)) return 0;
  claim mine(begin, end_);
  bool leased = false;
  for (range* each = mine.first(); each != nullptr; each = each->next_claimed) {
    const bool whole = begin <= each->begin.load() && each->end.load() <= end_;
    if (!whole) {
      if (const long error = loosen(*each); error != 0) return error;
    }
    leased = leased || each->by == &leased_way;
  }
  // Closing a lease may wait: not while the tree is ours alone.
  for (range* each = leased ? mine.first() : nullptr; each != nullptr; each = each->next_claimed)
    if (each->by == &leased_way) end(*each);
  changing tree;
  cut(tree, mine.take(tree), begin, end_);
  return 0;
}

// One mapping that was copied and goes whole, as most are and do: one look at the tree. 1: not that simple.
long unmap_simple(address begin, address end_) noexcept {
  changing tree;
  range* const one = tree.take(begin, end_);
  if (one != nullptr && one->next == nullptr && !one->busy && one->begin.load() == begin && one->end.load() == end_ &&
      (one->slot || one->by == &copied_way)) {
    const long result = kernel::unmap(pointer(begin), end_ - begin);
    if (result == 0) {
      if (one->slot) arena::give_back(one->slot, one->size());
      end(*one);
      tree.give_back(one);
      return 0;
    }
  }
  tree.put_all(one);
  return 1;
}

// Pages on which any access is a SIGBUS, as it is behind the end of a mapped file: those of an empty file.
long map_absent(std::byte* where, std::size_t bytes, int protection) noexcept {
  if (bytes == 0) return 0;
  const descriptor empty(static_cast<int>(kernel::memory_file(0)));
  if (!empty) return -ENFILE;
  const long result = kernel::map(where, bytes, protection & (PROT_READ | PROT_WRITE),
                                  MAP_SHARED | MAP_FIXED | MAP_NORESERVE, empty.get(), 0);
  return kernel::failed(result) ? result : 0;
}

long as_mmap_says(int error) noexcept {
  switch (error) {
    case STILL_ERROR_BUSY_WRITER:
    case STILL_ERROR_CHANGING:
    case STILL_ERROR_LOST:
      return -EAGAIN;
    case STILL_ERROR_UNSUPPORTED:
      return -ENODEV;
    case STILL_ERROR_OVER_BUDGET:
    case ENOSPC:
    case EDQUOT:
      return -ENOMEM;
    case EMFILE:
      return -ENFILE;
    default:
      return -error;
  }
}

// Where any copy will do, a small one is read without looking at anything else. ERANGE: shorter by now.
int copy_at_once(int fd, std::uint64_t offset, std::size_t length, std::byte* place, still_snapshot& into) noexcept {
  const std::size_t whole = memory::page_ceiling(length);
  if (!memory::charge(whole, UINT64_MAX)) return STILL_ERROR_OVER_BUDGET;
  std::size_t done = 0;
  const long error = kernel::pread(fd, place, length, offset, done);
  if (error != 0 || done != length) {
    memory::discharge(whole);
    return error != 0 ? static_cast<int>(-error) : ERANGE;
  }
  into.held.mapped = place;
  into.held.charged_bytes = whole;
  into.how = STILL_COPIED;
  into.by = &copied_way;
  return 0;
}

// A small copy in recycled pages. 1: not to be had that way.
long map_from_arena(int fd, std::uint64_t offset, std::size_t length, const terms& asked, holding& into) noexcept {
  const std::size_t whole = memory::page_ceiling(length);
  if (!memory::charge(whole, UINT64_MAX)) return 1;
  arena::slot slot;
  range* noted = nullptr;
  {
    changing tree(asked.quiet);
    slot = arena::take(whole);
    noted = slot ? tree.make() : nullptr;
    if (slot && noted == nullptr) {
      arena::filled();
      arena::give_back(slot, whole);
      slot = {};
    }
  }
  std::size_t done = 0;
  // Outside the tree: it may wait for storage.
  const bool read = slot && kernel::pread(fd, slot.bytes, length, offset, done) == 0 && done == length;
  if (read) std::memset(slot.bytes + length, 0, whole - length);
  changing tree(asked.quiet);
  const long at = read ? arena::duplicate(slot, whole) : -EAGAIN;
  if (slot) arena::filled();
  if (kernel::failed(at)) {
    if (slot) {
      arena::give_back(slot, whole);
      tree.give_back(noted);
    }
    memory::discharge(whole);
    return 1;
  }
  noted->begin.store(static_cast<address>(at));
  noted->end.store(static_cast<address>(at) + whole);
  noted->charged_bytes = whole;
  noted->slot = slot;
  noted->shared = asked.shared;
  tree.put(noted);
  into = {STILL_COPIED, STILL_TORN};
  return at;
}

// What is laid out for one snapshot; undone unless it is kept.
struct layout {
  std::byte* base = nullptr;
  std::size_t bytes = 0;
  // Something was there before: the addresses were the caller's, and another thread's mapping must not land in
  // them when all fails.
  bool was_taken = false;

  // At first where `flags` say, later in the same place. Where the choice is ours, congruent with the file's offset
  // modulo 2 MiB, as the kernel does for a file's mapping: large folios are mapped whole then (1 GiB read once:
  // 38 ms instead of 95). 0 or -errno.
  long lay(void* where, int flags, std::uint64_t offset) noexcept {
    constexpr int protection = PROT_READ | PROT_WRITE, kind = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    const auto at = [&](void* place, int placing) {
      return kernel::map(place, bytes, protection, kind | placing, -1, 0);
    };
    long laid;
    if (base != nullptr) {
      laid = at(base, MAP_FIXED);
    } else if (where == nullptr && flags == 0) {
      base = memory::map_congruent(bytes, reinterpret_cast<const std::byte*>(offset));
      return base != nullptr ? 0 : -ENOMEM;
    } else if ((flags & MAP_FIXED) != 0 && (flags & MAP_FIXED_NOREPLACE) == 0) {
      laid = at(where, flags | MAP_FIXED_NOREPLACE);
      if (laid == -EEXIST) {
        was_taken = true;
        laid = at(where, flags);
      }
    } else {
      laid = at(where, flags);
    }
    if (kernel::failed(laid)) return laid;
    base = reinterpret_cast<std::byte*>(laid);
    return 0;
  }

  ~layout() {
    if (base == nullptr) return;
    if (!was_taken || kernel::failed(kernel::map(base, bytes, PROT_NONE,
                                                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0)))
      kernel::unmap(base, bytes);
  }
};

}  // namespace

long map_snapshot(void* where, std::size_t length, int protection, int flags, int fd, off_t offset,
                  const terms& asked, holding& into) noexcept {
  constexpr int placement = MAP_FIXED | MAP_FIXED_NOREPLACE | MAP_32BIT;
  const std::size_t total = memory::page_ceiling(length);
  const auto first = static_cast<std::uint64_t>(offset);
  const bool fixed = (flags & (MAP_FIXED | MAP_FIXED_NOREPLACE)) != 0;
  // In the kernel's order.
  if (!is_aligned(first) || (flags & (MAP_ANONYMOUS | MAP_HUGETLB)) != 0) return -EINVAL;
  const long status = kernel::status_flags(fd);
  if (status < 0 || (status & O_PATH) != 0) return -EBADF;
  if (length == 0) return -EINVAL;
  if (total < length || total > addresses_end) return -ENOMEM;
  if (fixed && !is_aligned(value(where))) return -EINVAL;
  if (offset < 0 || first + length < first || first + length > INT64_MAX) return -EOVERFLOW;
  if ((status & O_ACCMODE) == O_WRONLY) return -EACCES;

  const bool replaces = (flags & MAP_FIXED) != 0 && (flags & MAP_FIXED_NOREPLACE) == 0;
  long error = 0;
  layout place;
  place.bytes = total;
  for (int attempt = 0; attempt < attempts_max; ++attempt) {
    struct statx found;
    if (attempt == 0 && asked.known != nullptr) {
      found = *asked.known;
    } else if (kernel::stat(fd, nullptr, &found) != 0) {
      return -EBADF;
    }
    if (!S_ISREG(found.stx_mode)) return -ENODEV;
    const std::uint64_t rest = found.stx_size > first ? found.stx_size - first : 0;
    const auto available = static_cast<std::size_t>(std::min<std::uint64_t>(length, rest));
    const std::size_t covered = memory::page_ceiling(available);

    const bool small = asked.unproved && available <= std::min(crossing::limits(0).copy_max, thresholds{}.copy_max);
    constexpr int special = placement | MAP_LOCKED | MAP_POPULATE;
    if (small && available > 0 && covered == total && protection == PROT_READ && where == nullptr &&
        (flags & special) == 0) {
      if (const long at = map_from_arena(fd, first, available, asked, into); at != 1) return at;
    }

    if (replaces && place.base == nullptr && (error = clear(value(where), value(where) + total)) != 0) return error;
    if ((error = place.lay(where, flags & placement, first)) != 0) return error;
    if ((error = map_absent(place.base + covered, total - covered, protection)) != 0) return error;

    still_snapshot one;
    if (available > 0) {
      request wanted;
      wanted.require = asked.require;
      wanted.offset = first;
      wanted.length = available;
      wanted.padding = static_cast<std::uint32_t>(covered - available);
      wanted.memory_budget = settings::instance().memory_budget;
      wanted.fork = STILL_FORK_CARRY;
      wanted.populate = (flags & MAP_POPULATE) != 0;
      wanted.place = place.base;
      // Only what is to be read and no more can be the file's own pages.
      if (protection != PROT_READ) wanted.backing = STILL_COPIED;
      int refused = small ? copy_at_once(fd, first, available, place.base, one) : int{STILL_ERROR_OVER_BUDGET};
      // What is too large for memory, a private file may hold.
      if (refused == STILL_ERROR_OVER_BUDGET) {
        refused = open_into(nullptr, fd, wanted, one, nullptr);
        if (small && refused != 0) refused = ENOMEM;
      }
      if (refused == ERANGE) continue;  // shorter by now
      if (refused != 0) return as_mmap_says(refused);
      into = {one.how, one.held.when};
    }
    const bool copied = one.by == nullptr || one.by == &copied_way;
    if (copied && protection != (PROT_READ | PROT_WRITE)) error = kernel::protect(place.base, covered, protection);
    // Locking faults all pages in, and fails where that cannot be.
    const std::size_t locked = (flags & MAP_LOCKED) != 0 && (protection & PROT_READ) != 0 ? covered : 0;
    if (error == 0 && locked > 0 && kernel::lock(place.base, locked) != 0) error = -EAGAIN;
    range* noted = nullptr;
    if (error == 0 && one.by != nullptr) {
      changing tree(asked.quiet);
      noted = tree.make();
      if (noted != nullptr) {
        noted->begin.store(value(place.base));
        noted->end.store(value(place.base) + covered);
        noted->by = one.by;
        noted->bytes = one.held;
        noted->shared = asked.shared;
        tree.put(noted);
      }
    }
    if (one.by != nullptr && noted == nullptr) {
      one.by->release(one.held);
      return error != 0 ? error : -ENOMEM;
    }
    if (error != 0) return error;
    return reinterpret_cast<long>(std::exchange(place.base, nullptr));
  }
  return -EAGAIN;
}

long map_plain(void* where, std::size_t length, int protection, int flags, int fd, off_t offset) noexcept {
  if ((flags & MAP_FIXED) != 0 && (flags & MAP_FIXED_NOREPLACE) == 0 && length != 0 && is_aligned(value(where))) {
    const address begin = value(where), end_ = begin + memory::page_ceiling(length);
    if (are_ours(begin, end_)) {
      // What will be refused must not take anything away: the kernel is asked at another place first.
      const long trial = kernel::map(nullptr, length, protection, flags & ~(MAP_FIXED | MAP_LOCKED | MAP_POPULATE),
                                     fd, static_cast<std::uint64_t>(offset));
      if (kernel::failed(trial)) return trial;
      kernel::unmap(reinterpret_cast<void*>(trial), length);
      if (const long error = clear(begin, end_); error != 0) return error;
    }
  }
  return kernel::map(where, length, protection, flags, fd, static_cast<std::uint64_t>(offset));
}

long unmap(void* where, std::size_t length) noexcept {
  const address begin = value(where), end_ = begin + memory::page_ceiling(length);
  if (is_aligned(begin) && end_ > begin && end_ <= addresses_end && are_ours(begin, end_)) {
    if (unmap_simple(begin, end_) == 0) return 0;
    if (const long error = clear(begin, end_); error != 0) return error;
  }
  return kernel::unmap(where, length);
}

long protect(void* where, std::size_t length, int protection) noexcept {
  const address begin = value(where), end_ = begin + memory::page_ceiling(length);
  if (!is_aligned(begin) || end_ <= begin || !are_ours(begin, end_)) return kernel::protect(where, length, protection);
  const claim mine(begin, end_);
  const bool writes = (protection & PROT_WRITE) != 0, reads = (protection & PROT_READ) != 0;
  // The file's own pages may be read already, and nothing more: what the keeper took away meanwhile must not
  // come back as zeros, or as what a writer made of it.
  const auto is_left = [&](const range& one) {
    return protection == PROT_READ && one.by != nullptr && one.by != &copied_way;
  };
  for (range* each = mine.first(); each != nullptr; each = each->next_claimed)
    if (writes && each->shared) return -EACCES;
  bool any_left = false;
  for (range* each = mine.first(); each != nullptr; each = each->next_claimed) {
    if (is_left(*each)) {
      any_left = true;
      continue;
    }
    if (protection != PROT_READ) {
      if (const long error = loosen(*each); error != 0) return error;
    }
    if (each->lost) {
      if (protection != PROT_NONE) return -EACCES;
    } else if (writes || !reads) {
      if (const long error = make_anonymous(*each); error != 0) return error;
    }
  }
  if (!any_left) return kernel::protect(where, length, protection);
  long result = 0;
  address at = begin;
  const auto others = [&](address until) {
    if (at < until && result == 0) result = kernel::protect(pointer(at), until - at, protection);
  };
  for (const range* each = mine.first(); each != nullptr; each = each->next_claimed) {
    if (!is_left(*each)) continue;
    others(std::min(each->begin.load(), end_));
    at = std::max(at, each->end.load());
  }
  others(end_);
  return result;
}

namespace {

// What the kernel would say of the mapping of a file that may only be read, and would then do nothing that
// shows; or 1: let the kernel do it.
long advice_on_ours(int advice) noexcept {
  switch (advice) {
    case MADV_DONTNEED:  // would be read again, and be the same
    case MADV_DONTNEED_LOCKED:
    case MADV_DONTFORK:
    case MADV_DOFORK:
      return 0;
    case MADV_FREE:
    case MADV_WIPEONFORK:
    case MADV_GUARD_INSTALL:
      return -EINVAL;
    case MADV_REMOVE:
      return -EACCES;
    default:
      return 1;
  }
}

}  // namespace

long advise(void* where, std::size_t length, int advice) noexcept {
  const address begin = value(where), end_ = begin + memory::page_ceiling(length);
  const long answer = advice_on_ours(advice);
  if (answer > 0 || !is_aligned(begin) || end_ <= begin || !are_ours(begin, end_))
    return kernel::advise(where, length, advice);
  changing tree;
  range* const list = tree.take(begin, end_);
  long result = 0;
  address at = begin;
  const auto others = [&](address until) {
    if (at < until && result == 0) result = kernel::advise(pointer(at), until - at, advice);
  };
  for (const range* each = list; each != nullptr; each = each->next) {
    others(std::min(each->begin.load(), end_));
    if (result == 0) result = answer;
    at = std::max(at, each->end.load());
  }
  others(end_);
  tree.put_all(list);
  return result;
}

namespace {

// Two mappings that are one to their user: before Linux 6.17 the kernel moves no more than one at a time.
long move_both(address begin, address seam, std::size_t old_bytes, std::size_t new_bytes, address to) noexcept {
  const std::size_t front = seam - begin;
  const long moved = kernel::move_over(pointer(begin), front, pointer(to));
  if (kernel::failed(moved)) return moved;
  const long rest = kernel::remap(pointer(seam), old_bytes - front, new_bytes - front,
                                  MREMAP_MAYMOVE | MREMAP_FIXED, pointer(to + front));
  if (!kernel::failed(rest)) return moved;
  kernel::move_over(pointer(to), front, pointer(begin));
  return rest;
}

}  // namespace

long remap(void* where, std::size_t old_length, std::size_t new_length, int flags, void* to) noexcept {
  const address begin = value(where);
  const std::size_t old_bytes = memory::page_ceiling(old_length), new_bytes = memory::page_ceiling(new_length);
  const bool moves = (flags & MREMAP_FIXED) != 0;
  // What will be refused must not take anything away.
  const bool is_sound = is_aligned(begin) && new_length != 0 && new_bytes >= new_length &&
                        (!moves || ((flags & MREMAP_MAYMOVE) != 0 && is_aligned(value(to)) &&
                                    (value(to) >= begin + old_bytes || begin >= value(to) + new_bytes)));
  const auto target_is_free = [&] { return moves ? clear(value(to), value(to) + new_bytes) : 0L; };
  if (!is_aligned(begin) || !are_ours(begin, begin + std::max<std::size_t>(old_bytes, 1))) {
    constexpr int known = MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP;
    if (is_sound && (flags & ~known) == 0) {
      if (const long error = target_is_free(); error != 0) return error;
    }
    return kernel::remap(where, old_length, new_length, flags, to);
  }
  if (old_length == 0 || !is_sound || (flags & ~(MREMAP_MAYMOVE | MREMAP_FIXED)) != 0) return -EINVAL;
  if (new_bytes > old_bytes) return -ENOMEM;  // what follows in the file is no part of the snapshot
  if (!moves) {
    const long error = new_bytes < old_bytes ? unmap(pointer(begin + new_bytes), old_bytes - new_bytes) : 0;
    return error != 0 ? error : static_cast<long>(begin);
  }
  if (const long error = target_is_free(); error != 0) return error;
  claim mine(begin, begin + old_bytes);
  range* const one = mine.first();
  // As for the kernel: one mapping, and no more.
  if (one == nullptr || one->begin.load() > begin || one->end.load() < begin + old_bytes) return -EFAULT;
  if (const long error = loosen(*one); error != 0) return error;
  const bool shared = one->shared, anonymous = one->anonymous, lost = one->lost;
  const address seam = one->seam > begin && one->seam < begin + new_bytes ? one->seam : 0;
  // Out of the tree before the addresses are free for others.
  changing tree;
  range* const list = mine.take(tree);
  const long moved = seam == 0 ? kernel::remap(where, old_bytes, new_bytes, flags, to)
                               : move_both(begin, seam, old_bytes, new_bytes, value(to));
  if (kernel::failed(moved)) {
    tree.put_all(list);
    return moved;
  }
  cut(tree, list, begin, begin + old_bytes);
  if (range* const noted = tree.make()) {  // else private memory that we know nothing of
    noted->begin.store(value(to));
    noted->end.store(value(to) + new_bytes);
    noted->shared = shared;
    noted->anonymous = anonymous;
    noted->lost = lost;
    noted->seam = seam == 0 ? 0 : value(to) + (seam - begin);
    noted->charged_bytes = anonymous ? new_bytes : 0;
    memory::charge_always(noted->charged_bytes);
    tree.put(noted);
  }
  return moved;
}

}  // namespace stillmap::ranges
