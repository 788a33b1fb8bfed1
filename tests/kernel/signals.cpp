// SPDX-License-Identifier: Apache-2.0
//
// Descriptors, children, users and signals: how the news of a break gets lost, and how a lease is dropped or
// kept alive by someone who never meant to. Each is a reason why the warden opens its descriptor anew, treats
// signals as hints and polls F_GETLEASE besides.
#include <sys/resource.h>

#include <atomic>
#include <thread>

#include "fixture.hpp"

namespace {

using namespace facts;

constexpr uid_t somebody = 65533, somebody_else = 65534;

class Inherited : public on_any_file_system {};
class Duplicate : public on_any_file_system {};
class Stale : public on_any_file_system {};
class ChangeOfUser : public on_any_file_system {};
class BreakSignal : public on_any_file_system {
 protected:
  void SetUp() override {
    on_any_file_system::SetUp();
    const sigset_t set = only(signal);
    ASSERT_EQ(sigprocmask(SIG_BLOCK, &set, nullptr), 0);
    siginfo_t left_over{};
    while (next_signal(signal, &left_over, milliseconds(0)) != 0) {
    }
  }
  const int signal = SIGRTMIN + 6;
};

// Children -----------------------------------------------------------------------------------------------

TEST_F(Inherited, DescriptorLetsAChildDropTheLease) {
  const descriptor reader = opened(file(), O_RDONLY);
  ASSERT_EQ(take(reader), 0);
  child idle([] { return 0; });
  ASSERT_TRUE(idle.exits(0));
  EXPECT_EQ(held(reader), F_RDLCK) << "its mere end does not";
  child meddler([&] { return give(reader); });
  ASSERT_TRUE(meddler.exits(0));
  EXPECT_EQ(held(reader), F_UNLCK);
  EXPECT_EQ(open_error(file(), O_WRONLY | O_NONBLOCK), 0);
}

TEST_F(Inherited, DescriptorLetsAChildTurnTheSignalAside) {
  const descriptor reader = opened(file(), O_RDONLY);
  ASSERT_EQ(fcntl(reader, F_SETSIG, SIGRTMIN + 6), 0);
  ASSERT_EQ(take(reader), 0);
  ASSERT_EQ(fcntl(reader, F_GETOWN), getpid());
  child meddler([&] {
    NEED(fcntl(reader, F_SETSIG, SIGURG) == 0);
    NEED(fcntl(reader, F_SETOWN, getpid()) == 0);
    return 0;
  });
  ASSERT_TRUE(meddler.exits(0));
  EXPECT_EQ(fcntl(reader, F_GETSIG), SIGURG);
  EXPECT_NE(fcntl(reader, F_GETOWN), getpid());
  EXPECT_EQ(held(reader), F_RDLCK);
}

TEST_F(Inherited, DescriptorKeepsTheLeaseAliveWhenTheParentClosesIts) {
  descriptor reader = opened(file(), O_RDONLY);
  ASSERT_EQ(take(reader), 0);
  const gate leave;
  child heir([&] {
    leave.wait();
    return 0;
  });
  reader.close();
  EXPECT_EQ(open_error(file(), O_WRONLY | O_NONBLOCK), EAGAIN);
  leave.say();
  ASSERT_TRUE(heir.exits(0));
  EXPECT_EQ(open_error(file(), O_WRONLY | O_NONBLOCK), 0);
}

TEST_F(Inherited, MappingKeepsTheLeaseAliveUnlessItIsKeptFromTheChild) {
  for (const bool kept_from_child : {false, true}) {
    descriptor reader = opened(file(), O_RDONLY);
    mapping view(reader, page, PROT_READ, MAP_SHARED);
    ASSERT_EQ(take(reader), 0);
    ASSERT_EQ(madvise(view.data(), page, kept_from_child ? MADV_DONTFORK : MADV_DOFORK), 0);
    const gate closed, leave;
    child heir([&] {
      reader.close();
      closed.say();
      leave.wait();
      return 0;
    });
    closed.wait();
    view.unmap();
    reader.close();
    EXPECT_EQ(open_error(file(), O_WRONLY | O_NONBLOCK), kept_from_child ? 0 : EAGAIN);
    leave.say();
    ASSERT_TRUE(heir.exits(0));
    EXPECT_EQ(open_error(file(), O_WRONLY | O_NONBLOCK), 0);
  }
}

// Duplicates and stale numbers ---------------------------------------------------------------------------

TEST_F(Duplicate, SharesLeaseSignalAndOffsetWhileADescriptorOpenedAnewSharesNothing) {
  const descriptor ours = opened(file(), O_RDONLY);
  ASSERT_EQ(take(ours), 0);
  {
    const descriptor anew = opened_anew(ours, O_RDONLY);
    EXPECT_EQ(fcntl(anew, F_SETSIG, SIGRTMIN + 7), 0);
    EXPECT_EQ(lseek(anew, 5, SEEK_SET), 5);
    EXPECT_EQ(give(anew), EAGAIN) << "it has no lease to give";
  }
  EXPECT_EQ(held(ours), F_RDLCK);
  EXPECT_EQ(fcntl(ours, F_GETSIG), 0);
  EXPECT_EQ(lseek(ours, 0, SEEK_CUR), 0);
  {
    const descriptor duplicate(dup(ours));
    EXPECT_EQ(fcntl(duplicate, F_SETSIG, SIGRTMIN + 7), 0);
    EXPECT_EQ(lseek(duplicate, 5, SEEK_SET), 5);
    EXPECT_EQ(fcntl(ours, F_GETSIG), SIGRTMIN + 7);
    EXPECT_EQ(lseek(ours, 0, SEEK_CUR), 5);
    EXPECT_EQ(give(duplicate), 0);
  }
  EXPECT_EQ(held(ours), F_UNLCK);
}

TEST_F(Stale, LeaseLivesOnWithItsMappingWhenItsDescriptorIsClosed) {
  const int signal = SIGRTMIN + 6;
  const sigset_t set = only(signal);
  ASSERT_EQ(sigprocmask(SIG_BLOCK, &set, nullptr), 0);
  descriptor reader = opened(file(), O_RDONLY);
  const int number = reader;
  mapping view(reader, page, PROT_READ, MAP_SHARED);
  ASSERT_EQ(madvise(view.data(), page, MADV_DONTFORK), 0);  // or the writer would wait for its own copy of it
  ASSERT_EQ(fcntl(reader, F_SETSIG, signal), 0);
  ASSERT_EQ(take(reader), 0);
  reader.close();
  EXPECT_EQ(held(number), -1);
  EXPECT_EQ(errno, EBADF);
  child writer([&] { return open_error(file(), O_WRONLY); });
  siginfo_t info{};
  ASSERT_EQ(next_signal(signal, &info, seconds(5)), signal);
  EXPECT_EQ(info.si_fd, number) << "the number it once had";
  EXPECT_TRUE(eventually([&] { return writer.asleep(); }));
  view.unmap();
  EXPECT_TRUE(writer.exits(0)) << "the last unmapping releases it";
}

TEST_F(Stale, NumberOfALeaseMayBeAnotherFileByNow) {
  descriptor reader = opened(file(), O_RDONLY);
  const int number = reader;
  const mapping view(reader, page, PROT_READ, MAP_SHARED);
  ASSERT_EQ(fcntl(reader, F_SETSIG, SIGRTMIN + 6), 0);
  ASSERT_EQ(take(reader), 0);
  const auto before = stat_of(reader);
  write_file(beside("other"), page, 'o');
  const descriptor other = opened(beside("other"), O_RDONLY);
  ASSERT_EQ(dup2(other, number), number);  // as an application does that closes numbers it does not know
  EXPECT_EQ(held(number), F_UNLCK) << "looks like a broken lease";
  EXPECT_EQ(give(number), EAGAIN) << "looks like a forced one";
  EXPECT_NE(stat_of(number).stx_ino, before.stx_ino) << "what tells: the inode";
  EXPECT_EQ(fcntl(number, F_GETSIG), 0) << "and the signal";
  EXPECT_EQ(open_error(file(), O_WRONLY | O_NONBLOCK), EAGAIN) << "while the lease itself stands";
}

// Change of user -----------------------------------------------------------------------------------------

constexpr int heard = 10, heard_nothing = 11;

/* Takes a lease as one user, goes on as another, and tells what it hears of a break. Its writer is the
 * caller's. */
int change_user(const std::string& file, bool owner_set_as_root, const gate& changed) {
  const int signal = SIGRTMIN + 6;
  const sigset_t set = only(signal);
  NEED(sigprocmask(SIG_BLOCK, &set, nullptr) == 0);
  const descriptor reader = opened(file, O_RDONLY);
  NEED(fcntl(reader, F_SETSIG, signal) == 0);
  if (!owner_set_as_root) NEED(setresuid(somebody, somebody, 0) == 0);
  NEED(take(reader) == 0);
  NEED(fcntl(reader, F_SETOWN, getpid()) == 0);
  if (!owner_set_as_root) NEED(seteuid(0) == 0);
  NEED(setresuid(somebody_else, somebody_else, somebody_else) == 0);
  changed.say();
  NEED(eventually([&] { return held(reader) == F_UNLCK; }));  // polling sees it in any case
  siginfo_t info{};
  const bool signalled = next_signal(signal, &info, milliseconds(0)) == signal;
  NEED(give(reader) == EACCES);
  return signalled ? heard : heard_nothing;
}

TEST_F(ChangeOfUser, SilencesTheSignalAndForbidsTheRelease) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root, to become two others";
  ASSERT_EQ(chown(file().c_str(), somebody, somebody), 0);
  for (const bool owner_set_as_root : {false, true}) {  // root's word goes on being heard: the contrast
    const gate changed;
    child holder([&] { return change_user(file(), owner_set_as_root, changed); });
    changed.wait();
    EXPECT_EQ(open_error(file(), O_WRONLY | O_NONBLOCK), EAGAIN);
    EXPECT_TRUE(holder.exits(owner_set_as_root ? heard : heard_nothing)) << "status " << holder.status();
  }
}

TEST_F(ChangeOfUser, LeavesClosingAndUnmappingAsTheWayToRelease) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root, to become another";
  const gate held_now, release;
  child holder([&] {
    descriptor reader = opened(file(), O_RDONLY);
    mapping view(reader, page, PROT_READ, MAP_SHARED);
    NEED(take(reader) == 0);
    NEED(setresuid(somebody, somebody, somebody) == 0);
    held_now.say();
    release.wait();
    NEED(give(reader) == EACCES);
    NEED(mmap(view.data(), page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == view.data());
    reader.close();
    release.wait();
    return 0;
  });
  held_now.wait();
  child writer([&] { return open_error(file(), O_WRONLY); });
  EXPECT_TRUE(eventually([&] { return writer.asleep(); }));
  release.say();
  EXPECT_TRUE(writer.exits(0));
  release.say();
  EXPECT_TRUE(holder.exits(0));
}

// Signals ------------------------------------------------------------------------------------------------

TEST_F(BreakSignal, BearsThePollCodeAndTheDescriptor) {
  const descriptor reader = opened(file(), O_RDONLY);
  ASSERT_EQ(fcntl(reader, F_SETSIG, signal), 0);
  ASSERT_EQ(take(reader), 0);
  siginfo_t info{};
  EXPECT_EQ(next_signal(signal, &info, milliseconds(0)), 0);
  ASSERT_EQ(open_error(file(), O_WRONLY | O_NONBLOCK), EAGAIN);
  ASSERT_EQ(next_signal(signal, &info, seconds(1)), signal);
  EXPECT_EQ(info.si_code, POLL_MSG);
  EXPECT_EQ(info.si_fd, reader);
  ASSERT_EQ(kill(getpid(), signal), 0);
  ASSERT_EQ(next_signal(signal, &info, seconds(1)), signal);
  EXPECT_EQ(info.si_code, SI_USER) << "which an application's signal does not";
}

/* A thread that waits for one signal and keeps what came; join() gives it. */
class listener {
 public:
  explicit listener(int signal)
      : thread_([this, signal] {
          task_ = gettid();
          seen_ = next_signal(signal, &info_, seconds(5));
        }) {
    eventually([this] { return task_ != 0 && task_state(getpid(), task_) == 'S'; });
  }
  ~listener() {
    if (thread_.joinable()) thread_.join();
  }
  pid_t task() const { return task_; }
  int join() {
    thread_.join();
    return seen_;
  }
  const siginfo_t& info() const { return info_; }

 private:
  std::atomic<pid_t> task_{0};
  int seen_ = 0;
  siginfo_t info_{};
  std::thread thread_;
};

TEST_F(BreakSignal, GoesToOneThreadWhenAskedTo) {
  const descriptor reader = opened(file(), O_RDONLY);
  listener keeper(signal);
  const f_owner_ex owner{F_OWNER_TID, keeper.task()};
  ASSERT_EQ(fcntl(reader, F_SETSIG, signal), 0);
  ASSERT_EQ(fcntl(reader, F_SETOWN_EX, &owner), 0);
  ASSERT_EQ(take(reader), 0);
  f_owner_ex seen{};
  ASSERT_EQ(fcntl(reader, F_GETOWN_EX, &seen), 0);
  EXPECT_EQ(seen.pid, keeper.task()) << "taking the lease leaves an owner that was set before";
  ASSERT_EQ(open_error(file(), O_WRONLY | O_NONBLOCK), EAGAIN);
  siginfo_t info{};
  EXPECT_EQ(next_signal(signal, &info, milliseconds(0)), 0) << "not this thread's";
  EXPECT_EQ(keeper.join(), signal);
}

TEST_F(BreakSignal, WaiterAlsoTakesWhatWasSentToTheWholeProcess) {
  siginfo_t info{};
  {
    listener keeper(signal);
    ASSERT_EQ(kill(getpid(), signal), 0);
    EXPECT_EQ(keeper.join(), signal) << "taken from the application";
    EXPECT_EQ(keeper.info().si_code, SI_USER);

    // It can be given back whole: to itself a process may send any code.
    siginfo_t back = keeper.info();
    ASSERT_EQ(syscall(SYS_rt_sigqueueinfo, getpid(), signal, &back), 0);
    ASSERT_EQ(next_signal(signal, &info, seconds(1)), signal);
    EXPECT_EQ(info.si_code, SI_USER);
    EXPECT_EQ(info.si_pid, getpid());
  }
  listener keeper(signal);
  ASSERT_EQ(syscall(SYS_tgkill, getpid(), gettid(), signal), 0);
  EXPECT_EQ(next_signal(signal, &info, seconds(1)), signal) << "what was sent to one thread it leaves";
  ASSERT_EQ(syscall(SYS_tgkill, getpid(), keeper.task(), signal), 0);
  EXPECT_EQ(keeper.join(), signal);
}

TEST_F(BreakSignal, BecomesSigioWhenTheQueueIsFull) {
  for (const bool full : {false, true}) {
    child holder([&] {
      const descriptor reader = opened(file(), O_RDONLY);
      NEED(fcntl(reader, F_SETSIG, signal) == 0);
      NEED(take(reader) == 0);
      rlimit limit{};
      NEED(getrlimit(RLIMIT_SIGPENDING, &limit) == 0);
      if (full) limit.rlim_cur = 0;
      NEED(setrlimit(RLIMIT_SIGPENDING, &limit) == 0);
      NEED(open_error(file(), O_WRONLY | O_NONBLOCK) == EAGAIN);
      siginfo_t info{};
      const bool asked_for = next_signal(signal, &info, milliseconds(0)) == signal;
      const bool fallback = next_signal(SIGIO, &info, milliseconds(0)) == SIGIO;
      NEED(asked_for == !full);
      NEED(fallback == full);
      NEED(held(reader) == F_UNLCK);  // polling finds it either way
      return 0;
    });
    EXPECT_TRUE(holder.exits(0)) << (full ? "full" : "with room");
  }
}

TEST_F(BreakSignal, FallbackKillsAProcessThatDoesNotBlockIt) {
  child holder([&] {
    const descriptor reader = opened(file(), O_RDONLY);
    NEED(fcntl(reader, F_SETSIG, signal) == 0);
    NEED(take(reader) == 0);
    const rlimit none{0, 0};
    NEED(setrlimit(RLIMIT_SIGPENDING, &none) == 0);
    const sigset_t io = only(SIGIO);
    NEED(sigprocmask(SIG_UNBLOCK, &io, nullptr) == 0);
    NEED(open_error(file(), O_WRONLY | O_NONBLOCK) == EAGAIN);
    return 0;
  });
  EXPECT_TRUE(holder.dies_of(SIGIO));
}

}  // namespace
