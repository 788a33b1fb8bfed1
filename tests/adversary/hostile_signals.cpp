// SPDX-License-Identifier: Apache-2.0
//
// Signals, users and stops: the warden waits for a signal that the kernel may not send, may send to a full
// queue, or that the application uses for itself; and the whole process may be stopped while a writer waits.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <functional>

#include "hostile_case.hpp"
#include "leaks.hpp"

namespace adversary {
namespace {

constexpr std::uint64_t two_mib = 2 << 20;
constexpr int signals_each = 200;
constexpr int signals_max = 65;

bool eventually(const std::function<bool()>& ready, int deadline_ms) {
  return settles([](const void* f) { return (*static_cast<const std::function<bool()>*>(f))(); }, &ready,
                 deadline_ms);
}

const registration changed_user("after a change of user the bytes hold and the writer gets through", [] {
  const std::string path = fresh_file(two_mib);
  foreign_writer writer(path, two_mib);
  const watched held(path);
  if (!held) return;
  check(setresuid(1234, 1234, 1234) == 0, "setresuid");
  writer.strike_gets_through("as another user");
  held.expect_still("as another user");
  writer.strike_gets_through("as another user, again");
  held.expect_still("as another user, again");
});

// Counted by the handlers, by signal number.
std::atomic<int> handled[signals_max];
std::atomic<int> mangled;

void count_signal(int number, siginfo_t* info, void*) {
  ++handled[number];
  if (number >= SIGRTMIN &&
      (info->si_code != SI_QUEUE || info->si_value.sival_int != number || info->si_pid != getpid())) {
    ++mangled;
  }
}

void handle_all() {
  struct sigaction action = {};
  action.sa_sigaction = count_signal;
  action.sa_flags = SA_SIGINFO | SA_RESTART;
  sigfillset(&action.sa_mask);
  sigaction(SIGIO, &action, nullptr);
  for (int s = SIGRTMIN; s <= SIGRTMAX; ++s) sigaction(s, &action, nullptr);
}

// While a writer breaks lease after lease, each signal is sent to the whole process, 200 times.
void send_all_and_break(const std::string& path) {
  foreign_writer writer(path, two_mib);
  for (int round = 0; round < signals_each; ++round) {
    if (round % 20 == 0) {
      const watched held(path);
      if (!held) return;
      writer.strike_gets_through("between signals");
      held.expect_still("between signals");
    }
    for (int s = SIGRTMIN; s <= SIGRTMAX; ++s) {
      sigval value = {};
      value.sival_int = s;
      check(sigqueue(getpid(), s, value) == 0, "sigqueue");
    }
    const int before = handled[SIGIO];
    kill(getpid(), SIGIO);
    check(eventually([&] { return handled[SIGIO] > before; }, 3000),
          "a SIGIO of the application did not reach it");
  }
  for (int s = SIGRTMIN; s <= SIGRTMAX; ++s) {
    if (!eventually([&] { return handled[s] >= signals_each; }, 3000)) {
      check(false, "signal " + std::to_string(s) + ": " + std::to_string(handled[s]) + " of " +
                       std::to_string(signals_each) + " reached the application");
    }
    check(handled[s] <= signals_each,
          "signal " + std::to_string(s) + " came too often: " + std::to_string(handled[s]));
  }
  check(mangled == 0, std::to_string(mangled) + " signals bore another code, value or sender");
}

const registration all_handled("every signal of the application reaches its handler while leases are broken",
                               [] {
                                 const std::string path = fresh_file(two_mib);
                                 { const watched first(path); }  // the warden has chosen its signal
                                 handle_all();
                                 send_all_and_break(path);
                               });

const registration handled_before("an application that handles every real-time signal beforehand loses none",
                                  [] {
                                    const std::string path = fresh_file(two_mib);
                                    handle_all();
                                    still_options any = leased_options();
                                    any.backing = STILL_AUTO;
                                    const watched held(path, any);
                                    if (!held) return;
                                    foreign_writer writer(path, two_mib);
                                    writer.strike_gets_through("with all signals taken");
                                    held.expect_still("with all signals taken");
                                    still_snapshot* leased = nullptr;
                                    const still_options options = leased_options();
                                    const int error = still_open(path.c_str(), &options, &leased);
                                    if (error) {
                                      std::printf("  with all real-time signals taken, leased: %d: %s\n",
                                                  error, still_message());
                                      check(still_message()[0] != '\0', "refused without a message");
                                      return;
                                    }
                                    still_close(leased);
                                    send_all_and_break(path);
                                  });

const registration all_waited(
    "every blocked signal of the application is fetched by its own sigtimedwait", [] {
      const std::string path = fresh_file(two_mib);
      sigset_t all;
      sigemptyset(&all);
      sigaddset(&all, SIGIO);
      for (int s = SIGRTMIN; s <= SIGRTMAX; ++s) sigaddset(&all, s);
      sigprocmask(SIG_BLOCK, &all, nullptr);
      foreign_writer writer(path, two_mib);
      int got[signals_max] = {}, wrong = 0;
      const auto fetch = [&](int deadline_ms) {
        const timespec limit{deadline_ms / 1000, deadline_ms % 1000 * 1'000'000L};
        siginfo_t info;
        const int s = sigtimedwait(&all, &info, &limit);
        if (s <= 0) return false;
        ++got[s];
        if (s >= SIGRTMIN && (info.si_code != SI_QUEUE || info.si_value.sival_int != s)) ++wrong;
        return true;
      };
      for (int round = 0; round < signals_each; ++round) {
        if (round % 20 == 0) {
          const watched held(path);
          if (!held) return;
          writer.strike_gets_through("between signals");
          held.expect_still("between signals");
        }
        for (int s = SIGRTMIN; s <= SIGRTMAX; ++s) {
          sigval value = {};
          value.sival_int = s;
          sigqueue(getpid(), s, value);
        }
        kill(getpid(), SIGIO);
        const int before = got[SIGIO];
        while (got[SIGIO] == before && fetch(3000)) {
        }
        check(got[SIGIO] > before, "a SIGIO of the application was not to be fetched");
      }
      while (fetch(500)) {
      }
      for (int s = SIGRTMIN; s <= SIGRTMAX; ++s) {
        check(got[s] == signals_each, "signal " + std::to_string(s) + ": " + std::to_string(got[s]) + " of " +
                                          std::to_string(signals_each) + " fetched");
      }
      check(wrong == 0, std::to_string(wrong) + " signals bore another code or value");
    });

const registration full_queue("with a full signal queue the bytes hold and the writer gets through", [] {
  const std::string path = fresh_file(two_mib);
  foreign_writer writer(path, two_mib);
  const watched held(path);
  if (!held) return;
  sigset_t mine;
  sigemptyset(&mine);
  sigaddset(&mine, SIGRTMIN + 3);
  sigprocmask(SIG_BLOCK, &mine, nullptr);
  const rlimit small{8, 8};
  check(setrlimit(RLIMIT_SIGPENDING, &small) == 0, "setrlimit");
  int queued = 0;
  while (sigqueue(getpid(), SIGRTMIN + 3, {}) == 0 && queued < 1000) ++queued;
  check(errno == EAGAIN, "the queue does not fill");
  writer.strike_gets_through("with a full queue");
  held.expect_still("with a full queue");
});

// A process that opens path for writing and writes over its first bytes; tells by its exit code.
pid_t start_overwriter(const std::string& path) {
  const pid_t writer = fork();
  if (writer != 0) return writer;
  const int fd = open(path.c_str(), O_WRONLY | O_CLOEXEC);
  static char other[65536];
  std::memset(other, 'X', sizeof other);
  _exit(fd >= 0 && pwrite(fd, other, sizeof other, 0) == static_cast<ssize_t>(sizeof other) ? 0 : 1);
}

// Stops this process, lets a writer come, and continues it after stop_ms.
void be_stopped(const std::string& path, int stop_ms, pid_t* controller) {
  const pid_t self = getpid();
  *controller = fork();
  if (*controller != 0) {
    // Until the controller has stopped and continued us, there is nothing to do.
    int status = 0;
    while (waitpid(*controller, &status, 0) < 0 && errno == EINTR) {
    }
    check(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the writer did not get through");
    return;
  }
  kill(self, SIGSTOP);
  const pid_t writer = start_overwriter(path);
  poll(nullptr, 0, stop_ms);  // the time of being stopped is what the case is about
  kill(self, SIGCONT);
  int status = 0;
  while (waitpid(writer, &status, 0) < 0 && errno == EINTR) {
  }
  _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
}

const registration short_stop("stopped for less than the break time and continued the bytes hold", [] {
  const std::string path = fresh_file(two_mib);
  const watched held(path);
  if (!held) return;
  pid_t controller = 0;
  be_stopped(path, 700, &controller);
  held.expect_still("after a short stop");
  check(still_current(held.snapshot) != STILL_LOST, "LOST though there was time enough");
});

const registration long_stop(
    "stopped past the break time the state becomes LOST and then no byte is ever a changed one",
    [] {
      const std::string path = fresh_file(two_mib);
      const watched held(path);
      if (!held) return;
      pid_t controller = 0;
      be_stopped(path, 2500, &controller);
      const comparison at_once = held.look();
      const bool lost = eventually([&] { return still_current(held.snapshot) == STILL_LOST; }, 5000);
      std::printf("  overtaken by a writer: %llu changed bytes seen before the state was known, then %s\n",
                  static_cast<unsigned long long>(at_once.changed_bytes),
                  still_state_name(still_current(held.snapshot)));
      check(lost, std::string("the state is ") + still_state_name(still_current(held.snapshot)) +
                      " though the writer overtook the warden");
      if (!lost) return;
      held.expect_still_or_fault("LOST");
      check(still_changed(held.snapshot) == 1, "still_changed says 0 of a lost snapshot");
    },
    1);

}  // namespace
}  // namespace adversary
