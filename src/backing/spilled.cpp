// SPDX-License-Identifier: Apache-2.0
//
// spilled: a copy in a private temporary file instead of memory, for what is larger than the budget: the
// system may evict its pages, for they are on the disk. Every block is allocated before the first byte is
// read, and all is on the disk before the snapshot is handed out: a full disk is an error of the open, not a
// SIGBUS of a later access.
#include <errno.h>

#include "backing/copying.hpp"
#include "files_thread.hpp"
#include "linux/kernel.hpp"
#include "private_file.hpp"

namespace stillmap {
namespace {

private_file::source source_of(const opening& from) noexcept {
  return {from.fd(), from.known.at_open.device, from.known.at_open.inode};
}

taking no_room(long error) noexcept {
  switch (-error) {
    case ENOSPC:
    case EDQUOT:
      return {error_of(error), "no room for a private temporary file"};
    case EACCES:
      return {error_of(error),
              "no folder where a private temporary file could be made (see $STILLMAP_TMPDIR)"};
    default:
      return {error_of(error), "the private temporary file"};
  }
}

void drop(held& into) noexcept {
  if (into.mapped != nullptr) kernel::unmap(std::exchange(into.mapped, nullptr), into.mapped_bytes);
  into.mapped_bytes = 0;
}

taking shape(const opening& from, held& into, std::size_t needed) noexcept {
  if (into.mapped_bytes >= needed) return {};
  drop(into);
  long error = 0;
  mapping file = private_file::map_spill(source_of(from), needed, nullptr, error);
  if (error != 0) return no_room(error);
  into.mapped_bytes = file.bytes();
  into.mapped = file.release();
  return {};
}

taking settle(held& into) noexcept {
  const long error = private_file::settle_spill(into.mapped, into.mapped_bytes);
  return error == 0 ? taking{} : no_room(error);
}

constexpr destination private_file_{shape, drop, settle, true};

// Begins with what came before the budget was met.
taking take_stream(opening& from, held& into) noexcept {
  const request& wanted = from.wanted;
  const std::uint64_t enough = enough_of(wanted);
  const int thread = kernel::thread();
  taking result{EAGAIN, "no thread for the private temporary file"};
  std::size_t used = from.arrived_bytes;
  files_thread::run([&]() noexcept {
    const descriptor stream(static_cast<int>(files_thread::descriptor_of(from.fd(), thread)));
    if (!stream) {
      result = {EBADF, "the stream could not be handed to the thread that writes the temporary file"};
      return;
    }
    private_file::growing file(stream.get());
    for (bool ended = false; !ended && used < enough;) {
      if (const long full = file.grow(used + wanted.padding + 1); full != 0) {
        result = no_room(full);
        return;
      }
      if (from.arrived_bytes > 0) {
        for (std::size_t done = 0; done < from.arrived_bytes;) {
          const long got = kernel::copy_own(file.data() + done, from.arrived.data + done,
                                            from.arrived_bytes - done);
          if (got <= 0) {
            result = {EIO, "the private temporary file could not be written"};
            return;
          }
          done += static_cast<std::size_t>(got);
        }
        from.drop_arrived();
      }
      const std::size_t limit = std::min<std::uint64_t>(file.room() - wanted.padding, enough);
      result = read_on(stream.get(), file.data(), limit, used, ended);
      if (result.error != 0) return;
    }
    mapping all = file.take(used + wanted.padding);
    into.mapped_bytes = all.bytes();
    into.mapped = all.release();
    result = {};
  });
  from.drop_arrived();
  return result.error != 0 ? result : finish_stream(from, into, used, private_file_);
}

taking take(opening& from, held& into) noexcept {
  if (from.known.kind != file_kind::regular) return take_stream(from, into);
  const taking result = copy_sized(from, into, private_file_);
  std::byte* const place = from.wanted.place;
  if (result.error != 0 || place == nullptr) return result;
  if (kernel::failed(kernel::move_over(into.mapped, into.mapped_bytes, place)))
    return drop(into), taking{ENOMEM, "no room for the mapping"};
  into.data = place;
  into.mapped = nullptr;  // the caller's to unmap
  into.mapped_bytes = 0;
  return result;
}

void release(held& one) noexcept {
  drop(one);
}
still_state current(const held&) noexcept {
  return STILL_PRIVATE;
}
std::uint64_t private_bytes(const held&) noexcept {
  return 0;  // of the page cache, which gives it up when asked
}

}  // namespace

const way spilled_way{take, release, current, private_bytes};

}  // namespace stillmap
