// SPDX-License-Identifier: Apache-2.0
#include "pool.hpp"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <vector>

#include "linux/kernel.hpp"
#include "memory.hpp"
#include "settings.hpp"

namespace stillmap {
namespace {

TEST(Pool, GivesRoomForWhatWasAskedAndWastesLittle) {
  for (std::size_t bytes = 1; bytes < (std::size_t{40} << 20); bytes += bytes / 3 + 1) {
    const std::size_t capacity = pool::capacity_for(bytes);
    EXPECT_GE(capacity, bytes);
    EXPECT_LE(capacity, bytes + bytes / 4 + 2 * memory::page_bytes());
    EXPECT_EQ(capacity % memory::page_bytes(), 0u);
  }
}

TEST(Pool, RecyclesEverySizeItHandsOut) {
  for (const std::size_t bytes :
       {1u, 4096u, 4097u, 5000u, 8193u, 100000u, 1u << 20, (1u << 20) + 1, 16u << 20}) {
    const pool::buffer first = pool::take(bytes);
    ASSERT_TRUE(first);
    std::memset(first.data, 1, bytes);
    pool::give_back(first);
    const pool::buffer second = pool::take(bytes);
    EXPECT_EQ(second.data, first.data) << bytes;
    pool::give_back(second);
  }
}

TEST(Pool, KeepsNoMoreThanItsBound) {
  std::vector<pool::buffer> taken;
  for (int i = 0; i < 12; ++i) taken.push_back(pool::take(std::size_t{16} << 20));
  for (const pool::buffer& one : taken) pool::give_back(one);
  EXPECT_LE(pool::kept_bytes(), settings::instance().pool_bytes);
  EXPECT_GT(pool::kept_bytes(), 0u);
}

TEST(Pool, BuffersAreAlignedForParsers) {
  for (const std::size_t bytes : {1u, 5000u, 70000u, 3u << 20}) {
    const pool::buffer one = pool::take(bytes);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(one.data) % 64, 0u);
    pool::give_back(one);
  }
}

TEST(Memory, TheBudgetIsASumThatComesBackToZero) {
  const std::uint64_t before = memory::charged();
  EXPECT_FALSE(memory::charge(100, 99));
  EXPECT_FALSE(memory::charge(settings::instance().memory_budget + 1, UINT64_MAX));
  ASSERT_TRUE(memory::charge(100, 100));
  EXPECT_EQ(memory::charged(), before + 100);
  memory::discharge(100);
  EXPECT_EQ(memory::charged(), before);
}

TEST(Memory, ReplacementsAreCongruentModuloTwoMebibytes) {
  constexpr std::uintptr_t huge = std::uintptr_t{2} << 20;
  for (const std::uintptr_t like :
       {std::uintptr_t{0x7f0000001000}, std::uintptr_t{0x7f00001ff000}, std::uintptr_t{0x7f0000000000}}) {
    std::byte* const one = memory::map_congruent(5 * huge + 4096, reinterpret_cast<const std::byte*>(like));
    ASSERT_NE(one, nullptr);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(one) % huge, like % huge);
    kernel::unmap(one, 5 * huge + 4096);
  }
}

}  // namespace
}  // namespace stillmap
