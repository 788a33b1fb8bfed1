// SPDX-License-Identifier: Apache-2.0
//
// The reserve on its own: what it keeps, hands out, and gives up. That a detach uses it: detach_test.cpp.
#include "reserve.hpp"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>

#include "fault_guard.hpp"
#include "linux/kernel.hpp"
#include "memory.hpp"
#include "stand_in.hpp"

namespace stillmap {
namespace {

constexpr std::size_t mib = std::size_t{1} << 20;

std::byte* filled(std::size_t bytes, char with) {
  std::byte* const memory = memory::map_private(bytes);
  std::memset(memory, with, bytes);
  return memory;
}

class Reserve : public testing::Test {
 protected:
  void SetUp() override {
    reserve::shut();
    reserve::open();
    ASSERT_EQ(reserve::kept_bytes(), 0u);
  }
  void TearDown() override {
    testing_support::answer_no_more();
    reserve::shut();
    EXPECT_EQ(reserve::kept_bytes(), 0u);
  }
};

TEST_F(Reserve, HandsOutWhatCameBackAndFreshMemoryForTheRest) {
  reserve::give_back(filled(4 * mib, 'x'), 4 * mib);
  EXPECT_EQ(reserve::kept_bytes(), 4 * mib);
  std::byte* const like = reinterpret_cast<std::byte*>(std::uintptr_t{5} * 4096);
  const std::size_t bytes = 9 * mib;
  std::byte* const taken = reserve::take(bytes, like);
  ASSERT_NE(taken, nullptr);
  EXPECT_EQ(reserve::kept_bytes(), 0u);
  EXPECT_EQ((reinterpret_cast<std::uintptr_t>(taken) - std::uintptr_t{5} * 4096) % (2 * mib), 0u);
  std::size_t old = 0;
  for (std::size_t at = 0; at < bytes; ++at) {
    if (taken[at] == std::byte('x')) ++old;
    else ASSERT_EQ(taken[at], std::byte{0}) << at;
  }
  EXPECT_EQ(old, 4 * mib);
  std::memset(taken, 'y', bytes);
  reserve::give_back(taken, bytes);
  EXPECT_EQ(reserve::kept_bytes(), 6 * mib);  // the whole huge pages in it
}

TEST_F(Reserve, TakesBackWhatIsReadOnlyAndUnmapsWhatItDoesNotKeep) {
  std::byte* const memory = filled(5 * mib, 'x');
  ASSERT_EQ(kernel::protect(memory, 5 * mib, PROT_READ), 0);
  reserve::give_back(memory, 5 * mib);
  EXPECT_EQ(reserve::kept_bytes(), 4 * mib);
  EXPECT_TRUE(testing_support::try_read(memory));
  EXPECT_FALSE(testing_support::try_read(memory + 4 * mib));
  reserve::shut();
  EXPECT_FALSE(testing_support::try_read(memory));
}

TEST_F(Reserve, KeepsNoMoreThanItsLimit) {
  for (int i = 0; i < 12; ++i) reserve::give_back(filled(10 * mib, 'x'), 10 * mib);
  EXPECT_LE(reserve::kept_bytes(), 64 * mib);
  EXPECT_GE(reserve::kept_bytes(), 60 * mib);
}

TEST_F(Reserve, KeepsNothingOnceShut) {
  reserve::shut();
  reserve::give_back(filled(4 * mib, 'x'), 4 * mib);
  EXPECT_EQ(reserve::kept_bytes(), 0u);
}

TEST_F(Reserve, IsGivenUpWhereTheMachineIsShortOfMemory) {
  reserve::give_back(filled(4 * mib, 'x'), 4 * mib);
  reserve::tend();
  EXPECT_EQ(reserve::kept_bytes(), 4 * mib);
  testing_support::answer([](long number, const long(&a)[6], long& result) {
    static constexpr char text[] = "MemTotal:       100000 kB\nMemFree:  50 kB\nMemAvailable:     4999 kB\n";
    if (number != SYS_read || a[2] != 512) return false;
    std::memcpy(reinterpret_cast<void*>(a[1]), text, sizeof text - 1);
    result = sizeof text - 1;
    return true;
  });
  reserve::tend();
  EXPECT_EQ(reserve::kept_bytes(), 0u);
}

TEST_F(Reserve, IsWholeWhereTheKernelWillMoveNothing) {
  reserve::give_back(filled(4 * mib, 'x'), 4 * mib);
  testing_support::answer([](long number, const long(&)[6], long& result) {
    result = -ENOMEM;
    return number == SYS_mremap;
  });
  std::byte* const taken = reserve::take(4 * mib, nullptr);
  ASSERT_NE(taken, nullptr);
  for (std::size_t at = 0; at < 4 * mib; at += 4096) EXPECT_EQ(taken[at], std::byte{0});
  kernel::unmap(taken, 4 * mib);
}

TEST_F(Reserve, IsNotInherited) {
  std::byte* const memory = filled(4 * mib, 'x');
  reserve::give_back(memory, 4 * mib);
  const pid_t child = ::fork();
  if (child == 0) {
    const bool kept = reserve::kept_bytes() != 0 || testing_support::try_read(memory);
    std::byte* const taken = reserve::take(4 * mib, nullptr);
    ::_exit(!kept && taken != nullptr && taken[0] == std::byte{0} ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(reserve::kept_bytes(), 4 * mib);
}

}  // namespace
}  // namespace stillmap
