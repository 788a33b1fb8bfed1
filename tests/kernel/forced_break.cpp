// SPDX-License-Identifier: Apache-2.0
//
// The forced break: what the kernel does when the holder of a lease has not answered within lease-break-time,
// and how little of it the holder is told. The warden's deadline (a break is late from the last moment the
// lease was seen whole), its only trusted answer (F_SETLEASE F_UNLCK) and the rule that a lease is never set
// again on the same descriptor come from here.
//
// lease-break-time is one second while these run; break_time puts it back.
#include <atomic>

#include "fixture.hpp"

namespace {

using namespace facts;

constexpr milliseconds nearly_the_break_time{
    800};  // jiffies round, clocks differ: less than this is no second

class ForcedBreak : public on_each_file_system {
 protected:
  void SetUp() override {
    on_each_file_system::SetUp();
    if (IsSkipped()) return;
    if (access("/proc/sys/fs/lease-break-time", W_OK) != 0)
      GTEST_SKIP() << "lease-break-time cannot be set here";
    short_time_.emplace(1);
  }

 private:
  std::optional<break_time> short_time_;
};
// The code is the kernel's own and no file system's: one with a disk and one without.
INSTANTIATE_TEST_SUITE_P(On, ForcedBreak, testing::Values("EXT4", "TMPFS"), file_system_name);

TEST_P(ForcedBreak, LooksLikeAPendingOneAndOnlyTheReleaseTells) {
  const descriptor in_time = opened(file(), O_RDONLY);
  ASSERT_EQ(take(in_time), 0);
  EXPECT_EQ(held(in_time), F_RDLCK);
  {
    child writer([&] { return open_error(file(), O_WRONLY); });
    ASSERT_TRUE(waits_for_lease(writer, in_time));
    EXPECT_EQ(held(in_time), F_UNLCK) << "pending";
    EXPECT_EQ(give(in_time), 0) << "in time";
    EXPECT_TRUE(writer.exits(0));
  }

  const descriptor late = opened(file(), O_RDONLY);
  ASSERT_EQ(take(late), 0);
  const auto start = clock::now();
  child writer([&] { return open_error(file(), O_WRONLY); });
  ASSERT_TRUE(waits_for_lease(writer, late));
  EXPECT_TRUE(writer.exits(0)) << "nobody answers: the kernel lets it pass";
  EXPECT_GE(clock::now() - start, nearly_the_break_time);
  EXPECT_EQ(held(late), F_UNLCK) << "forced: no different from pending";
  EXPECT_EQ(give(late), EAGAIN) << "too late";
}

TEST_P(ForcedBreak, LetsALeaseBeSetAgainAsIfNothingHadHappened) {
  const descriptor reader = opened(file(), O_RDONLY);
  const mapping view(reader, page, PROT_READ, MAP_SHARED);
  ASSERT_EQ(take(reader), 0);
  child writer([&] {
    const descriptor out = opened(file(), O_WRONLY);
    NEED(pwrite(out, "b", 1, 0) == 1);
    return 0;
  });
  ASSERT_TRUE(waits_for_lease(writer, reader));
  EXPECT_EQ(take(reader), EAGAIN) << "not while a writer hangs in open";
  EXPECT_TRUE(writer.exits(0));
  EXPECT_EQ(view.load(0), 'b');
  EXPECT_EQ(take(reader), 0) << "the writer has come and gone: a new lease";
  EXPECT_EQ(held(reader), F_RDLCK);
  EXPECT_EQ(give(reader), 0) << "which says that all is well: that would certify changed bytes";
}

TEST_P(ForcedBreak, SendsOneSignalForAnyNumberOfWritersAndNoneWhenTheTimeIsOver) {
  const int signal = SIGRTMIN + 5;
  const sigset_t set = only(signal);
  ASSERT_EQ(sigprocmask(SIG_BLOCK, &set, nullptr), 0);
  const descriptor reader = opened(file(), O_RDONLY);
  ASSERT_EQ(fcntl(reader, F_SETSIG, signal), 0);
  ASSERT_EQ(take(reader), 0);
  child first([&] { return open_error(file(), O_WRONLY); });
  ASSERT_TRUE(waits_for_lease(first, reader));
  child second([&] { return open_error(file(), O_RDWR); });
  ASSERT_TRUE(waits_for_lease(second, reader));

  siginfo_t info{};
  EXPECT_EQ(next_signal(signal, &info, seconds(5)), signal) << "real-time signals queue: each would be seen";
  EXPECT_TRUE(first.exits(0));
  EXPECT_TRUE(second.exits(0));
  EXPECT_EQ(give(reader), EAGAIN) << "it was forced";
  EXPECT_EQ(next_signal(signal, &info, milliseconds(0)), 0);
}

TEST_P(ForcedBreak, NeedsNoWriterThatWaits) {
  const descriptor reader = opened(file(), O_RDONLY);
  ASSERT_EQ(take(reader), 0);
  const auto start = clock::now();
  EXPECT_EQ(open_error(file(), O_WRONLY | O_NONBLOCK), EAGAIN);
  EXPECT_TRUE(eventually([&] { return open_error(file(), O_WRONLY | O_NONBLOCK) == 0; }, seconds(5)));
  EXPECT_GE(clock::now() - start, nearly_the_break_time);
  EXPECT_EQ(give(reader), EAGAIN);
}

TEST_P(ForcedBreak, ComesAtTheTimeSetWhenTheBreakBeganNotWhenTheLeaseWasTaken) {
  const descriptor reader = opened(file(), O_RDONLY);
  std::optional<break_time> long_time(std::in_place, 45);
  ASSERT_EQ(take(reader), 0);
  long_time.emplace(1);
  child passes([&] { return open_error(file(), O_WRONLY); });
  EXPECT_TRUE(passes.exits(0, seconds(5)));
  EXPECT_EQ(give(reader), EAGAIN);

  // And one begun under a long time keeps it, though the time is short by now.
  const descriptor again = opened(file(), O_RDONLY);
  ASSERT_EQ(take(again), 0);
  long_time.emplace(45);
  child hangs([&] { return open_error(file(), O_WRONLY); });
  ASSERT_TRUE(waits_for_lease(hangs, again));
  long_time.emplace(1);
  EXPECT_FALSE(eventually([&] { return hangs.ended(); }, milliseconds(1500)));
  EXPECT_EQ(give(again), 0);
  EXPECT_TRUE(hangs.exits(0));
}

TEST_P(ForcedBreak, NeverComesWhenTheTimeIsZero) {
  const descriptor reader = opened(file(), O_RDONLY);
  ASSERT_EQ(take(reader), 0);
  const break_time for_ever(0);
  child writer([&] { return open_error(file(), O_WRONLY); });
  ASSERT_TRUE(waits_for_lease(writer, reader));
  EXPECT_FALSE(eventually([&] { return writer.ended(); }, milliseconds(1500)));
  EXPECT_EQ(give(reader), 0) << "still in time";
  EXPECT_TRUE(writer.exits(0));
}

}  // namespace
