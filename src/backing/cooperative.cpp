// SPDX-License-Identifier: Apache-2.0
//
// cooperative: the file's own pages while shared advisory locks are held on the whole file. Who takes an
// exclusive lock before writing waits until the snapshot is closed; who takes none is not kept from anything.
// Only by name.
//
// flock(2) and fcntl(2) locks do not know of each other on a local file system, so both are taken, and a peer
// may use either. The fcntl one is of the open file description (F_OFD_SETLK): unlike a POSIX lock it does
// not vanish when somebody in this process closes another descriptor of the file.
#include <errno.h>

#include "backing/mapped.hpp"
#include "warden/warden.hpp"

namespace stillmap {
namespace {

taking take(opening& from, held& into) noexcept {
  const int fd = from.file.get();
  const long error = kernel::lock_shared(fd);
  if (error == -EAGAIN || error == -EACCES)
    return {STILL_ERROR_BUSY_WRITER, "an exclusive advisory lock is held on it"};
  if (error != 0) return {error_of(error), "the advisory locks could not be taken"};
  // The lock's last holder may have made it another size.
  if (const long bad = read_stamps(fd, nullptr, from.known.at_open); bad != 0)
    return {error_of(bad), "statx"};
  into.when = STILL_TORN;
  if (const taking mapped = map_as_it_is(from, fd, into); mapped.error != 0) return mapped;
  // An application that closes every descriptor takes the locks with it; the number may be another's then.
  into.lock_mark = warden::next_mark();
  kernel::seek(fd, into.lock_mark);
  into.lock_fd = from.file.release();
  return {};
}

// Closing releases the locks; a forked child that shares the open file description keeps them until it closes
// its own share, execs or ends.
void release(held& one) noexcept {
  release_mapping(one);
  if (warden::is_marked(one.lock_fd, one.lock_mark, one.taken.device, one.taken.inode))
    kernel::close(one.lock_fd);
}

}  // namespace

const way cooperative_way{take, release, shared_for_ever, tail_alone};

}  // namespace stillmap
