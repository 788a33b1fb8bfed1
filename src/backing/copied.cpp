// SPDX-License-Identifier: Apache-2.0
//
// copied: the bytes are read into recycled private memory. For small files this is cheaper than a mapping,
// and it works where nothing else does.
#include <errno.h>

#include <algorithm>
#include <cstring>

#include "backing/copying.hpp"
#include "memory.hpp"

namespace stillmap {
namespace {

void drop(held& into) noexcept {
  const pool::buffer recycled{std::exchange(into.mapped, nullptr), std::exchange(into.mapped_bytes, 0)};
  if (recycled.bytes > 0) pool::give_back(recycled);
  memory::discharge(std::exchange(into.charged_bytes, 0));
}

taking shape(const opening& from, held& into, std::size_t needed) noexcept {
  if (into.mapped_bytes >= needed) return {};
  drop(into);
  // A snapshot's own budget is for its bytes; the process's for what is really taken.
  const std::size_t capacity = pool::capacity_for(needed);
  if (needed - from.wanted.padding > from.wanted.memory_budget || !memory::charge(capacity, UINT64_MAX))
    return {STILL_ERROR_OVER_BUDGET, "the copy would need more private memory than memory_budget allows"};
  into.charged_bytes = capacity;
  const pool::buffer recycled = pool::take(needed);
  if (!recycled) return {ENOMEM, "no memory for the copy"};
  into.mapped = recycled.data;
  into.mapped_bytes = recycled.bytes;
  return {};
}

constexpr destination recycled{shape, drop, nullptr, false};

// Pages that the caller has laid out: they are fresh, and there for one copy.
taking shape_placed(const opening& from, held& into, std::size_t needed) noexcept {
  constexpr std::size_t huge_bytes = std::size_t{2} << 20;
  if (into.mapped != nullptr) return {};
  const std::size_t whole = memory::page_ceiling(needed);
  if (!memory::charge(whole, from.wanted.memory_budget))
    return {STILL_ERROR_OVER_BUDGET, "the copy would need more private memory than memory_budget allows"};
  into.charged_bytes = whole;
  into.mapped = from.wanted.place;
  if (whole >= huge_bytes) kernel::advise(into.mapped, whole, MADV_HUGEPAGE);
  return {};
}
void drop_placed(held& into) noexcept {
  if (into.mapped != nullptr) kernel::advise(into.mapped, into.charged_bytes, MADV_DONTNEED);
  drop(into);
}

constexpr destination placed{shape_placed, drop_placed, nullptr, false, true};

// What has no size: to its end, or as far as the range reaches. Over budget, what came so far is left for the
// next way.
taking take_stream(opening& from, held& into) noexcept {
  const request& wanted = from.wanted;
  const std::uint64_t enough = enough_of(wanted);
  std::size_t used = 0, room = 64 * 1024;
  for (bool ended = false; !ended && used < enough; room = used * 2) {
    held bigger;
    if (const taking none = shape(from, bigger, room + wanted.padding); none.error != 0) {
      drop(bigger);
      from.arrived_bytes = used;
      from.arrived = {into.mapped, into.mapped_bytes};
      into = {};
      return none;
    }
    if (used > 0) std::memcpy(bigger.mapped, into.mapped, used);
    drop(into);
    into = bigger;
    room = into.mapped_bytes - wanted.padding;
    const std::size_t limit = std::min<std::uint64_t>(room, enough);
    if (const taking failed = read_on(from.fd(), into.mapped, limit, used, ended); failed.error != 0) {
      drop(into);
      return failed;
    }
  }
  return finish_stream(from, into, used, recycled);
}

taking take(opening& from, held& into) noexcept {
  if (from.known.kind != file_kind::regular) return take_stream(from, into);
  return copy_sized(from, into, from.wanted.place != nullptr ? placed : recycled);
}

void release(held& one) noexcept {
  drop(one);
}
still_state current(const held&) noexcept {
  return STILL_PRIVATE;
}
std::uint64_t private_bytes(const held& one) noexcept {
  return one.charged_bytes;
}

}  // namespace

void opening::drop_arrived() noexcept {
  if (arrived.bytes > 0) pool::give_back(arrived);
  memory::discharge(arrived.bytes);
  arrived = {};
  arrived_bytes = 0;
}

// The bytes are there already, in memory shared with the pool: there is nothing to advise.
const way copied_way{take, release, current, private_bytes, advise_nothing};

}  // namespace stillmap
