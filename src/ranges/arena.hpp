// SPDX-License-Identifier: Apache-2.0
//
// Where small mappings get their bytes. Fresh pages cost a fault each and are cleared before they are filled,
// many times what a mapping of the file itself costs; and what a program unmaps cannot be kept at its address.
// So copies lie in recycled pages of a memory file that is mapped twice: once for us to write, and once for
// reading only, of which each snapshot gets a duplicate of its slot (mremap(2), old size 0). Unmapping that
// leaves the page, warm, to the next.
//
// The duplicates are left out of a child made by a raw clone (MADV_DONTFORK, which they inherit): it would see
// the slot's next bytes. The arena itself is not there either, and another mapping of the child's may be: a page
// that the kernel wipes for it (MADV_WIPEONFORK) says so, and the child begins anew. fork(2) retires the arena
// first: nothing in it is ever used again, and the memory goes with the last duplicate.
//
// Everything here is for whoever holds the tree (`changing`).
#pragma once

#include <cstddef>
#include <cstdint>

namespace stillmap::ranges::arena {

struct slot {
  std::byte* bytes = nullptr;  // to be written until it is given back
  std::uint32_t age = 0;       // of the arena that it belongs to
  explicit operator bool() const noexcept { return bytes != nullptr; }
};

constexpr std::size_t largest_bytes = std::size_t{512} << 10;

slot take(std::size_t bytes) noexcept;  // whole pages; empty: there is none
// Once for each slot taken: its bytes are there, or will never be. Until then nothing may be retired, lest
// something else lie where they are written.
void filled() noexcept;
bool is_being_filled() noexcept;
// Read-only pages of the slot at an address of the kernel's choice, or -errno.
long duplicate(const slot& one, std::size_t bytes) noexcept;
void give_back(const slot& one, std::size_t bytes) noexcept;  // no duplicate of it is left
void forget(std::size_t bytes) noexcept;                      // ... or one may be, somewhere: never used again
void retire() noexcept;  // while nothing is being filled

}  // namespace stillmap::ranges::arena
