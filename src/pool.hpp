// SPDX-License-Identifier: Apache-2.0
//
// Recycled buffers for copies. A read into memory that was faulted in before costs a tenth of one into fresh
// pages (docs/design.md), so buffers are kept by size class, bounded in all by settings::pool_bytes, the last
// one given back being the first handed out again: its lines are the warm ones.
#pragma once

#include <cstddef>
#include <cstdint>

namespace stillmap::pool {

struct buffer {
  std::byte* data = nullptr;
  std::size_t bytes = 0;  // capacity
  explicit operator bool() const noexcept { return data != nullptr; }
};

// At least `bytes`, 64-byte aligned (pages, in fact). Contents are whatever they were. Empty where there is
// no memory. A buffer is the caller's alone until given back.
buffer take(std::size_t bytes) noexcept;
void give_back(buffer one) noexcept;

std::size_t capacity_for(std::size_t bytes) noexcept;

// Whether memory for a copy of so many bytes is worth having: a buffer waits, or would if a mapping of that size
// that was closed (`note_closed_mapping`) had been a copy. Each such mapping answers for one buffer, so that who
// opens a file once, or keeps all that it opens, never fills fresh memory, which costs several times a mapping.
bool is_warm(std::size_t bytes) noexcept;
void note_closed_mapping(std::size_t bytes) noexcept;

std::uint64_t kept_bytes() noexcept;  // in the pool now

void lock_for_fork() noexcept;
void unlock_after_fork() noexcept;

}  // namespace stillmap::pool
