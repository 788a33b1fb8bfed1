// SPDX-License-Identifier: Apache-2.0
//
// cloned: a reflink of the file, without a name, mapped. The file system copies on write, so writers neither
// wait nor matter. Nothing of the file is read; what was dirty is written back first, and the clone's pages
// are not in the page cache yet.
#include <errno.h>

#include "backing/mapped.hpp"
#include "private_file.hpp"

namespace stillmap {
namespace {

taking take(opening& from, held& into) noexcept {
  const private_file::source whose{from.fd(), from.known.at_open.device, from.known.at_open.inode};
  taking result{EAGAIN, "no thread for the clone"};
  stamps before;
  if (const long bad = read_stamps(from.fd(), nullptr, before); bad != 0) return {error_of(bad), "statx"};
  const long error = private_file::with_clone(whose, [&](int fd) noexcept {
    stamps copy;
    if (const long bad = read_stamps(fd, nullptr, copy); bad != 0) return bad;
    from.known.at_open.size = copy.size;  // the file's may be another by now
    result = map_as_it_is(from, fd, into);
    return 0L;
  });
  // Cloning writes back, and so write-protects, whatever was dirty: a later store moves the stamps. As with
  // copies, a fault that was under way is waited for by age.
  stamps after;
  into.stamped = error == 0 && read_stamps(from.fd(), nullptr, after) == 0 && after == before &&
                 kernel::wall_now_ns() - after.change_ns > fault_max_ns;
  into.taken = into.stamped ? before : from.known.at_open;
  into.when = STILL_POINT_IN_TIME;
  switch (-error) {
    case 0:
      return result;
    case EOPNOTSUPP:
    case EINVAL:
      return {STILL_ERROR_UNSUPPORTED, "the file system cannot clone this file"};
    case EXDEV:
    case EACCES:
      return {error_of(error),
              "no folder of the same file system where a clone could be made (see $STILLMAP_TMPDIR)"};
    default:
      return {error_of(error), "the clone could not be made"};
  }
}

}  // namespace

const way cloned_way{take, release_mapping, private_for_ever, tail_alone};

}  // namespace stillmap
