// SPDX-License-Identifier: Apache-2.0
//
// The reserve on its own: what it keeps, hands out, and gives up. That a detach uses it: detach_test.cpp.
#include "reserve.hpp"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>
#include <stillmap/snapshot.hpp>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>

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
    // While there is a lease the keeper does not shut the reserve on its way to sleep.
    if (const char* const folder = std::getenv("STILLMAP_TEST_EXT4")) {
      const std::string path = std::string(folder) + "/reserve";
      std::ofstream(path, std::ios::binary) << "leased";
      std::error_code ec;
      awake_ = snapshot::open(path, {.backing = backing::leased}, ec);
      ASSERT_FALSE(ec) << still_message();
    }
    reserve::shut();
    reserve::open();
    ASSERT_EQ(reserve::kept_bytes(), 0u);
  }
  void TearDown() override {
    testing_support::answer_no_more();
    reserve::shut();
    EXPECT_EQ(reserve::kept_bytes(), 0u);
  }

  snapshot awake_;
};

std::byte* congruent_with(std::uintptr_t address) { return reinterpret_cast<std::byte*>(address); }

TEST_F(Reserve, HandsOutWhatCameBack) {
  std::byte* const memory = filled(12 * mib, 'x');
  reserve::give_back(memory, 12 * mib);
  EXPECT_EQ(reserve::kept_bytes(), 12 * mib);
  const std::size_t bytes = 5 * mib;
  std::byte* const taken = reserve::take(bytes, congruent_with(5 * 4096));
  ASSERT_NE(taken, nullptr);
  EXPECT_EQ((reinterpret_cast<std::uintptr_t>(taken) - 5 * 4096) % (2 * mib), 0u);
  EXPECT_GE(taken, memory);
  EXPECT_LE(taken + bytes, memory + 12 * mib);
  for (std::size_t at = 0; at < bytes; at += 4096) ASSERT_EQ(taken[at], std::byte('x')) << at;
  EXPECT_EQ(reserve::kept_bytes(), static_cast<std::size_t>(taken - memory));
  for (std::byte* at = memory; at < taken; at += 4096) ASSERT_EQ(*at, std::byte('x'));
  EXPECT_FALSE(testing_support::try_read(memory + 12 * mib - 4096)) << "what is too little to keep is unmapped";
  reserve::give_back(taken, bytes);
}

TEST_F(Reserve, HandsOutFreshMemoryWhereItHasNoPieceLargeEnough) {
  reserve::give_back(filled(4 * mib, 'x'), 4 * mib);
  std::byte* const taken = reserve::take(5 * mib, nullptr);
  ASSERT_NE(taken, nullptr);
  for (std::size_t at = 0; at < 5 * mib; at += 4096) ASSERT_EQ(taken[at], std::byte{0}) << at;
  EXPECT_EQ(reserve::kept_bytes(), 4 * mib);
  kernel::unmap(taken, 5 * mib);
}

// Else the kernel would not move it as a whole.
TEST_F(Reserve, IsOfOneMappingWhateverWasAdvised) {
  std::byte* const memory = filled(8 * mib, 'x');
  ASSERT_EQ(kernel::advise(memory + 2 * mib, 2 * mib, MADV_RANDOM), 0);
  ASSERT_EQ(kernel::protect(memory + 4 * mib, 2 * mib, PROT_READ), 0);
  reserve::give_back(memory, 8 * mib);
  std::size_t mappings = 0;
  std::ifstream maps("/proc/self/maps");
  const auto begin = reinterpret_cast<std::uintptr_t>(memory), end = begin + 8 * mib;
  for (std::string line; std::getline(maps, line);) {
    std::uintptr_t from = 0, to = 0;
    if (std::sscanf(line.c_str(), "%lx-%lx", &from, &to) == 2 && from < end && to > begin) ++mappings;
  }
  EXPECT_EQ(mappings, 1u);
}

TEST_F(Reserve, TakesBackWhatIsReadOnlyAndUnmapsItInTheEnd) {
  std::byte* const memory = filled(5 * mib, 'x');
  ASSERT_EQ(kernel::protect(memory, 5 * mib, PROT_READ), 0);
  reserve::give_back(memory, 5 * mib);
  EXPECT_EQ(reserve::kept_bytes(), 5 * mib);
  EXPECT_TRUE(testing_support::try_read(memory));
  reserve::shut();
  EXPECT_FALSE(testing_support::try_read(memory));
}

TEST_F(Reserve, KeepsNoMoreThanItsLimit) {
  for (int i = 0; i < 12; ++i) reserve::give_back(filled(10 * mib, 'x'), 10 * mib);
  EXPECT_EQ(reserve::kept_bytes(), 60 * mib);
}

// What it is full of may be of no use: the newest takes the place of the oldest.
TEST_F(Reserve, KeepsTheNewest) {
  for (int i = 0; i < 12; ++i) reserve::give_back(filled(10 * mib, 'x'), 10 * mib);
  std::byte* const newest = filled(20 * mib, 'n');
  reserve::give_back(newest, 20 * mib);
  EXPECT_LE(reserve::kept_bytes(), 64 * mib);
  EXPECT_EQ(reserve::take(20 * mib, newest), newest);
  EXPECT_EQ(*newest, std::byte('n'));
  EXPECT_EQ(reserve::kept_bytes(), 40 * mib);
  kernel::unmap(newest, 20 * mib);
}

TEST_F(Reserve, KeepsAPartOfWhatIsLargerThanAll) {
  reserve::give_back(filled(100 * mib, 'x'), 100 * mib);
  EXPECT_EQ(reserve::kept_bytes(), 64 * mib);
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
