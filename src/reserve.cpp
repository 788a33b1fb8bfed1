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

// All in whole huge pages: moving them moves page tables, not pages.
constexpr std::size_t unit = std::size_t{2} << 20;
constexpr std::size_t extents_max = 64;
constexpr std::uint64_t recycled_max = std::uint64_t{64} << 20;
constexpr std::uint64_t fill_step = std::uint64_t{64} << 20;  // populated between two looks at the machine
constexpr std::uint64_t available_least = 20;                 // one in so many of the machine's bytes

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

// The whole units in a range.
extent units_in(std::byte* address, std::size_t bytes) noexcept {
  const auto begin = reinterpret_cast<std::uintptr_t>(address), end = (begin + bytes) & ~(unit - 1);
  const std::size_t skip = (0 - begin) & (unit - 1);
  return skip < bytes && begin + skip < end ? extent{address + skip, end - begin - skip}
                                            : extent{};
}

void unmap(std::byte* begin, std::byte* end) noexcept {
  if (begin < end) kernel::unmap(begin, static_cast<std::size_t>(end - begin));
}

// Under the mutex. False where there is no room.
bool put(extent one) noexcept {
  if (the_shelf.shut.load() || the_shelf.count == extents_max ||
      the_shelf.kept.load(std::memory_order_relaxed) + one.bytes > limit())
    return false;
  the_shelf.extents[the_shelf.count++] = one;
  the_shelf.kept.fetch_add(one.bytes, std::memory_order_relaxed);
  return true;
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

// Faulted in, in whole units; empty where there is none to be had.
extent make(std::size_t bytes) noexcept {
  std::byte* const fresh = memory::map_private(bytes);  // aligned to a unit
  if (fresh == nullptr) return {};
  if (kernel::advise(fresh, bytes, MADV_DONTFORK) != 0 ||
      kernel::advise(fresh, bytes, MADV_POPULATE_WRITE) != 0) {
    kernel::unmap(fresh, bytes);
    return {};
  }
  return {fresh, bytes};
}

// Moves what there is into the room. False where the kernel had no place for one more mapping.
bool fill(extent room) noexcept {
  const std::unique_lock lock(the_shelf.mutex, std::try_to_lock);
  while (lock && room.bytes > 0 && the_shelf.count > 0) {
    extent& last = the_shelf.extents[the_shelf.count - 1];
    const std::size_t moved = std::min(room.bytes, last.bytes);
    std::byte* const from = last.address + (last.bytes - moved);
    last.bytes -= moved;
    if (last.bytes == 0) --the_shelf.count;
    the_shelf.kept.fetch_sub(moved, std::memory_order_relaxed);
    if (kernel::failed(kernel::move_over(from, moved, room.address))) {
      kernel::unmap(from, moved);
      return false;
    }
    room = {room.address + moved, room.bytes - moved};
  }
  return true;
}

// False: unmapped.
bool keep(extent one) noexcept {
  bool kept = false;
  {
    const std::lock_guard lock(the_shelf.mutex);
    kept = put(one);
  }
  if (!kept) kernel::unmap(one.address, one.bytes);
  if (the_shelf.shut.load()) drop();
  return kept;
}

}  // namespace

std::byte* take(std::size_t bytes, const std::byte* like) noexcept {
  std::byte* result = memory::map_congruent(bytes, like);
  if (result == nullptr) return nullptr;
  if (!fill(units_in(result, bytes))) {  // there may be a hole in it
    kernel::unmap(result, bytes);
    result = memory::map_congruent(bytes, like);
    if (result == nullptr) return nullptr;
  }
  kernel::advise(result, bytes, MADV_DONTFORK);
  return result;
}

void give_back(std::byte* address, std::size_t bytes) noexcept {
  std::byte* const end = address + bytes;
  extent kept = units_in(address, bytes);
  const std::uint64_t most = limit(), before = kept_bytes();
  kept.bytes = std::min<std::size_t>(kept.bytes, most > before ? most - before : 0);
  if (kept.bytes == 0) return unmap(address, end);
  unmap(address, kept.address);
  unmap(kept.address + kept.bytes, end);
  if (kernel::protect(kept.address, kept.bytes, PROT_READ | PROT_WRITE) == 0 &&
      kernel::advise(kept.address, kept.bytes, MADV_DONTFORK) == 0) {
    keep(kept);
  } else {
    kernel::unmap(kept.address, kept.bytes);
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
    if (!fills || before >= most) return;
    const extent more = make(std::min(most - before, fill_step));
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
