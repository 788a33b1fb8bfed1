// SPDX-License-Identifier: Apache-2.0
//
// Forks, and what becomes of descriptors: children that meddle with what they inherited, an application that
// closes whatever it does not know, a library that is unloaded.
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "hostile_case.hpp"
#include "leaks.hpp"

namespace adversary {
namespace {

constexpr std::uint64_t two_mib = 2 << 20;

// Runs body in a forked child; its result is the exit code.
template <class Body>
int in_child(Body body) {
  const pid_t child = fork();
  if (child == 0) _exit(body());
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

template <class Each>
void each_inherited(Each each) {
  for (int fd = 3; fd < 1024; ++fd) each(fd);
}

void after_child(int (*body)()) {
  const std::string path = fresh_file(two_mib);
  foreign_writer writer(path, two_mib);
  const watched held(path);
  if (!held) return;
  const int code = in_child(body);
  check(code == 0, "the child ended with " + std::to_string(code));
  held.expect_still("after the child");
  writer.strike_gets_through("after the child");
  held.expect_still("after the child and a writer");
  check(still_current(held.snapshot) == STILL_PRIVATE,
        std::string("after the writer the state is ") + still_state_name(still_current(held.snapshot)));
}

const registration child_unlocks("a forked child that unlocks every inherited descriptor takes no byte away",
                                 [] {
                                   after_child([] {
                                     each_inherited([](int fd) { fcntl(fd, F_SETLEASE, F_UNLCK); });
                                     return 0;
                                   });
                                 });

const registration child_silences(
    "a forked child that silences every inherited descriptor takes no byte away", [] {
      after_child([] {
        each_inherited([](int fd) {
          fcntl(fd, F_SETSIG, 0);
          fcntl(fd, F_SETOWN, 0);
        });
        return 0;
      });
    });

const registration child_closes("a forked child that closes every inherited descriptor takes no byte away",
                                [] {
                                  after_child([] {
                                    each_inherited([](int fd) { close(fd); });
                                    return 0;
                                  });
                                });

const registration child_lives("a forked child that lives on does not keep a writer waiting after the close",
                               [] {
                                 const std::string path = fresh_file(two_mib);
                                 foreign_writer writer(path, two_mib);
                                 watched held(path);
                                 if (!held) return;
                                 int ends[2];
                                 check(pipe2(ends, O_CLOEXEC) == 0, "pipe2");
                                 const pid_t child = fork();
                                 if (child == 0) {
                                   char c;
                                   close(ends[1]);
                                   _exit(read(ends[0], &c, 1) == 0 ? 0 : 1);
                                 }
                                 held.close();
                                 check(leases_held() == 0, "a lease is left after close");
                                 writer.strike_gets_through("while the child lives");
                                 close(ends[1]);
                                 close(ends[0]);
                                 int status = 0;
                                 waitpid(child, &status, 0);
                                 check(status == 0, "the child failed");
                               });

struct touch {
  const std::byte* where;
};

void read_one(void* argument) {
  [[maybe_unused]] const std::byte value =
      *static_cast<const volatile std::byte*>(static_cast<touch*>(argument)->where);
}

const registration child_touches(
    "in a forked child a leased mapping faults and no later mapping lands there", [] {
      const std::string path = fresh_file(two_mib);
      foreign_writer writer(path, two_mib);
      const watched held(path);
      if (!held) return;
      const std::byte* begin = held.data();
      still_snapshot* snapshot = held.snapshot;
      const int code = in_child([&] {
        touch first{begin}, last{begin + two_mib - 1};
        fault what;
        if (guarded(read_one, &first, &what) || guarded(read_one, &last, &what)) return 10;
        for (int i = 0; i < 200; ++i) {
          const std::size_t size = i % 2 ? two_mib : page_bytes;
          void* map = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
          const auto* at = static_cast<const std::byte*>(map);
          if (map == MAP_FAILED) return 11;
          if (at < begin + two_mib && at + size > begin) return 12;
        }
        if (leases_held() != 0) return 13;
        still_close(snapshot);
        return 0;
      });
      check(code != 10, "the child can read the leased mapping");
      check(code != 12, "a later mapping of the child landed where the leased one had been");
      check(code == 0, "the child ended with " + std::to_string(code));
      held.expect_still("after the child closed its snapshot");
      check(leases_held() == 1,
            "leases after the child closed its snapshot: " + std::to_string(leases_held()));
      writer.strike_gets_through("after the child");
      held.expect_still("after the child and a writer");
    });

const registration carried("a carried snapshot is readable in the child and holds still in both", [] {
  const std::string path = fresh_file(two_mib);
  foreign_writer writer(path, two_mib);
  still_options options = leased_options();
  options.fork = STILL_FORK_CARRY;
  const watched held(path, options);
  if (!held) return;
  int to_child[2], to_parent[2];
  check(pipe2(to_child, O_CLOEXEC) == 0 && pipe2(to_parent, O_CLOEXEC) == 0, "pipe2");
  const pid_t child = fork();
  if (child == 0) {
    char c = 0;
    comparison found = held.look();
    if (found.changed_bytes || found.faulted_pages) _exit(10);
    if (write(to_parent[1], "r", 1) != 1 || read(to_child[0], &c, 1) != 1) _exit(11);
    found = held.look();
    if (found.changed_bytes || found.faulted_pages) _exit(12);
    still_close(held.snapshot);
    _exit(0);
  }
  char c = 0;
  close(to_parent[1]);
  check(read(to_parent[0], &c, 1) == 1, "the child could not read the carried bytes");
  writer.strike_gets_through("after the fork");
  held.expect_still("in the parent");
  check(write(to_child[1], "w", 1) == 1, "write");
  int status = 0;
  waitpid(child, &status, 0);
  check(status == 0, "the child saw changed bytes or a fault: " + std::to_string(WEXITSTATUS(status)));
});

const registration forks_under_fire("forks while leases are broken hang nobody and change nothing", [] {
  const std::string path = fresh_file(two_mib);
  foreign_writer writer(path, two_mib);
  writer.process().begin_work(1);
  for (int i = 0; i < 30; ++i) {
    still_options options = leased_options();
    options.backing = STILL_AUTO;
    options.require = STILL_TORN;
    options.fork = i % 2 ? STILL_FORK_CARRY : STILL_FORK_ABSENT;
    const watched held(path, options);
    if (!held) break;
    const int code = in_child([] { return 0; });
    check(code == 0, "the child ended with " + std::to_string(code));
    held.expect_still("after a fork");
  }
  check(!writer.process().end_work().timed_out, "the writer waits longer than 5 s");
});

// One that shares this process's memory until it execs: nothing of ours may be touched for it.
void beside_another_program(pid_t (*start)()) {
  const std::string path = fresh_file(two_mib);
  foreign_writer writer(path, two_mib);
  const watched held(path);
  if (!held) return;
  const pid_t child = start();
  check(child > 0, "the program was not started");
  held.expect_still("while the program runs");
  check(leases_held() == 1, "leases beside the program: " + std::to_string(leases_held()));
  writer.strike_gets_through("while the program runs");
  held.expect_still("after a writer, while the program runs");
  check(still_current(held.snapshot) == STILL_PRIVATE, "the bytes are not private after the writer");
  kill(child, SIGKILL);
  int status = 0;
  waitpid(child, &status, 0);
  check(WIFSIGNALED(status), "the program ended by itself");
}

const registration spawned("beside a program started by posix_spawn a lease stands and is answered", [] {
  beside_another_program([] {
    const char* const words[] = {"sleep", "100", nullptr};
    pid_t child = -1;
    return posix_spawnp(&child, "sleep", nullptr, nullptr, const_cast<char* const*>(words), environ) == 0
               ? child
               : -1;
  });
});

const registration vforked("beside a program started by vfork a lease stands and is answered", [] {
  beside_another_program([] {
    const pid_t child = vfork();
    if (child == 0) {
      execlp("sleep", "sleep", "100", static_cast<char*>(nullptr));
      _exit(127);
    }
    return child;
  });
});

// What daemon(3) leaves is a child without a keeper: what it had is carried or absent, and it starts its own.
const registration daemons("a daemon has what it carried, faults on the rest, and can hold files of its own", [] {
#if defined(__SANITIZE_THREAD__)
  skip_case("the thread sanitizer lets no forked child start a thread");
#endif
  const std::string path = fresh_file(two_mib);
  foreign_writer writer(path, two_mib);
  int ends[2];
  check(pipe2(ends, O_CLOEXEC) == 0, "pipe2");
  const pid_t parent = fork();
  if (parent == 0) {
    still_options carry = leased_options();
    carry.fork = STILL_FORK_CARRY;
    const watched kept(path, carry);
    const watched absent(fresh_file(two_mib));
    if (!kept || !absent || daemon(1, 1) != 0) _exit(1);
    char verdict = 'k';
    if (kept.look().changed_bytes + kept.look().faulted_pages != 0) verdict = 'c';
    if (absent.look().faulted_pages == 0) verdict = 'a';
    const watched own(path);
    writer.strike_gets_through("to a file that a daemon holds");
    if (!own || own.look().changed_bytes + own.look().faulted_pages != 0) verdict = 'o';
    if (still_current(own.snapshot) != STILL_PRIVATE) verdict = 'p';
    _exit(write(ends[1], &verdict, 1) == 1 ? 0 : 1);
  }
  close(ends[1]);
  char verdict = 0;
  const bool told = read(ends[0], &verdict, 1) == 1;
  check(told && verdict == 'k', std::string("the daemon says ") + verdict);
  close(ends[0]);
  int status = 0;
  waitpid(parent, &status, 0);
});

const registration closes_all(
    "an application that closes every descriptor above 2 and opens a hundred files harms none", [] {
      const std::string path = fresh_file(two_mib);
      constexpr int count = 100;
      std::vector<std::string> names;
      for (int i = 0; i < count; ++i) names.push_back(fresh_file(100 + static_cast<std::uint64_t>(i)));
      watched held(path);
      if (!held) return;
      check(syscall(SYS_close_range, 3u, ~0u, 0u) == 0, "close_range");
      struct one_file {
        int fd;
        ino_t inode;
      };
      std::vector<one_file> files;
      for (const std::string& name : names) {
        const int fd = open(name.c_str(), O_RDONLY);
        struct stat facts = {};
        check(fd >= 0 && fstat(fd, &facts) == 0, "open");
        files.push_back({fd, facts.st_ino});
      }
      const auto all_work = [&](const char* when) {
        for (int i = 0; i < count; ++i) {
          const one_file& one = files[static_cast<std::size_t>(i)];
          char bytes[300];
          struct stat facts = {};
          const bool good = fstat(one.fd, &facts) == 0 && facts.st_ino == one.inode &&
                            pread(one.fd, bytes, sizeof bytes, 0) == 100 + i &&
                            fcntl(one.fd, F_GETLEASE) == F_UNLCK;
          if (!check(good, std::string(when) + ": file " + std::to_string(i) +
                               " does not work: " + std::strerror(errno)))
            return;
        }
      };
      all_work("before the break");
      {
        foreign_writer writer(path, two_mib);
        writer.strike_gets_through("after all was closed");
        held.expect_still("after all was closed");
        all_work("after the break");
        writer.strike_gets_through("after all was closed, again");
        held.expect_still("after all was closed, again");
      }
      held.close();
      all_work("after still_close");
      const watched again(path);  // the library must have recovered
      if (!again) return;
      foreign_writer writer(path, two_mib);
      writer.strike_gets_through("a snapshot taken afterwards");
      again.expect_still("a snapshot taken afterwards");
      all_work("at the end");
    });

const registration unloaded(
    "a library that was opened by dlopen, used and closed does not crash at a break", [] {
      const std::string path = fresh_file(two_mib);
      const std::string program = DLOPEN_GUEST;
      const pid_t child = fork();
      if (child == 0) {
        execl(program.c_str(), program.c_str(), DLOPEN_LIBRARY, path.c_str(), nullptr);
        _exit(127);
      }
      int status = 0;
      waitpid(child, &status, 0);
      check(WIFEXITED(status), "killed by signal " + std::to_string(WTERMSIG(status)));
      check(!WIFEXITED(status) || WEXITSTATUS(status) == 0,
            "exit code " + std::to_string(WEXITSTATUS(status)));
    });

const registration many_threads(
    "threads that open and close one file under a writer all see what they first saw", [] {
      const std::string path = fresh_file(two_mib / 2);
      foreign_writer writer(path, two_mib / 2, "pwrite");
      writer.process().begin_work(1);
      const footprint before = take_footprint();
      std::vector<std::thread> threads;
      for (int t = 0; t < 8; ++t) {
        threads.emplace_back([&path, t] {
          for (int i = 0; i < 20; ++i) {
            still_options options = leased_options();
            options.backing = STILL_AUTO;
            options.require = STILL_TORN;
            options.offset = static_cast<std::uint64_t>(t % 3) * 5000;
            const watched held(path, options);
            if (!held) return;
            held.expect_still("in a thread");
          }
        });
      }
      for (std::thread& one : threads) one.join();
      check(!writer.process().end_work().timed_out, "the writer waits longer than 5 s");
      check(leases_held() == 0, "leases are left");
      const footprint after = take_footprint();
      check(after.descriptors <= before.descriptors + 8, "descriptors are left:\n" + describe_descriptors());
      check(after.threads <= before.threads + 8, "threads are left: " + std::to_string(after.threads));
    });

}  // namespace
}  // namespace adversary
