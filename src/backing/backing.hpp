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

// What a way of holding hands back. In the order that takes the least room: there may be many.
struct held {
  const std::byte* data = nullptr;
  std::size_t size = 0;
  stamps taken;  // of the file, as it was when the bytes were taken

  // A buffer of the pool; pages of the file, of its clone, of a spill.
  std::byte* mapped = nullptr;
  std::size_t mapped_bytes = 0;     // 0: at a given place, another's to unmap
  std::uint64_t charged_bytes = 0;  // of the memory budget
  union {
    warden::hold* hold = nullptr;  // leased
    pager::region* region;         // paged; in `mapped`, nullptr where that is all tail
    std::int64_t lock_mark;        // cooperative: the offset of lock_fd, which tells that it is ours
  };
  int lock_fd = -1;  // cooperative: bears the locks
  still_consistency when : 8 = STILL_TORN;
  bool stamped = false;  // `taken` belongs to these very bytes
};

// What one open works on.
struct opening {
  descriptor file;     // ours: opened by us, or opened anew; empty where that could not be done
  int caller_fd = -1;  // the caller's, where it was opened by descriptor
  facts known;
  const request& wanted;
  plan chosen;
  bool once = false;  // a copy is to be tried in the way that comes first, and in no other

  pool::buffer arrived;  // of a stream, what came before a copy of it met the budget: it comes once
  std::size_t arrived_bytes = 0;

  explicit opening(const request& asked) noexcept : wanted(asked) {}
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

// A descriptor of our own for another's file: a duplicate would share its offset, signal and lease. 0 or -errno.
long open_anew(int fd, const facts& known, descriptor& into) noexcept;

// Where the range ends, given the size that the file has now. 0, ERANGE or EOVERFLOW.
int range_of(const request& wanted, std::uint64_t file_bytes, std::uint64_t& length) noexcept;

// errno values as the interface's error numbers.
inline int error_of(long result) noexcept {
  return static_cast<int>(-result);
}

}  // namespace stillmap
