// SPDX-License-Identifier: Apache-2.0
//
// Pages of many threads through one descriptor: each in one piece, and in turn where they have turns.
#include "grep/outlet.hpp"

#include <gtest/gtest.h>

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <string>
#include <thread>
#include <vector>

namespace still::grep {
namespace {

constexpr std::uint64_t pages = 200;

// Page i has a line for each of its marks; every seventh is large enough to be streamed.
std::string written(bool in_turn) {
  const int file = memfd_create("output", MFD_CLOEXEC);
  {
    outlet out(file, "--\n");
    std::atomic<std::uint64_t> next = 0;
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i) {
      threads.emplace_back([&] {
        std::string buffer;
        for (std::uint64_t mine; (mine = next++) < pages;) {
          page one(out, buffer, in_turn ? std::optional(mine) : std::nullopt);
          if (mine % 5 == 3) continue;
          for (std::size_t n = mine % 7 == 0 ? 60'000 : 3; n > 0; --n) {
            one.text() += std::to_string(mine) + ":line\n";
            one.relieve();
          }
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(out.failure(), 0);
  }
  std::string text(static_cast<std::size_t>(lseek(file, 0, SEEK_END)), '\0');
  EXPECT_EQ(pread(file, text.data(), text.size(), 0), static_cast<ssize_t>(text.size()));
  close(file);
  return text;
}

std::vector<std::uint64_t> order_of_pages(const std::string& text) {
  std::vector<std::uint64_t> seen;
  for (std::size_t at = 0; at < text.size(); at = text.find('\n', at) + 1) {
    if (text[at] == '-') {
      seen.push_back(pages);
      continue;
    }
    const std::uint64_t number = std::stoull(text.substr(at, 8));
    if (seen.empty() || seen.back() != number) seen.push_back(number);
  }
  return seen;
}

std::vector<std::uint64_t> expected() {
  std::vector<std::uint64_t> all;
  for (std::uint64_t i = 0; i < pages; ++i) {
    if (i % 5 == 3) continue;
    if (!all.empty()) all.push_back(pages);
    all.push_back(i);
  }
  return all;
}

TEST(outlet, pages_with_turns_come_in_order) {
  EXPECT_EQ(order_of_pages(written(true)), expected());
}

TEST(outlet, pages_without_turns_come_whole) {
  std::vector<std::uint64_t> seen = order_of_pages(written(false));
  EXPECT_EQ(seen.size(), expected().size()) << "a page was cut in two, or lost";
  std::sort(seen.begin(), seen.end());
  std::vector<std::uint64_t> all = expected();
  std::sort(all.begin(), all.end());
  EXPECT_EQ(seen, all);
}

TEST(outlet, a_failed_write_is_remembered) {
  const int full = open("/dev/full", O_WRONLY | O_CLOEXEC);
  outlet out(full, "");
  std::string buffer;
  { page(out, buffer, {}).text() = "x\n"; }
  EXPECT_EQ(out.failure(), ENOSPC);
  close(full);
}

}  // namespace
}  // namespace still::grep
