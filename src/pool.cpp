// SPDX-License-Identifier: Apache-2.0
#include "pool.hpp"

#include <algorithm>
#include <bit>
#include <mutex>
#include <new>

#include "linux/kernel.hpp"
#include "memory.hpp"
#include "settings.hpp"

namespace stillmap::pool {
namespace {

constexpr std::size_t smallest_bytes = 4096, largest_bytes = std::size_t{16} << 20;
// Four classes to each doubling: at most a quarter of a buffer lies idle.
constexpr std::size_t steps = 4;
constexpr std::size_t classes = 13 * steps;
constexpr std::int64_t trim_interval_ns = 1'000'000'000;

// A free buffer holds the link to the next one of its class.
struct free_buffer {
  free_buffer* next;
  std::size_t bytes;
};

struct size_class {
  free_buffer* first = nullptr;
  std::uint32_t count = 0;
  std::uint32_t least = 0;  // fewest that lay here since the last trim: that many were of no use
  std::uint32_t missed = 0;  // buffers that would lie here if mappings had been copies
};

struct shelf {
  std::mutex mutex;
  size_class of[classes];
  std::uint64_t kept_bytes = 0;
  std::int64_t trim_again_ns = 0;
};
constinit shelf the_shelf;  // trivially destructible but for the mutex, whose destructor does nothing

std::size_t class_bytes(std::size_t index) noexcept {
  const std::size_t base = smallest_bytes << (index / steps);
  return base + base / steps * (index % steps);
}

std::size_t class_of(std::size_t bytes) noexcept {
  if (bytes <= smallest_bytes) return 0;
  const std::size_t base_index = static_cast<std::size_t>(std::bit_width((bytes - 1) / smallest_bytes)) - 1;
  const std::size_t base = smallest_bytes << base_index;
  const std::size_t step = base / steps;
  return base_index * steps + (bytes - base + step - 1) / step;
}

// Now and then half of what lay unused since the last time: a program that once needed much gives it back within
// seconds of needing less.
free_buffer* trim() noexcept {
  free_buffer* result = nullptr;
  const std::int64_t now = kernel::coarse_now_ns();
  if (now < the_shelf.trim_again_ns) return result;
  the_shelf.trim_again_ns = now + trim_interval_ns;
  for (size_class& each : the_shelf.of) {
    for (std::uint32_t surplus = (each.least + 1) / 2; surplus > 0; --surplus) {
      free_buffer* const one = each.first;
      each.first = one->next;
      --each.count;
      the_shelf.kept_bytes -= one->bytes;
      one->next = result;
      result = one;
    }
    each.least = each.count;
    each.missed /= 2;
  }
  return result;
}

void unmap(free_buffer* first) noexcept {
  while (first != nullptr) {
    free_buffer* const following = first->next;
    kernel::unmap(first, first->bytes);
    first = following;
  }
}

}  // namespace

std::size_t capacity_for(std::size_t bytes) noexcept {
  if (bytes > largest_bytes) return memory::page_ceiling(bytes);
  return memory::page_ceiling(class_bytes(class_of(bytes)));
}

bool is_warm(std::size_t bytes) noexcept {
  if (bytes > largest_bytes) return false;
  bool result = false;
  free_buffer* unused = nullptr;
  {
    const std::lock_guard lock(the_shelf.mutex);
    unused = trim();
    const size_class& mine = the_shelf.of[class_of(bytes)];
    result = mine.first != nullptr || mine.missed > 0;
  }
  unmap(unused);
  return result;
}

void note_closed_mapping(std::size_t bytes) noexcept {
  constexpr std::uint32_t missed_max = 4;
  if (bytes > largest_bytes) return;
  const std::uint64_t limit = settings::instance().pool_bytes;
  free_buffer* unused = nullptr;
  {
    const std::lock_guard lock(the_shelf.mutex);
    unused = trim();
    size_class& mine = the_shelf.of[class_of(bytes)];
    if (the_shelf.kept_bytes + capacity_for(bytes) <= limit) mine.missed = std::min(mine.missed + 1, missed_max);
  }
  unmap(unused);
}

buffer take(std::size_t bytes) noexcept {
  const std::size_t capacity = capacity_for(bytes);
  if (bytes <= largest_bytes) {
    const std::size_t index = class_of(capacity);
    const std::lock_guard lock(the_shelf.mutex);
    size_class& mine = the_shelf.of[index];
    if (free_buffer* const one = mine.first) {
      mine.first = one->next;
      mine.least = std::min(mine.least, --mine.count);
      the_shelf.kept_bytes -= capacity;
      return {reinterpret_cast<std::byte*>(one), capacity};
    }
    if (mine.missed > 0) --mine.missed;
  }
  return {memory::map_private(capacity), capacity};
}

void give_back(buffer one) noexcept {
  free_buffer* unused = nullptr;
  bool kept = false;
  if (one.bytes <= largest_bytes && capacity_for(one.bytes) == one.bytes) {
    const std::uint64_t limit = settings::instance().pool_bytes;
    const std::lock_guard lock(the_shelf.mutex);
    if (the_shelf.kept_bytes + one.bytes <= limit) {
      size_class& mine = the_shelf.of[class_of(one.bytes)];
      mine.first = new (one.data) free_buffer{mine.first, one.bytes};
      ++mine.count;
      the_shelf.kept_bytes += one.bytes;
      kept = true;
    }
    unused = trim();
  }
  if (!kept) kernel::unmap(one.data, one.bytes);
  unmap(unused);
}

std::uint64_t kept_bytes() noexcept {
  const std::lock_guard lock(the_shelf.mutex);
  return the_shelf.kept_bytes;
}

void lock_for_fork() noexcept {
  the_shelf.mutex.lock();
}
void unlock_after_fork() noexcept {
  the_shelf.mutex.unlock();
}

}  // namespace stillmap::pool
