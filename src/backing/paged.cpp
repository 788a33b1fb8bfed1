// SPDX-License-Identifier: Apache-2.0
//
// paged: private memory whose pages are read from the file when they are first touched, and never again
// (userfaultfd; src/pager). For files too large to copy where nothing else is to be had: a page once
// observed does not change, yet each comes from its own instant.
//
//   | page | page | ... | page |  rest of the range, zeros | zeros ... |
//   '---- fetched at a touch ---'------- read at the open -------------'
//
// What cannot be read when it is touched, for an error or because the file ends before it by now, is lost: an
// access faults. So does a page that a new end of the file cuts: its tail would be zeros that no file had.
#include <errno.h>

#include <algorithm>

#include "backing/backing.hpp"
#include "memory.hpp"
#include "pager/pager.hpp"

namespace stillmap {
namespace {

struct shape {
  std::size_t lead = 0;
  std::size_t paged_bytes = 0, tail_bytes = 0;
  std::size_t rest = 0;  // bytes of the file in the tail
};

shape shape_of(const request& wanted, std::uint64_t length) noexcept {
  shape result;
  result.lead = wanted.offset & (memory::page_bytes() - 1);
  const std::size_t span = result.lead + length;
  result.paged_bytes = memory::page_floor(span);
  result.tail_bytes = memory::page_ceiling(span + wanted.padding) - result.paged_bytes;
  result.rest = span - result.paged_bytes;
  return result;
}

const char* reason_of(long error) noexcept {
  switch (-error) {
    case ENOSYS:
    case EPERM:
    case EINVAL:
    case EACCES:
      return "userfaultfd is refused here: a seccomp profile, or a kernel without it";
    case EAGAIN:
      return "the pager's threads could not be started";
    default:
      return "the memory could not be set up";
  }
}

int interface_error(long error) noexcept {
  const bool refused = error == -ENOSYS || error == -EPERM || error == -EINVAL || error == -EACCES;
  return refused ? int{STILL_ERROR_UNSUPPORTED} : error_of(error);
}

// What is not whole pages of the file is read now.
taking fill_tail(const opening& from, const shape& how, std::byte* tail) noexcept {
  const std::uint64_t offset = from.wanted.offset - how.lead + how.paged_bytes;
  std::size_t done = 0;
  if (const long error = kernel::pread(from.fd(), tail, how.rest, offset, done); error != 0)
    return {error_of(error), "read"};
  if (done != how.rest) return {ERANGE, "the file became shorter"};
  return {};
}

taking take_once(opening& from, held& into) noexcept {
  into.region = nullptr;
  const request& wanted = from.wanted;
  std::uint64_t length = 0;
  if (const int error = range_of(wanted, from.known.at_open.size, length)) return {error};
  const shape how = shape_of(wanted, length);
  into.size = length;
  into.when = STILL_TORN;
  into.taken = from.known.at_open;
  if (how.paged_bytes + how.tail_bytes == 0) {
    into.data = memory::zeros();
    return {};
  }
  const std::size_t bytes = how.paged_bytes + how.tail_bytes;
  const long address = kernel::map(nullptr, bytes, PROT_READ | PROT_WRITE,
                                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (kernel::failed(address)) return {error_of(address), "mmap"};
  mapping memory(reinterpret_cast<std::byte*>(address), bytes);
  if (const taking tail = fill_tail(from, how, memory.data() + how.paged_bytes); tail.error != 0) return tail;
  if (const long error = kernel::protect(memory.data(), bytes, PROT_READ); error != 0)
    return {error_of(error), "mprotect"};
  if (how.paged_bytes > 0) {
    const pager::terms asked{from.fd(),     from.known.at_open.device,     from.known.at_open.inode,
                             memory.data(), how.paged_bytes,               wanted.offset - how.lead,
                             wanted.access, wanted.fork == STILL_FORK_CARRY};
    if (const long error = pager::open(asked, into.region); error != 0)
      return {interface_error(error), reason_of(error)};
    if (wanted.populate) pager::populate(*into.region, 0, how.paged_bytes);
  }
  into.data = memory.data() + how.lead;
  into.mapped_bytes = bytes;
  into.mapped = memory.release();
  into.charged_bytes = how.tail_bytes;
  memory::charge_always(how.tail_bytes);
  return {};
}

// A file that became shorter since it was looked at: as it is now, unless a length was named.
taking take(opening& from, held& into) noexcept {
  constexpr int attempts_max = 50;
  for (int i = 1;; ++i) {
    const taking result = take_once(from, into);
    if (result.error != ERANGE || from.wanted.length != 0 || i == attempts_max) return result;
    into = {};
    if (const long error = read_stamps(from.fd(), nullptr, from.known.at_open); error != 0)
      return {error_of(error), "statx"};
  }
}

void release(held& one) noexcept {
  const std::size_t paged_bytes = one.mapped_bytes - one.charged_bytes;
  if (one.region != nullptr) pager::close(one.region);
  if (one.charged_bytes > 0) kernel::unmap(one.mapped + paged_bytes, one.charged_bytes);
  memory::discharge(one.charged_bytes);
}

std::uint64_t lost_bytes(const held& one) noexcept {
  return one.region != nullptr ? pager::lost_bytes(*one.region) : 0;
}

// Memory of our own from the start: the file's pages are never what is read.
still_state current(const held& one) noexcept {
  return lost_bytes(one) != 0 ? STILL_LOST : STILL_PRIVATE;
}

std::uint64_t private_bytes(const held& one) noexcept {
  return one.charged_bytes + (one.region != nullptr ? pager::fetched_bytes(*one.region) : 0);
}

taking advise(held& one, std::uint64_t offset, std::uint64_t length, int advice) noexcept {
  if (one.region == nullptr) return {};
  const auto begin = static_cast<std::size_t>(one.data - one.mapped) + offset;
  switch (advice) {
    case STILL_ADVISE_SEQUENTIAL:
      pager::expect(*one.region, STILL_ACCESS_SEQUENTIAL);
      return {};
    case STILL_ADVISE_RANDOM:
      pager::expect(*one.region, STILL_ACCESS_RANDOM);
      return {};
    case STILL_ADVISE_WILLNEED:
      pager::read_ahead(*one.region, begin, length);
      return {};
    case STILL_ADVISE_POPULATE:
      if (pager::populate(*one.region, begin, length) != 0)
        return {STILL_ERROR_LOST, "some of it cannot be read any more"};
      return {};
    default:  // huge pages are not what pages are fetched into
      return {};
  }
}

}  // namespace

const way paged_way{take, release, current, private_bytes, advise, lost_bytes};

}  // namespace stillmap
