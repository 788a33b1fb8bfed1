// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <gtest/gtest.h>

#include <cstring>

#include "failure.hpp"
#include "options.hpp"
#include "snapshot.hpp"

namespace stillmap {
namespace {

still_options fresh() {
  still_options options{};
  options.size = sizeof options;
  return options;
}

// A value that the enumeration does not have, as a C program may pass it.
template <class Enumeration>
void set(Enumeration& field, unsigned value) {
  std::memcpy(&field, &value, sizeof value);
}

int read(const still_options& options) {
  request into;
  return read_options(&options, into);
}

TEST(Options, ZeroMeansDefault) {
  request into;
  ASSERT_EQ(read_options(nullptr, into), 0);
  EXPECT_EQ(into.require, STILL_VERIFIED);
  EXPECT_EQ(into.backing, STILL_AUTO);
  EXPECT_GT(into.memory_budget, 0u);
  const still_options options = fresh();
  request same;
  ASSERT_EQ(read_options(&options, same), 0);
  EXPECT_EQ(same.require, into.require);
}

TEST(Options, AWayWithoutProtectionNeedsNoLevelButMayNotClaimOne) {
  for (const still_backing backing : {STILL_COOPERATIVE, STILL_TRUSTED}) {
    still_options options = fresh();
    options.backing = backing;
    request into;
    ASSERT_EQ(read_options(&options, into), 0);
    EXPECT_EQ(into.require, STILL_TORN);
    options.require = STILL_VERIFIED;
    ASSERT_EQ(read_options(&options, into), 0);
    EXPECT_EQ(into.require, STILL_VERIFIED);
  }
}

TEST(Options, TooSmallAStructIsInvalid) {
  still_options options = fresh();
  options.size = 0;
  EXPECT_EQ(read(options), EINVAL);
  options.size = sizeof options - 1;
  EXPECT_EQ(read(options), EINVAL);
}

TEST(Options, ALargerStructIsFineWhereWhatWeDoNotKnowIsZero) {
  struct {
    still_options known;
    char later[16];
  } grown{};
  grown.known.size = sizeof grown;
  EXPECT_EQ(read(grown.known), 0);
  grown.later[3] = 1;
  EXPECT_EQ(read(grown.known), E2BIG);
}

TEST(Options, UnknownValuesAreInvalid) {
  still_options options = fresh();
  options.flags = 1u << 20;
  EXPECT_EQ(read(options), EINVAL);
  options = fresh();
  options.access = 3;
  EXPECT_EQ(read(options), EINVAL);
  options = fresh();
  options.fork = 2;
  EXPECT_EQ(read(options), EINVAL);
  options = fresh();
  set(options.backing, 99);
  EXPECT_EQ(read(options), EINVAL);
  options = fresh();
  set(options.require, 4);
  EXPECT_EQ(read(options), EINVAL);
}

TEST(Options, ARangeThatOverflowsIsRefused) {
  still_options options = fresh();
  options.offset = UINT64_MAX;
  options.length = 2;
  EXPECT_EQ(read(options), EOVERFLOW);
}

TEST(Range, EndsWhereTheFileDoes) {
  request wanted;
  std::uint64_t length = 0;
  wanted.offset = 10;
  EXPECT_EQ(range_of(wanted, 10, length), 0);
  EXPECT_EQ(length, 0u);
  EXPECT_EQ(range_of(wanted, 9, length), ERANGE);
  EXPECT_EQ(range_of(wanted, 25, length), 0);
  EXPECT_EQ(length, 15u);
  wanted.length = 16;
  EXPECT_EQ(range_of(wanted, 25, length), ERANGE);
}

TEST(Failure, SaysFileCauseAndRemedy) {
  fail({STILL_ERROR_CHANGING, "/some/file", "a cause", "a remedy", culprits::none, 0, 0});
  const char* const message = message_of_last_failure();
  EXPECT_NE(std::strstr(message, "/some/file"), nullptr);
  EXPECT_NE(std::strstr(message, "a cause"), nullptr);
  EXPECT_NE(std::strstr(message, "a remedy"), nullptr);
}

TEST(Failure, KeepsTheEndOfALongPath) {
  const std::string path = std::string(5000, 'x') + "/the-end";
  fail({ENOENT, path.c_str(), "", "", culprits::none, 0, 0});
  EXPECT_NE(std::strstr(message_of_last_failure(), "/the-end"), nullptr);
}

TEST(Failure, HasWordsForEveryNumber) {
  EXPECT_STREQ(words_for(0), "success");
  EXPECT_STREQ(words_for(ENOENT), "No such file or directory");
  for (int error = STILL_ERROR_BUSY_WRITER; error <= STILL_ERROR_LOST; ++error)
    EXPECT_STRNE(words_for(error), "unknown error");
  EXPECT_STREQ(words_for(STILL_ERROR_BASE + 999), "unknown error");
  EXPECT_STREQ(words_for(-1), "unknown error");
}

}  // namespace
}  // namespace stillmap
