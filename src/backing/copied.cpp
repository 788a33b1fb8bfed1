// SPDX-License-Identifier: Apache-2.0
//
// copied: the bytes are read into private memory. For small files this is cheaper than a mapping, and it
// works where nothing else does. What is hard is to know which moment the copy shows:
//
// - A lease held while reading: no writer got through between F_SETLEASE and an F_UNLCK that says 0. Point in
//   time.
// - Time stamps, in the order that let no impossible state through (tests/kernel/stamps.cpp): statx,
//   sync_file_range (write-protects mapped pages, so that the next store moves the stamps), lseek(SEEK_DATA)
//   (waits for a write under way), read, statx. Verified. One hole remains: a page fault moves the stamps
//   first and makes the page writable a moment later; where it was between the two all through statx and
//   sync_file_range, stores go unseen. So a file that changed lately is armed and read once more, and must be
//   the same: then it was like that at the instant between the two reads.
// - Neither: torn.
#include <errno.h>

#include <algorithm>
#include <cstring>

#include "backing/backing.hpp"
#include "memory.hpp"
#include "warden/warden.hpp"

namespace stillmap {
namespace {

constexpr int attempts_max = 8;       // a file rewritten without pause is left alone after that
constexpr int attempts_torn_max = 2;  // ... sooner where a torn copy will do
// Two ticks at 100 Hz: a stamp younger than that proves nothing before multigrain stamps (Linux 6.13).
constexpr std::int64_t stamp_grain_ns = 20'000'000;

// A fault that is under way for longer than this is not reckoned with.
constexpr std::int64_t fault_max_ns = 10'000'000'000;

bool shape(held& into, std::size_t length, const request& wanted) noexcept {
  const std::size_t needed = length + wanted.padding;
  if (into.buffer.bytes >= needed) return true;
  if (into.buffer) {
    memory::discharge(into.charged_bytes);
    into.charged_bytes = 0;
    pool::give_back(std::exchange(into.buffer, {}));
  }
  if (needed == 0) return true;
  // A snapshot's own budget is for its bytes; the process's for what is really taken.
  const std::size_t capacity = pool::capacity_for(needed);
  if (length > wanted.memory_budget || !memory::charge(capacity, UINT64_MAX)) return false;
  into.charged_bytes = capacity;
  into.buffer = pool::take(needed);
  return static_cast<bool>(into.buffer);
}

taking no_memory(const held& into) noexcept {
  if (into.charged_bytes == 0)
    return {STILL_ERROR_OVER_BUDGET, "the copy would need more private memory than memory_budget allows"};
  return {ENOMEM, "no memory for the copy"};
}

void finish(held& into, std::size_t length, const request& wanted) noexcept {
  into.size = length;
  if (!into.buffer) {
    into.data = memory::zeros();
    return;
  }
  into.data = into.buffer.data;
  std::memset(into.buffer.data + length, 0, wanted.padding);
}

void drop(held& into) noexcept {
  if (into.buffer) pool::give_back(std::exchange(into.buffer, {}));
  memory::discharge(std::exchange(into.charged_bytes, 0));
}

// One attempt at a file with a size.
enum class attempt : std::uint8_t { taken, changed, no_lease, failed };

struct copier {
  opening& from;
  held& into;
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
    if (!shape(into, length, from.wanted)) return fails(no_memory(into));
    if (const long bad = kernel::pread(from.fd(), into.buffer.data, length, from.wanted.offset, done);
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
          std::memcmp(piece.data, into.buffer.data + at, wanted) != 0)
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

  attempt between_stamps() noexcept {
    const int fd = from.fd();
    stamps before, after;
    if (const long bad = read_stamps(fd, nullptr, before); bad != 0) return fails({error_of(bad), "statx"});
    if (!from.chosen.stamps_are_fine && kernel::wall_now_ns() - before.change_ns < stamp_grain_ns)
      return attempt::changed;
    const bool armed = kernel::write_back(fd) == 0;
    const long waited = kernel::seek_data(fd);
    const attempt result = read(before.size);
    if (result != attempt::taken) return result;
    if (kernel::wall_now_ns() - before.change_ns < fault_max_ns) {
      if (kernel::write_back(fd) != 0) return attempt::changed;
      kernel::seek_data(fd);
      if (const attempt again = reads_the_same(); again != attempt::taken) return again;
    }
    if (const long bad = read_stamps(fd, nullptr, after); bad != 0) return fails({error_of(bad), "statx"});
    into.taken = after;
    if (!armed || (waited < 0 && waited != -ENXIO) || before != after) return attempt::changed;
    into.when = STILL_VERIFIED;
    return result;
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

taking take_sized(opening& from, held& into) noexcept {
  copier work{from, into, {}, 0, {}};
  const still_consistency require = from.wanted.require;
  const int attempts = require == STILL_TORN ? attempts_torn_max : attempts_max;
  bool try_lease = from.chosen.copy_may_lease;
  const auto done = [&](std::size_t length, bool stamped) {
    finish(into, length, from.wanted);
    into.stamped = stamped;
    return taking{};
  };
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
    if (result == attempt::failed) return drop(into), work.error;
    if (result == attempt::taken) return done(work.done, true);
  }
  if (require == STILL_TORN) {
    for (int i = 0; i < attempts_max; ++i) {
      const attempt result = work.as_it_is();
      if (result == attempt::failed) return drop(into), work.error;
      // Shorter than its size said a moment ago: what is there is the file to its end, unless a length was
      // named.
      if (result == attempt::taken || from.wanted.length == 0) return done(work.done, false);
    }
  }
  drop(into);
  if (work.lease_obstacle.error != 0 &&
      (require == STILL_POINT_IN_TIME || from.chosen.copy_witness == witness::none))
    return work.lease_obstacle;
  return {STILL_ERROR_CHANGING, "it changed during every attempt to copy it"};
}

// What has no size: to its end, or as far as the range reaches.
taking take_stream(opening& from, held& into) noexcept {
  const request& wanted = from.wanted;
  const std::uint64_t enough = wanted.length == 0 ? UINT64_MAX : wanted.offset + wanted.length;
  std::size_t used = 0;
  std::size_t room = 64 * 1024;
  for (;;) {
    held bigger;
    if (!shape(bigger, room, wanted)) {
      const taking error = no_memory(bigger);
      drop(bigger);
      drop(into);
      return error;
    }
    if (used > 0) std::memcpy(bigger.buffer.data, into.buffer.data, used);
    drop(into);
    into.buffer = bigger.buffer;
    into.charged_bytes = bigger.charged_bytes;
    room = into.buffer.bytes - wanted.padding;
    while (used < room && used < enough) {
      const long got = kernel::read(from.fd(), into.buffer.data + used,
                                    std::min<std::uint64_t>(room - used, enough - used));
      if (got == -EAGAIN) {
        kernel::wait_readable(from.fd());
      } else if (got < 0) {
        drop(into);
        return {error_of(got), "read"};
      } else if (got == 0) {
        room = 0;  // the end
      } else {
        used += static_cast<std::size_t>(got);
      }
    }
    if (used < into.buffer.bytes - wanted.padding || used >= enough) break;
    room = used * 2;
  }
  if (wanted.offset > used || (wanted.length != 0 && used < enough)) {
    drop(into);
    return {ERANGE, "it ended before the range did"};
  }
  finish(into, used, wanted);
  into.data += wanted.offset;
  into.size = used - wanted.offset;
  into.when = from.chosen.copy_witness == witness::nature ? from.chosen.nature_level : STILL_TORN;
  into.taken = from.known.at_open;
  return {};
}

taking take(opening& from, held& into) noexcept {
  return from.known.kind == file_kind::regular ? take_sized(from, into) : take_stream(from, into);
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

// The bytes are there already, in memory shared with the pool: there is nothing to advise.
const way copied_way{take, release, current, private_bytes, advise_nothing};

}  // namespace stillmap
