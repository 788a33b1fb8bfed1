// SPDX-License-Identifier: Apache-2.0
#include "reserve.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <mutex>
#include <string_view>

#include "linux/kernel.hpp"
#include "memory.hpp"
#include "settings.hpp"

namespace stillmap::reserve {
namespace {

constexpr std::size_t unit = std::size_t{2} << 20;  // what is smaller is not worth keeping
constexpr std::size_t extents_max = 64;
constexpr std::uint64_t recycled_max = std::uint64_t{64} << 20;
constexpr std::uint64_t available_least = 20;  // one in so many of the machine's bytes

struct extent {
  std::byte* address = nullptr;
  std::size_t bytes = 0;
};

// Held for a few moves in memory, and never across a call that waits.
struct shelf {
  std::mutex mutex;
  extent extents[extents_max];
  std::size_t count = 0;
  std::atomic<std::uint64_t> kept{0};  // written under the mutex
  std::atomic<bool> shut{true};
};
constinit shelf the_shelf;

std::uint64_t limit() noexcept {
  const std::uint64_t configured = settings::instance().reserve_bytes;
  return configured != 0 ? configured & ~std::uint64_t{unit - 1} : recycled_max;
}

void unmap(std::byte* begin, const std::byte* end) noexcept {
  if (begin < end) kernel::unmap(begin, static_cast<std::size_t>(end - begin));
}

// Under the mutex, which keeps the order: the oldest first.
extent remove(std::size_t index) noexcept {
  const extent one = the_shelf.extents[index];
  std::copy(the_shelf.extents + index + 1, the_shelf.extents + the_shelf.count, the_shelf.extents + index);
  --the_shelf.count;
  the_shelf.kept.fetch_sub(one.bytes, std::memory_order_relaxed);
  return one;
}
bool is_full_for(extent one) noexcept {
  return the_shelf.count == extents_max ||
         the_shelf.kept.load(std::memory_order_relaxed) + one.bytes > limit() + unit;
}

void drop() noexcept {
  const std::unique_lock lock(the_shelf.mutex, std::try_to_lock);
  if (!lock) return;  // who is in it looks at `shut` when done
  while (the_shelf.count > 0) {
    const extent one = the_shelf.extents[--the_shelf.count];
    kernel::unmap(one.address, one.bytes);
  }
  the_shelf.kept.store(0, std::memory_order_relaxed);
}

// A line of /proc/meminfo, in KiB.
std::uint64_t value_of(std::string_view text, std::string_view name) noexcept {
  std::uint64_t value = 0;
  std::size_t at = text.find(name);
  if (at == std::string_view::npos) return 0;
  at = text.find_first_not_of(' ', at + name.size());
  if (at != std::string_view::npos) std::from_chars(text.data() + at, text.data() + text.size(), value);
  return value;
}

bool is_short_of_memory() noexcept {
  const long fd = kernel::open_read_only("/proc/meminfo", 0);
  if (kernel::failed(fd)) return false;
  char text[512];
  const long got = kernel::read(static_cast<int>(fd), text, sizeof text);
  kernel::close(static_cast<int>(fd));
  if (got <= 0) return false;
  const std::string_view all(text, static_cast<std::size_t>(got));
  return value_of(all, "MemAvailable:") < value_of(all, "MemTotal:") / available_least;
}

// Faulted in; empty where there is none to be had.
extent make(std::size_t bytes) noexcept {
  std::byte* const fresh = memory::map_private(bytes);
  if (fresh == nullptr) return {};
  if (kernel::advise(fresh, bytes, MADV_DONTFORK) != 0 ||
      kernel::advise(fresh, bytes, MADV_POPULATE_WRITE) != 0) {
    kernel::unmap(fresh, bytes);
    return {};
  }
  return {fresh, bytes};
}

// A part of some extent that is congruent with `like`, as near to its end as can be; empty: none is large
// enough. Always of one extent, and so of one mapping of the kernel's: mremap takes no more at once (before
// Linux 6.17 it fails on two, and leaves a hole where they were to go).
extent cut(std::size_t bytes, const std::byte* like) noexcept {
  const std::unique_lock lock(the_shelf.mutex, std::try_to_lock);
  for (std::size_t i = lock ? the_shelf.count : 0; i > 0; --i) {
    extent& one = the_shelf.extents[i - 1];
    if (one.bytes < bytes) continue;
    const auto last = reinterpret_cast<std::uintptr_t>(one.address + (one.bytes - bytes));
    const std::size_t back = (last - reinterpret_cast<std::uintptr_t>(like)) & (unit - 1);
    if (back > one.bytes - bytes) continue;
    std::byte* const begin = one.address + (one.bytes - bytes - back);
    unmap(begin + bytes, one.address + one.bytes);
    if (begin - one.address < static_cast<std::ptrdiff_t>(unit)) {
      unmap(one.address, begin);
      remove(i - 1);
    } else {
      const auto left = static_cast<std::size_t>(begin - one.address);
      the_shelf.kept.fetch_sub(one.bytes - left, std::memory_order_relaxed);
      one.bytes = left;
    }
    return {begin, bytes};
  }
  return {};
}

// The newest is the likeliest to fit what comes next: the oldest make room for it. False: unmapped.
bool keep(extent one) noexcept {
  extent evicted[extents_max];
  std::size_t gone = 0;
  bool kept = false;
  {
    const std::lock_guard lock(the_shelf.mutex);
    kept = !the_shelf.shut.load();
    while (kept && the_shelf.count > 0 && is_full_for(one)) evicted[gone++] = remove(0);
    kept = kept && !is_full_for(one);
    if (kept) {
      the_shelf.extents[the_shelf.count++] = one;
      the_shelf.kept.fetch_add(one.bytes, std::memory_order_relaxed);
    }
  }
  while (gone > 0) {
    --gone;
    kernel::unmap(evicted[gone].address, evicted[gone].bytes);
  }
  if (!kept) kernel::unmap(one.address, one.bytes);
  if (the_shelf.shut.load()) drop();
  return kept;
}

}  // namespace

std::byte* take(std::size_t bytes, const std::byte* like) noexcept {
  if (const extent kept = cut(bytes, like); kept.address != nullptr) return kept.address;
  std::byte* const fresh = memory::map_congruent(bytes, like);
  if (fresh != nullptr) kernel::advise(fresh, bytes, MADV_DONTFORK);
  return fresh;
}

void give_back(std::byte* address, std::size_t bytes) noexcept {
  const std::size_t kept = std::min<std::size_t>(bytes, limit());
  unmap(address + kept, address + bytes);
  if (kept < unit) return unmap(address, address + kept);
  // MADV_NORMAL: parts that were advised differently become one mapping again.
  if (kernel::protect(address, kept, PROT_READ | PROT_WRITE) == 0 &&
      kernel::advise(address, kept, MADV_NORMAL) == 0 && kernel::advise(address, kept, MADV_DONTFORK) == 0) {
    keep({address, kept});
  } else {
    kernel::unmap(address, kept);
  }
}

bool wants_tending() noexcept {
  return kept_bytes() != 0 || settings::instance().reserve_bytes >= unit;
}

void tend() noexcept {
  const bool fills = settings::instance().reserve_bytes != 0;
  for (;;) {
    if (is_short_of_memory()) return drop();
    const std::uint64_t most = limit(), before = kept_bytes();
    if (!fills || before + unit > most) return;
    // One unit more, in which to meet any address modulo 2 MiB.
    const extent more = make(most - before + unit);
    if (more.bytes == 0 || !keep(more)) return;
  }
}

void shut() noexcept {
  the_shelf.shut.store(true);
  drop();
}

void open() noexcept {
  the_shelf.shut.store(false);
}

std::uint64_t kept_bytes() noexcept {
  return the_shelf.kept.load(std::memory_order_relaxed);
}

void lock_for_fork() noexcept {
  the_shelf.mutex.lock();
}
void unlock_after_fork() noexcept {
  the_shelf.mutex.unlock();
  if (the_shelf.shut.load()) drop();
}
void forget_after_fork() noexcept {
  the_shelf.count = 0;
  the_shelf.shut.store(true);
  the_shelf.kept.store(0, std::memory_order_relaxed);
}

}  // namespace stillmap::reserve
