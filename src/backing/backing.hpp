// SPDX-License-Identifier: Apache-2.0
//
// The interface that every way of holding still stands behind: take the bytes, say how they stand, let them
// go. One file a way; which one is taken is choice.hpp's to say.
#pragma once

#include <stillmap/stillmap.h>

#include "choice.hpp"
#include "linux/descriptor.hpp"
#include "pool.hpp"
#include "source.hpp"
#include "warden/table.hpp"

namespace stillmap {

namespace pager {
struct region;
}

// What a way of holding hands back. One of the owners is in use.
struct held {
  const std::byte* data = nullptr;
  std::size_t size = 0;
  still_consistency when = STILL_TORN;
  stamps taken;          // of the file, as it was when the bytes were taken
  bool stamped = false;  // `taken` belongs to these very bytes

  pool::buffer buffer;          // copied
  std::byte* mapped = nullptr;  // pages of the file, of its clone, of a spill
  std::size_t mapped_bytes = 0;
  warden::hold* hold = nullptr;     // leased
  std::uint64_t charged_bytes = 0;  // of the memory budget
  int lock_fd = -1;                 // cooperative: bears the locks
  std::int64_t lock_mark = 0;       // ... and this offset, which tells that it is ours
  pager::region* region = nullptr;  // paged; in `mapped`, nullptr where that is all tail
};

// What one open works on.
struct opening {
  descriptor file;     // ours: opened by us, or opened anew; empty where that could not be done
  int caller_fd = -1;  // the caller's, where it was opened by descriptor
  facts known;
  request wanted;
  plan chosen;

  held arrived;  // of a stream, what came before a copy of it met the budget: it comes once
  std::size_t arrived_bytes = 0;

  opening() = default;
  ~opening() { drop_arrived(); }
  void drop_arrived() noexcept;
  int fd() const noexcept { return file ? file.get() : caller_fd; }
};

// 0, or an error number of the interface with its reason.
struct taking {
  int error = 0;
  const char* reason = nullptr;  // nullptr: the plan's own
};

// madvise(2) with a STILL_ADVISE_..., on [offset, offset + length) of the data: for what is mapped. Only
// POPULATE fails.
taking advise_memory(held& one, std::uint64_t offset, std::uint64_t length, int advice) noexcept;
taking advise_nothing(held& one, std::uint64_t offset, std::uint64_t length, int advice) noexcept;
std::uint64_t nothing_lost(const held& one) noexcept;
int nothing_to_detach(held& one) noexcept;

struct way {
  taking (*take)(opening& from, held& into) noexcept;
  void (*release)(held& one) noexcept;
  still_state (*current)(const held& one) noexcept;
  std::uint64_t (*private_bytes)(const held& one) noexcept;
  taking (*advise)(held& one, std::uint64_t offset, std::uint64_t length, int advice) noexcept = advise_memory;
  std::uint64_t (*lost_bytes)(const held& one) noexcept = nothing_lost;
  int (*detach)(held& one) noexcept = nothing_to_detach;
};

extern const way sealed_way, leased_way, cloned_way, copied_way, spilled_way, paged_way, cooperative_way,
    trusted_way;

// A page fault that is under way for longer than this is not reckoned with.
constexpr std::int64_t fault_max_ns = 10'000'000'000;

// A descriptor of our own for another's file: a duplicate would share its offset, signal and lease. 0 or -errno.
long open_anew(int fd, const facts& known, descriptor& into) noexcept;

// Where the range ends, given the size that the file has now. 0, ERANGE or EOVERFLOW.
int range_of(const request& wanted, std::uint64_t file_bytes, std::uint64_t& length) noexcept;

// errno values as the interface's error numbers.
inline int error_of(long result) noexcept {
  return static_cast<int>(-result);
}

}  // namespace stillmap
