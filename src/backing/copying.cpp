// SPDX-License-Identifier: Apache-2.0
#include "backing/copying.hpp"

#include <errno.h>

#include <algorithm>
#include <cstring>
#include <limits>

#include "memory.hpp"
#include "pool.hpp"
#include "warden/warden.hpp"

namespace stillmap {
namespace {

constexpr int attempts_max = 8;  // a file rewritten without pause is left alone after that
constexpr int attempts_few = 2;  // ... sooner where a torn copy will do, or each takes seconds
// Two ticks at 100 Hz: a stamp younger than that proves nothing before multigrain stamps (Linux 6.13).
constexpr std::int64_t stamp_grain_ns = 20'000'000;

// Zeros behind the last byte. A store into a spill could meet a full disk after all: the kernel's copy says
// so, ours would die.
bool pad(held& into, std::size_t length, std::uint32_t padding, const destination& to) noexcept {
  if (to.zeroed) return true;
  std::byte* const end = into.mapped + length;
  if (!to.in_file) {
    std::memset(end, 0, padding);
    return true;
  }
  for (std::size_t done = 0; done < padding;) {
    const long got = kernel::copy_own(end + done, memory::zeros(),
                                      std::min<std::size_t>(padding - done, memory::zeros_bytes));
    if (got <= 0) return false;
    done += static_cast<std::size_t>(got);
  }
  return true;
}

// One attempt at a file with a size.
enum class attempt : std::uint8_t { taken, changed, no_lease, failed };

struct copier {
  opening& from;
  held& into;
  const destination& to;
  taking error;
  std::size_t done = 0;
  taking lease_obstacle = {};  // why there is no lease

  attempt fails(taking what) noexcept {
    error = what;
    return attempt::failed;
  }

  // Reads the range of a file that has `file_bytes` now. `changed`: it was shorter than that.
  attempt read(std::uint64_t file_bytes) noexcept {
    std::uint64_t length = 0;
    if (const int bad = range_of(from.wanted, file_bytes, length))
      return fails({bad, "the file became shorter"});
    if (const taking none = to.shape(from, into, length + from.wanted.padding); none.error != 0)
      return fails(none);
    if (const long bad = kernel::pread(from.fd(), into.mapped, length, from.wanted.offset, done);
        bad != 0)
      return fails({error_of(bad), "read"});
    return done == length ? attempt::taken : attempt::changed;
  }

  // Reads what was read before once more, a piece at a time, and compares.
  attempt reads_the_same() noexcept {
    constexpr std::size_t piece_bytes = std::size_t{256} << 10;
    if (done == 0) return attempt::taken;
    const pool::buffer piece = pool::take(std::min(done, piece_bytes));
    if (!piece) return fails({ENOMEM, "no memory for the copy"});
    attempt result = attempt::taken;
    for (std::size_t at = 0; at < done && result == attempt::taken;) {
      const std::size_t wanted = std::min(done - at, piece_bytes);
      std::size_t got = 0;
      if (kernel::pread(from.fd(), piece.data, wanted, from.wanted.offset + at, got) != 0 || got != wanted ||
          std::memcmp(piece.data, into.mapped + at, wanted) != 0)
        result = attempt::changed;
      at += wanted;
    }
    pool::give_back(piece);
    return result;
  }

  attempt without_lease(taking why) noexcept {
    lease_obstacle = why;
    return attempt::no_lease;
  }

  attempt under_lease() noexcept {
    const int fd = from.fd();
    const pid_t keeper = warden::keeper();
    if (keeper == 0) return without_lease({ENOMEM, "no lease: the warden's threads could not be started"});
    long refused = kernel::owner_set(fd, keeper);
    if (refused == 0) refused = kernel::lease_set(fd, F_RDLCK);
    if (refused == -EAGAIN)
      return without_lease({STILL_ERROR_BUSY_WRITER, "no lease: somebody has it open for writing"});
    if (refused != 0)
      return without_lease({STILL_ERROR_UNSUPPORTED, "no lease: refused (see fs.leases-enable)"});
    attempt result = attempt::changed;
    if (read_stamps(fd, nullptr, into.taken) == 0) result = read(into.taken.size);
    // 0 proves that the lease stood until now; EAGAIN, that a writer was let through meanwhile. A change of
    // user under our feet (EACCES) proves nothing, and only the close ends the lease then.
    const bool stood = kernel::lease_set(fd, F_UNLCK) == 0;
    if (result == attempt::taken && !stood) return attempt::changed;
    if (result == attempt::taken) into.when = STILL_POINT_IN_TIME;
    return result;
  }

  // For a write that is under way, and moved the stamps at its start. It holds the inode lock, which SEEK_DATA
  // takes. On XFS it is the read that takes the lock.
  bool waits_for_a_write(std::int64_t offset = 0) noexcept {
    if (from.known.system == file_system::xfs) return true;
    const long found = kernel::seek_data(from.fd(), offset);
    return found >= 0 || found == -ENXIO;
  }

  attempt between_stamps() noexcept {
    const int fd = from.fd();
    stamps before, after;
    if (const long bad = read_stamps(fd, nullptr, before); bad != 0) return fails({error_of(bad), "statx"});
    if (!from.chosen.stamps_are_fine && kernel::wall_now_ns() - before.change_ns < stamp_grain_ns)
      return attempt::changed;
    const bool armed = kernel::write_back(fd) == 0 && waits_for_a_write();
    const attempt result = read(before.size);
    if (result != attempt::taken) return result;
    if (kernel::wall_now_ns() - before.change_ns < fault_max_ns) {
      if (kernel::write_back(fd) != 0 || !waits_for_a_write()) return attempt::changed;
      if (const attempt again = reads_the_same(); again != attempt::taken) return again;
    }
    if (const long bad = read_stamps(fd, nullptr, after); bad != 0) return fails({error_of(bad), "statx"});
    into.taken = after;
    if (!armed || before != after) return attempt::changed;
    into.when = STILL_VERIFIED;
    return result;
  }

  // Nothing has touched it for longer than any page fault takes. The stamps of the open are the first of the
  // verifying order then, which costs less than a lease; and where any copy will do there is nothing to prove.
  attempt at_rest() noexcept {
    const int fd = from.fd();
    const stamps& before = from.known.at_open;
    if (from.wanted.require == STILL_TORN) {
      into.taken = before;
      into.when = STILL_TORN;
      return read(before.size);
    }
    // Behind the end there is nothing to look for, which is cheaper. On btrfs it also passes by an O_DIRECT write
    // that is under way, as it does elsewhere; here that would have been so for longer than fault_max_ns.
    if (kernel::write_back(fd) != 0 || !waits_for_a_write(std::numeric_limits<std::int64_t>::max()))
      return attempt::changed;
    const attempt result = read(before.size);
    if (result != attempt::taken) return result;
    if (const long bad = read_stamps(fd, nullptr, into.taken); bad != 0) return fails({error_of(bad), "statx"});
    into.when = STILL_VERIFIED;
    return into.taken == before ? attempt::taken : attempt::changed;
  }

  attempt as_it_is() noexcept {
    stamps now;
    if (const long bad = read_stamps(from.fd(), nullptr, now); bad != 0)
      return fails({error_of(bad), "statx"});
    into.taken = now;
    into.when = STILL_TORN;
    return read(now.size);
  }
};

}  // namespace

taking finish_copy(held& into, std::size_t length, std::uint32_t padding, const destination& to) noexcept {
  into.size = length;
  into.data = into.mapped;
  if (into.data == nullptr) {
    into.data = memory::zeros();
    return {};
  }
  if (!pad(into, length, padding, to)) return to.drop(into), taking{EIO, "the padding could not be written"};
  const taking settled = to.settle != nullptr ? to.settle(into) : taking{};
  if (settled.error != 0) to.drop(into);
  return settled;
}

taking copy_sized(opening& from, held& into, const destination& to) noexcept {
  copier work{from, into, to, {}, 0, {}};
  const still_consistency require = from.wanted.require;
  const int attempts = require == STILL_TORN || to.in_file ? attempts_few : attempts_max;
  bool try_lease = from.chosen.copy_may_lease;
  // A writer would wait for as long as the copy takes.
  if (to.in_file && from.chosen.copy_witness == witness::stamps && require != STILL_POINT_IN_TIME)
    try_lease = false;
  const auto done = [&](std::size_t length, bool stamped) {
    into.stamped = stamped;
    return finish_copy(into, length, from.wanted.padding, to);
  };
  if (from.once || (from.chosen.copy_at_rest && !to.in_file)) {
    const bool proved = !from.chosen.copy_at_rest || require != STILL_TORN;
    const attempt result = from.chosen.copy_at_rest ? work.at_rest() : work.under_lease();
    if (result == attempt::failed) return to.drop(into), work.error;
    if (result == attempt::taken) return done(work.done, proved);
    if (from.once) return to.drop(into), taking{STILL_ERROR_CHANGING, "it is not at rest"};
  }
  for (int i = 0; i < attempts; ++i) {
    // A writer who comes and goes: give it ever more time.
    if (i > 1) kernel::sleep(std::int64_t{100'000} << i);
    if (!from.chosen.stamps_are_fine && i > 0) kernel::sleep(stamp_grain_ns);
    attempt result = attempt::no_lease;
    if (try_lease) result = work.under_lease();
    if (result == attempt::no_lease) {
      try_lease = false;
      if (from.chosen.copy_witness == witness::nature) {
        result = work.as_it_is();
        into.when = from.chosen.nature_level;
      } else if (from.chosen.copy_witness == witness::none || require == STILL_POINT_IN_TIME) {
        break;
      } else {
        result = work.between_stamps();
      }
    }
    if (result == attempt::failed) return to.drop(into), work.error;
    if (result == attempt::taken) return done(work.done, true);
  }
  if (require == STILL_TORN) {
    for (int i = 0; i < attempts_max; ++i) {
      const attempt result = work.as_it_is();
      if (result == attempt::failed) return to.drop(into), work.error;
      // Shorter than its size said a moment ago: what is there is the file to its end, unless a length was
      // named.
      if (result == attempt::taken || from.wanted.length == 0) return done(work.done, false);
    }
  }
  to.drop(into);
  if (work.lease_obstacle.error != 0 &&
      (require == STILL_POINT_IN_TIME || from.chosen.copy_witness == witness::none))
    return work.lease_obstacle;
  return {STILL_ERROR_CHANGING, "it changed during every attempt to copy it"};
}

taking read_on(int fd, std::byte* data, std::size_t limit, std::size_t& used, bool& ended) noexcept {
  while (used < limit) {
    const long got = kernel::read(fd, data + used, limit - used);
    if (got == -EAGAIN) {
      kernel::wait_readable(fd);
    } else if (got < 0) {
      return {error_of(got), "read"};
    } else if (got == 0) {
      ended = true;
      break;
    } else {
      used += static_cast<std::size_t>(got);
    }
  }
  return {};
}

taking finish_stream(opening& from, held& into, std::size_t used, const destination& to) noexcept {
  const request& wanted = from.wanted;
  if (wanted.offset > used || (wanted.length != 0 && used < wanted.offset + wanted.length)) {
    to.drop(into);
    return {ERANGE, "it ended before the range did"};
  }
  if (const taking finished = finish_copy(into, used, wanted.padding, to); finished.error != 0)
    return finished;
  into.data += wanted.offset;
  into.size = used - wanted.offset;
  into.when = from.chosen.copy_witness == witness::nature ? from.chosen.nature_level : STILL_TORN;
  into.taken = from.known.at_open;
  return {};
}

}  // namespace stillmap
