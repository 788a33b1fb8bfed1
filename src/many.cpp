// SPDX-License-Identifier: Apache-2.0
//
// One instant for several files. Each is guarded by a lease on its last page at most: when a writer comes the
// keeper gives it up at once, so that nobody waits for the other files. Then the
// snapshots are taken, and then every guard is looked at again: the path names the same inode, the size is
// the same, the lease was never broken. All guards stood when the last of them was taken, and all still stand
// when the first is looked at: between the two no file changed, and all bytes are of any instant in between.
//
// Where a guard was refused or broken everything is released before the next attempt, after a random while,
// so that two who want the same files, or a writer who comes in turn, do not meet again and again.
#include "many.hpp"

#include <errno.h>

#include <algorithm>
#include <new>
#include <utility>

#include "failure.hpp"
#include "linux/kernel.hpp"
#include "memory.hpp"
#include "warden/arming.hpp"

namespace stillmap {
namespace {

constexpr int attempts_max = 12;
constexpr std::int64_t pause_min_ns = 50'000;

struct owned {
  still_snapshot* one = nullptr;
  owned() = default;
  owned(const owned&) = delete;
  owned& operator=(const owned&) = delete;
  ~owned() { still_close(one); }
};

struct member {
  owned guard;     // none for a file that cannot change
  owned snapshot;  // what the caller asked for
};

class instant {
 public:
  instant(const char* const* paths, std::size_t count, const request& wanted, member* members) noexcept
      : paths_(paths), count_(count), wanted_(wanted), members_(members) {}

  // 0, or an error, told; `again` where the next attempt may fare better.
  int take(bool& again) noexcept {
    for (std::size_t i = 0; i < count_; ++i)
      if (const int error = guard(i, again)) return error;
    for (std::size_t i = 0; i < count_; ++i) {
      if (members_[i].snapshot.one != nullptr) continue;
      record found;
      if (const int error = open_snapshot(paths_[i], -1, wanted_, &members_[i].snapshot.one, &found)) {
        return judged(error, paths_[i], found, again);
      }
    }
    for (std::size_t i = 0; i < count_; ++i) {
      if (stands(members_[i])) continue;
      again = true;
      return changing(paths_[i], "a writer came before all files were held");
    }
    return 0;
  }

 private:
  static bool passes(int error) noexcept {
    return error == STILL_ERROR_BUSY_WRITER || error == STILL_ERROR_CHANGING || error == ERANGE ||
           error == ENOENT || error == ESTALE;
  }

  int changing(const char* path, const char* cause) const noexcept {
    return fail(
        {STILL_ERROR_CHANGING, path, cause, "try again, or open the files one by one", culprits::none, 0, 0});
  }

  // What a refusal means. A file that lost its name to another while it was looked at has fewer ways than its
  // successor, which may have been given the same inode number.
  int judged(int error, const char* path, const record& found, bool& again) const noexcept {
    again = passes(error);
    stamps now;
    if (again || read_stamps(-1, path, now) != 0) return error;
    again = now != found.known.at_open || found.known.links == 0;
    if (!again) return error;
    return changing(path, "the path was given to another file meanwhile");
  }

  int guard(std::size_t index, bool& again) noexcept {
    const char* const path = paths_[index];
    stamps now;
    if (const long error = read_stamps(-1, path, now); error != 0) {
      again = error == -ENOENT;  // replaced by a rename, perhaps
      return fail({error_of(error), path, "statx", "", culprits::none, 0, 0});
    }
    request last;
    last.backing = STILL_LEASED;
    last.require = STILL_POINT_IN_TIME;
    last.memory_budget = wanted_.memory_budget;
    last.synced = wanted_.synced;
    last.offset = memory::page_floor(now.size);
    record found;
    const int refused = open_snapshot(path, -1, last, &members_[index].guard.one, &found);
    if (refused == 0) return 0;
    const int error = judged(refused, path, found, again);
    if (error != STILL_ERROR_UNSUPPORTED) return error;
    // What cannot change needs no guard.
    owned whole;
    if (open_snapshot(path, -1, wanted_, &whole.one, &found) != 0 ||
        found.chosen.copy_witness != witness::nature || found.chosen.nature_level != STILL_POINT_IN_TIME) {
      // Tells why there is no lease; unless the file is another by now, and there is one.
      const int told = open_snapshot(path, -1, last, &members_[index].guard.one, &found);
      return told == 0 ? 0 : judged(told, path, found, again);
    }
    std::swap(members_[index].snapshot.one, whole.one);
    return 0;
  }

  static bool stands(const member& one) noexcept {
    const still_snapshot& watched = one.guard.one != nullptr ? *one.guard.one : *one.snapshot.one;
    const stamps& taken = watched.held.taken;
    stamps named;
    if (read_stamps(-1, watched.path(), named) != 0 || named.device != taken.device ||
        named.inode != taken.inode || named.size != taken.size)
      return false;
    // The snapshot may have been opened when the path named another file for a moment.
    const stamps& shown = one.snapshot.one->held.taken;
    if (shown.device != taken.device || shown.inode != taken.inode) return false;
    return one.guard.one == nullptr || warden::is_whole(*one.guard.one->held.hold);
  }

  const char* const* paths_;
  std::size_t count_;
  const request& wanted_;
  member* members_;
};

void pause(int attempt) noexcept {
  const auto random = static_cast<std::uint64_t>(kernel::now_ns()) * 0x9e3779b97f4a7c15u >> 40;
  const std::int64_t most = pause_min_ns << std::min(attempt, 9);
  kernel::sleep(most / 2 + static_cast<std::int64_t>(random % static_cast<std::uint64_t>(most)));
}

int open_at_one_instant(const char* const* paths, std::size_t count, const request& wanted,
                        still_snapshot** out) noexcept {
  int error = 0;
  for (int attempt = 0; attempt < attempts_max; ++attempt) {
    if (attempt > 0) pause(attempt);
    bool again = false;
    member* const members = new (std::nothrow) member[count];
    if (members == nullptr) return fail({ENOMEM, paths[0], "", "", culprits::none, 0, 0});
    error = instant(paths, count, wanted, members).take(again);
    if (error == 0)
      for (std::size_t i = 0; i < count; ++i) out[i] = std::exchange(members[i].snapshot.one, nullptr);
    delete[] members;
    if (error == 0 || !again) return error;
  }
  return error;
}

int open_one_by_one(const char* const* paths, std::size_t count, const request& wanted,
                    still_snapshot** out) noexcept {
  owned* const opened = new (std::nothrow) owned[count];
  if (opened == nullptr) return fail({ENOMEM, paths[0], "", "", culprits::none, 0, 0});
  int error = 0;
  for (std::size_t i = 0; i < count && error == 0; ++i)
    error = open_snapshot(paths[i], -1, wanted, &opened[i].one, nullptr);
  // The caller's array is untouched where one fails.
  if (error == 0)
    for (std::size_t i = 0; i < count; ++i) out[i] = std::exchange(opened[i].one, nullptr);
  delete[] opened;
  return error;
}

}  // namespace

int open_many(const char* const* paths, std::size_t count, const request& wanted,
              still_snapshot** out) noexcept {
  for (std::size_t i = 0; i < count; ++i)
    if (paths[i] == nullptr)
      return fail({EINVAL, "still_open_many", "a null pointer", "", culprits::none, 0, 0});
  if (count == 0) return 0;
  return count > 1 && wanted.require == STILL_POINT_IN_TIME ? open_at_one_instant(paths, count, wanted, out)
                                                            : open_one_by_one(paths, count, wanted, out);
}

}  // namespace stillmap
