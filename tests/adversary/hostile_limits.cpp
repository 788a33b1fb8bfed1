// SPDX-License-Identifier: Apache-2.0
//
// Limits and settings: too few descriptors, too little memory, break times of one second and of none, a
// machine without leases, a device that does not answer.
#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>

#include "hostile_case.hpp"
#include "leaks.hpp"
#include "loop_filesystem.hpp"

namespace adversary {
namespace {

constexpr std::uint64_t two_mib = 2 << 20;

void break_often(int rounds) {
  const std::string path = fresh_file(two_mib);
  foreign_writer writer(path, two_mib);
  for (int i = 0; i < rounds; ++i) {
    const watched held(path);
    if (!held) return;
    writer.strike_gets_through("break");
    held.expect_still("break");
  }
}

const registration one_second(
    "with a break time of one second the bytes hold", [] { break_often(20); }, 1);
const registration no_limit(
    "with a break time of 0 the bytes hold and the writer gets through", [] { break_often(20); }, 0);

const registration no_leases(
    "on a machine without leases the bytes are copied or the error says why",
    [] {
      const std::string path = fresh_file(two_mib);
      still_snapshot* snapshot = nullptr;
      still_options options = leased_options();
      const int error = still_open(path.c_str(), &options, &snapshot);
      if (check(error != 0, "a lease was had though leases are switched off")) {
        check(std::strstr(still_message(), path.c_str()) != nullptr, "the message does not name the path");
        check(error == STILL_ERROR_UNSUPPORTED, "error " + std::to_string(error) + ": " + still_message());
      }
      options.backing = STILL_AUTO;
      foreign_writer writer(path, two_mib);
      const watched held(path, options);
      if (!held) return;
      check(still_how(held.snapshot) != STILL_LEASED, "leased though leases are switched off");
      writer.strike_gets_through("copied");
      held.expect_still("copied");
    },
    8, false);

const registration few_descriptors(
    "with one descriptor left an open works, with none it says EMFILE or copies", [] {
      const std::string path = fresh_file(two_mib);
      still_options options = leased_options();
      options.backing = STILL_AUTO;
      { const watched first(path, options); }  // the warden has what it needs
      const int mine = open(path.c_str(), O_RDONLY | O_CLOEXEC);
      const int next = dup(0);
      close(next);
      const rlimit one_left{static_cast<rlim_t>(next) + 1, 4096}, none_left{static_cast<rlim_t>(next), 4096};
      check(setrlimit(RLIMIT_NOFILE, &one_left) == 0, "setrlimit");
      { const watched with_one(path, options); }
      check(setrlimit(RLIMIT_NOFILE, &none_left) == 0, "setrlimit");
      still_snapshot* snapshot = nullptr;
      int error = still_open(path.c_str(), &options, &snapshot);
      check(error == EMFILE, "none left: error " + std::to_string(error));
      check(std::strstr(still_message(), path.c_str()) != nullptr,
            "none left: the message does not name the path");
      // A lease, and whatever proves a copy, need a descriptor of their own; any copy can be read from the
      // caller's.
      error = still_open_fd(mine, &options, &snapshot);
      if (error == 0) still_close(snapshot);
      check(error == 0 || error == EMFILE, "none left, by descriptor: " + std::to_string(error) +
                                               ", which is not the cause: " + still_message());
      options.require = STILL_TORN;
      error = still_open_fd(mine, &options, &snapshot);
      if (check(error == 0,
                "none left, by descriptor, torn: " + std::to_string(error) + ": " + still_message())) {
        check(still_how(snapshot) == STILL_COPIED,
              std::string("none left: ") + still_backing_name(still_how(snapshot)));
        still_close(snapshot);
      }
      const rlimit all{1024, 4096};
      setrlimit(RLIMIT_NOFILE, &all);
      const int after = dup(0);
      check(after == next, "a descriptor was left behind:\n" + describe_descriptors());
    });

const registration quarter("leases take at most a quarter of the descriptors, then copies serve", [] {
  const rlimit small{128, 4096};
  check(setrlimit(RLIMIT_NOFILE, &small) == 0, "setrlimit");
  still_options options = leased_options();
  options.backing = STILL_AUTO;
  std::vector<still_snapshot*> all;
  for (int i = 0; i < 150; ++i) {
    const std::string path = fresh_file(600'000);
    still_snapshot* snapshot = nullptr;
    const int error = still_open(path.c_str(), &options, &snapshot);
    if (!check(error == 0, "snapshot " + std::to_string(i) + ": " + still_message())) break;
    all.push_back(snapshot);
  }
  check(leases_held() <= 32, std::to_string(leases_held()) + " leases of 128 descriptors");
  check(take_footprint().descriptors <= 32 + 8 + 4,
        std::to_string(take_footprint().descriptors) + " descriptors");
  for (still_snapshot* one : all) still_close(one);
  check(leases_held() == 0, "leases are left");
});

std::uint64_t address_space_used() {
  std::ifstream status("/proc/self/statm");
  std::uint64_t pages = 0;
  status >> pages;
  return pages * page_bytes;
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define ADVERSARY_SHADOW_MEMORY 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define ADVERSARY_SHADOW_MEMORY 1
#endif
#endif

void limit_address_space(std::uint64_t above) {
#ifdef ADVERSARY_SHADOW_MEMORY
  skip_case("a sanitizer's shadow leaves no sense in RLIMIT_AS");
#endif
  const rlimit limit{address_space_used() + above, RLIM_INFINITY};
  check(setrlimit(RLIMIT_AS, &limit) == 0, "setrlimit");
}

void lift_address_space() {
  const rlimit limit{RLIM_INFINITY, RLIM_INFINITY};
  setrlimit(RLIMIT_AS, &limit);
}

const registration little_memory(
    "with too little address space an open says ENOMEM and leaves nothing behind", [] {
      const std::string small = fresh_file(two_mib), path = fresh_file(64 << 20);
      { const watched warm(small); }
      for (const still_backing how : {STILL_AUTO, STILL_LEASED, STILL_COPIED}) {
        still_options options = leased_options();
        options.backing = how;
        const footprint before = take_footprint();
        limit_address_space(8 << 20);
        still_snapshot* snapshot = nullptr;
        const int error = still_open(path.c_str(), &options, &snapshot);
        lift_address_space();
        check(error == ENOMEM, std::string(still_backing_name(how)) + ": error " + std::to_string(error));
        check(error == 0 || still_message()[0] != '\0', "no message");
        if (!error) still_close(snapshot);
        const footprint after = take_footprint();
        check(after.descriptors <= before.descriptors, "descriptors are left:\n" + describe_descriptors());
        check(after.mappings <= before.mappings + 2, "mappings are left");
        check(leases_held() == 0, "a lease is left");
      }
    });

const registration no_memory_for_detach("without memory for a detach the bytes are lost, never changed", [] {
  constexpr std::uint64_t size = 64 << 20;
  const std::string path = fresh_file(size);
  foreign_writer writer(path, size);
  const watched held(path);
  if (!held) return;
  limit_address_space(4 << 20);
  writer.strike_gets_through("without memory");
  lift_address_space();
  held.expect_still_or_fault("without memory");
  std::printf("  without memory for a detach: %s\n", still_state_name(still_current(held.snapshot)));
});

const registration over_budget("beyond the memory budget a copy is refused and a detach changes no byte", [] {
  const std::string path = fresh_file(two_mib);
  still_options options = leased_options();
  options.memory_budget = 64 * 1024;
  options.backing = STILL_COPIED;
  still_snapshot* snapshot = nullptr;
  const int error = still_open(path.c_str(), &options, &snapshot);
  check(error == STILL_ERROR_OVER_BUDGET, "a copy beyond the budget: error " + std::to_string(error));
  if (!error) still_close(snapshot);
  options.backing = STILL_LEASED;
  const int leased = still_open(path.c_str(), &options, &snapshot);
  if (leased) {
    std::printf("  beyond the budget, leased: %d: %s\n", leased, still_message());
    return;
  }
  still_close(snapshot);
  foreign_writer writer(path, two_mib);
  const watched held(path, options);
  if (!held) return;
  writer.strike_gets_through("beyond the budget");
  held.expect_still_or_fault("beyond the budget");
  std::printf("  a detach beyond the budget: %s\n", still_state_name(still_current(held.snapshot)));
});

const registration frozen("a lease on a frozen file system does not delay the break of another", [] {
  loop_filesystem cold(false);
  constexpr std::uint64_t size = 8 << 20;
  const std::string far = cold.folder() + "/far", near = fresh_file(two_mib);
  create_stamped(far, size);
  drop_cached(far);
  foreign_writer far_writer(far, size), near_writer(near, two_mib);
  {
    const watched far_held(far), near_held(near);
    if (!far_held || !near_held) return;
    if (!cold.freeze()) skip_case("the file system cannot be frozen");
    far_writer.process().begin_work(
        1);  // waits in a write to the frozen file system once the lease is broken
    near_writer.strike_gets_through("beside a frozen file system");
    near_held.expect_still("beside a frozen file system");
    far_held.expect_still("on the frozen file system");
    near_writer.strike_gets_through("beside a frozen file system, again");
    cold.thaw();
    check(!far_writer.process().end_work().timed_out,
          "the writer of the frozen file system never got through");
    far_held.expect_still("after the thaw");
    near_held.expect_still("after the thaw");
  }
  far_writer.process().finish();
  unlink(far.c_str());
});

const registration hanging(
    "a lease on a device that answers no read does not delay the break of another",
    [] {
      loop_filesystem far_away(true);
      constexpr std::uint64_t size = 8 << 20;
      const std::string far = far_away.folder() + "/far", near = fresh_file(two_mib);
      create_stamped(far, size);
      foreign_writer far_writer(far, size, "write"), near_writer(near, two_mib);
      {
        const watched far_held(far), near_held(near);
        if (!far_held || !near_held) return;
        // Out of our page table, then out of the page cache.
        madvise(const_cast<std::byte*>(far_held.data()), size, MADV_DONTNEED);
        drop_cached(far);
        far_away.hang(true);
        far_writer.process().begin_work(
            1);  // breaks the lease; what it protects can only be read from the device
        // Well past the break time of 3 s, every break of the other lease must be answered at once.
        for (int i = 0; i < 10; ++i) {
          const watched again(near);
          if (!again) break;
          near_writer.strike_gets_through("beside a device that hangs");
          again.expect_still("beside a device that hangs");
          near_held.expect_still("beside a device that hangs");
          poll(nullptr, 0, 500);  // the time that passes is what the case is about
        }
        std::printf("  on the device that hangs: %s\n", still_state_name(still_current(far_held.snapshot)));
        check(still_current(far_held.snapshot) != STILL_SHARED,
              "past the break time the state is still SHARED");
        far_away.hang(false);
        check(!far_writer.process().end_work().timed_out, "the writer of the device never got through");
        far_held.expect_still_or_fault("after the device came back");
        near_held.expect_still("after the device came back");
      }
      far_writer.process().finish();
      unlink(far.c_str());
    },
    3);

}  // namespace
}  // namespace adversary
