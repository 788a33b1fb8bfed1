// SPDX-License-Identifier: Apache-2.0
#include "ranges/arena.hpp"

#include <errno.h>

#include <bit>

#include "linux/kernel.hpp"
#include "memory.hpp"

namespace stillmap::ranges::arena {
namespace {

constexpr std::size_t room_bytes = std::size_t{16} << 20;
// Of one to sixteen pages, then doubling.
constexpr std::size_t exact_pages = 16, classes = exact_pages + 8;

struct free_slot {
  free_slot* next;
};

struct state {
  std::byte* here = nullptr;  // a page that says 1; 0 in a child that did not pass our handlers
  std::byte* writable = nullptr;
  std::byte* readable = nullptr;
  std::size_t used = 0;      // from the front: handed out once at least
  std::size_t forgotten = 0;
  std::uint32_t filling = 0;
  std::uint32_t age = 0;
  bool refused = false;  // no memory file is to be had
  free_slot* free[classes] = {};
};
constinit state the;

std::size_t class_of(std::size_t pages) noexcept {
  return pages <= exact_pages ? pages - 1
                              : exact_pages - 5 + static_cast<std::size_t>(std::bit_width(pages - 1));
}
std::size_t pages_of(std::size_t index) noexcept {
  return index < exact_pages ? index + 1 : std::size_t{1} << (index + 5 - exact_pages);
}
std::size_t class_for(std::size_t bytes) noexcept {
  return class_of(bytes / memory::page_bytes());
}

// What is left of an arena that is of no use, or not there: its age, so that its slots are known for old.
void begin_anew() noexcept {
  state next;
  next.here = the.here;
  next.age = the.age + 1;
  next.refused = the.refused;
  the = next;
}

// In the child of a raw clone nothing of ours is mapped, and something else may be.
void notice_a_clone() noexcept {
  if (the.here == nullptr || *the.here != std::byte{0}) return;
  begin_anew();
  *the.here = std::byte{1};
}

bool begin_watching() noexcept {
  if (the.here != nullptr) return true;
  const std::size_t bytes = memory::page_bytes();
  const long page = kernel::map(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (kernel::failed(page)) return false;
  if (kernel::advise(reinterpret_cast<void*>(page), bytes, MADV_WIPEONFORK) != 0) {
    kernel::unmap(reinterpret_cast<void*>(page), bytes);
    return false;
  }
  the.here = reinterpret_cast<std::byte*>(page);
  *the.here = std::byte{1};
  return true;
}

void unmap_both() noexcept {
  if (the.writable != nullptr) kernel::unmap(the.writable, room_bytes);
  if (the.readable != nullptr) kernel::unmap(the.readable, room_bytes);
}

bool begin() noexcept {
  notice_a_clone();
  if (the.writable != nullptr) return true;
  if (the.refused) return false;
  the.refused = true;  // unless all of it works
  if (!begin_watching()) return false;
  const long fd = kernel::memory_file(room_bytes);
  if (kernel::failed(fd)) return false;
  const int file = static_cast<int>(fd);
  const auto map = [&](int protection) -> std::byte* {
    const long at = kernel::map(nullptr, room_bytes, protection, MAP_SHARED | MAP_NORESERVE, file, 0);
    return kernel::failed(at) ? nullptr : reinterpret_cast<std::byte*>(at);
  };
  the.writable = map(PROT_READ | PROT_WRITE);
  the.readable = map(PROT_READ);
  kernel::close(file);
  if (the.writable != nullptr && the.readable != nullptr &&
      kernel::advise(the.writable, room_bytes, MADV_DONTFORK) == 0 &&
      kernel::advise(the.readable, room_bytes, MADV_DONTFORK) == 0) {
    the.refused = false;
    return true;
  }
  unmap_both();
  the.writable = the.readable = nullptr;
  return false;
}

}  // namespace

slot take(std::size_t bytes) noexcept {
  if (bytes == 0 || bytes > largest_bytes || !begin()) return {};
  const std::size_t index = class_for(bytes);
  if (free_slot* const one = the.free[index]) {
    the.free[index] = one->next;
    ++the.filling;
    return {reinterpret_cast<std::byte*>(one), the.age};
  }
  const std::size_t room = pages_of(index) * memory::page_bytes();
  if (room > room_bytes - the.used) return {};
  std::byte* const fresh = the.writable + the.used;
  the.used += room;
  ++the.filling;
  return {fresh, the.age};
}

void filled() noexcept {
  --the.filling;
}
bool is_being_filled() noexcept {
  return the.filling != 0;
}

long duplicate(const slot& one, std::size_t bytes) noexcept {
  return kernel::remap(the.readable + (one.bytes - the.writable), 0, bytes, MREMAP_MAYMOVE, nullptr);
}

void give_back(const slot& one, std::size_t bytes) noexcept {
  notice_a_clone();
  if (one.age != the.age) return;  // retired since
  free_slot* const freed = reinterpret_cast<free_slot*>(one.bytes);
  const std::size_t index = class_for(bytes);
  freed->next = the.free[index];
  the.free[index] = freed;
}

void forget(std::size_t bytes) noexcept {
  notice_a_clone();
  the.forgotten += bytes;
  if (the.forgotten > room_bytes / 2 && the.filling == 0) retire();
}

void retire() noexcept {
  notice_a_clone();
  unmap_both();
  begin_anew();
}

}  // namespace stillmap::ranges::arena
