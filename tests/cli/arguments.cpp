// SPDX-License-Identifier: Apache-2.0
//
// From words to a request.
#include "grep/arguments.hpp"

#include <gtest/gtest.h>

#include <algorithm>

namespace still::grep {
namespace {

request parsed(std::vector<std::string> words) {
  CLI::App app("", "still grep");
  arguments typed;
  declare(app, typed);
  words = normalized(std::move(words));
  std::reverse(words.begin(), words.end());
  app.parse(words);
  return understand(typed);
}

using words = std::vector<std::string>;

TEST(arguments, pattern_and_paths) {
  const request what = parsed({"foo", "a", "b"});
  EXPECT_EQ(what.patterns, words{"foo"});
  EXPECT_EQ(what.paths, (words{"a", "b"}));
}

TEST(arguments, brackets_are_not_lists) {
  EXPECT_EQ(parsed({"[a,b]", "[c,d]"}).patterns, words{"[a,b]"});
  EXPECT_EQ(parsed({"[a,b]", "[c,d]"}).paths, words{"[c,d]"});
  EXPECT_EQ(parsed({"-e", "[a,b]", "x"}).patterns, words{"[a,b]"});
  EXPECT_EQ(parsed({"-e[a,b]", "x"}).patterns, words{"[a,b]"});
  EXPECT_EQ(parsed({"--regexp=[a,b]", "x"}).patterns, words{"[a,b]"});
}

TEST(arguments, a_pattern_may_look_like_an_option) {
  EXPECT_EQ(parsed({"-e", "-foo", "x"}).patterns, words{"-foo"});
  EXPECT_EQ(parsed({"-e", "--color", "x"}).patterns, words{"--color"});
  EXPECT_EQ(parsed({"-e", "-5", "x"}).patterns, words{"-5"});
  EXPECT_EQ(parsed({"--", "-foo", "x"}).patterns, words{"-foo"});
  EXPECT_EQ(parsed({"-ne", "-v", "x"}).patterns, words{"-v"});
}

TEST(arguments, a_newline_separates_patterns) {
  EXPECT_EQ(parsed({"a\nb", "x"}).patterns, (words{"a", "b"}));
  EXPECT_EQ(parsed({"-e", "a", "-e", "b\n", "x"}).patterns, (words{"a", "b", ""}));
}

TEST(arguments, with_e_every_positional_is_a_path) {
  EXPECT_EQ(parsed({"-e", "a", "x", "y"}).paths, (words{"x", "y"}));
  EXPECT_EQ(parsed({"x", "-e", "a", "y"}).paths, (words{"x", "y"}));
}

TEST(arguments, color_without_a_value_takes_no_path) {
  const request what = parsed({"--color", "foo", "x"});
  EXPECT_EQ(what.patterns, words{"foo"});
  EXPECT_TRUE(parsed({"--color=always", "foo", "x"}).color);
}

TEST(arguments, context) {
  EXPECT_EQ(parsed({"-3", "a", "x"}).before, 3U);
  EXPECT_EQ(parsed({"-C3", "-A", "1", "a", "x"}).after, 1U);
  EXPECT_EQ(parsed({"-C3", "-A", "1", "a", "x"}).before, 3U);
  EXPECT_FALSE(parsed({"a", "x"}).context);
  EXPECT_TRUE(parsed({"-A0", "a", "x"}).context);
  EXPECT_EQ(parsed({"-m99999999999999999999", "a", "x"}).max_count, unlimited);
  EXPECT_THROW(parsed({"-A", "x", "a", "x"}), usage_error);
}

TEST(arguments, the_last_of_two_that_contradict_counts) {
  EXPECT_EQ(parsed({"-H", "-h", "a", "x"}).names, naming::never);
  EXPECT_EQ(parsed({"-hH", "a", "x"}).names, naming::always);
  EXPECT_EQ(parsed({"-lL", "a", "x"}).report, report::files_without_match);
  EXPECT_EQ(parsed({"-Lq", "a", "x"}).report, report::nothing);
  EXPECT_EQ(parsed({"-m1", "-m2", "a", "x"}).max_count, 2U);
  EXPECT_TRUE(parsed({"-i", "-i", "a", "x"}).ignore_case);
}

TEST(arguments, no_pattern_is_an_error) {
  EXPECT_THROW(parsed({}), usage_error);
  EXPECT_THROW(parsed({"-f", "/nonexistent/file", "x"}), usage_error);
  EXPECT_TRUE(parsed({"-f", "/dev/null", "x"}).patterns.empty());
}

}  // namespace
}  // namespace still::grep
