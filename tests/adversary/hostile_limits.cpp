// SPDX-License-Identifier: Apache-2.0
//
// Limits and settings: too few descriptors, too little memory, break times of one second and of none, a
// machine without leases, a device that does not answer.
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>

#include "hostile_case.hpp"
#include "leaks.hpp"

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
      // A lease needs a descriptor of its own; a copy can be read from the caller's.
      error = still_open_fd(mine, &options, &snapshot);
      if (check(error == 0, "none left, by descriptor: " + std::to_string(error) + ": " + still_message())) {
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

int run_quietly(const std::string& command) {
  const int status = std::system((command + " >/dev/null 2>&1").c_str());
  return WIFEXITED(status) ? WEXITSTATUS(status) : 255;
}

// A file system on a loop device of its own, mounted in this mount namespace, that can be frozen; thawed and
// unmounted at the end.
class freezable {
 public:
  freezable() {
    const char* scratch = std::getenv("STILLMAP_TEST_SCRATCH");
    if (!scratch) skip_case("no scratch folder");
    image_ = std::string(scratch) + "/freezable.img";
    folder_ = std::string(scratch) + "/freezable";
    mkdir(folder_.c_str(), 0700);
    const std::string make = "truncate -s 64M " + image_ + " && mkfs.ext4 -q " + image_ +
                             " && mount -o loop " + image_ + " " + folder_;
    if (run_quietly(make) != 0) skip_case("no loop file system");
  }
  freezable(const freezable&) = delete;
  freezable& operator=(const freezable&) = delete;
  ~freezable() {
    thaw();
    if (umount2(folder_.c_str(), MNT_DETACH) != 0) std::perror("umount");
    unlink(image_.c_str());
    rmdir(folder_.c_str());
  }
  bool freeze() {
    const int fd = open(folder_.c_str(), O_RDONLY | O_CLOEXEC);
    frozen_ = fd >= 0 && ioctl(fd, FIFREEZE, 0) == 0;
    close(fd);
    return frozen_;
  }
  void thaw() {
    if (!frozen_) return;
    const int fd = open(folder_.c_str(), O_RDONLY | O_CLOEXEC);
    ioctl(fd, FITHAW, 0);
    close(fd);
    frozen_ = false;
  }
  const std::string& folder() const { return folder_; }

 private:
  std::string image_, folder_;
  bool frozen_ = false;
};

const registration frozen("a lease on a frozen file system does not delay the break of another", [] {
  freezable cold;
  constexpr std::uint64_t size = 8 << 20;
  const std::string far = cold.folder() + "/far", near = fresh_file(two_mib);
  create_stamped(far, size);
  {
    const int fd = open(far.c_str(), O_RDONLY | O_CLOEXEC);
    fsync(fd);
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    close(fd);
  }
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

}  // namespace
}  // namespace adversary
