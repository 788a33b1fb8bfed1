// SPDX-License-Identifier: Apache-2.0
//
// Memory kept ready for detaches. Fresh pages must be found and cleared before they can be filled, which costs
// more than the copy itself, and a writer waits for both. So the memory of a detached snapshot is kept when the
// snapshot is closed, and the next detach is filled at the speed of reading the source.
//
// Bounded: 64 MiB of what comes back, or still_settings::reserve_bytes, of which all is made ready beforehand
// while a lease is live. Given back to the system when there is no lease any more, and when the machine is
// short of memory. Not part of the memory budget: a detach that takes from here is charged as any other. Not
// inherited by fork (MADV_DONTFORK): a child would make each page's next use a copy.
#pragma once

#include <cstddef>
#include <cstdint>

namespace stillmap::reserve {

// Anonymous memory like memory::map_congruent's, not inherited by fork; from the reserve where that has a piece
// large enough, which holds whatever it held before. Never waits: without the reserve where another thread is
// in it. nullptr: none to be had.
std::byte* take(std::size_t bytes, const std::byte* like) noexcept;

// Takes over memory that nobody uses any more, readable or writable, anonymous and private; unmaps what it
// will not keep.
void give_back(std::byte* address, std::size_t bytes) noexcept;

// Whether `tend` would have something to do: cheap, for the keeper.
bool wants_tending() noexcept;
// Makes ready what was configured, or gives all up where the machine is short of memory. Takes long.
void tend() noexcept;
// Back to the system. From now on nothing is kept, until `open`.
void shut() noexcept;
void open() noexcept;

std::uint64_t kept_bytes() noexcept;

void lock_for_fork() noexcept;
void unlock_after_fork() noexcept;
void forget_after_fork() noexcept;  // in the child, still locked: what it held is not there

}  // namespace stillmap::reserve
