// SPDX-License-Identifier: Apache-2.0
//
// What the rewriting promises about a pattern, case by case. That the promises hold is for engines.cpp.
#include "grep/finder_text.hpp"

#include <gtest/gtest.h>

namespace still::grep {
namespace {

TEST(finder_text, common_patterns_need_no_judge) {
  for (const char* const text : {"foo", "^#define\\s+[A-Z_]{20,}", "\\bint\\b.*\\breturn\\b", "[^a]b", "a|b",
                                 "(ab)+c", "a.c", "[[:alpha:]]+1", "x{3}", "{", "\\.", "(?i)foo"}) {
    const finder_text found = rewrite(text, false, false);
    EXPECT_TRUE(found.usable && found.exact) << text;
  }
}

TEST(finder_text, what_cannot_be_expressed_is_weakened) {
  for (const char* const text : {"(a)\\1", "a(?=b)", "(?<!a)b", "a++b", "[\\n]"}) {
    const finder_text found = rewrite(text, false, false);
    EXPECT_TRUE(found.usable) << text;
    EXPECT_FALSE(found.exact) << text;
  }
}

TEST(finder_text, what_is_unknown_is_given_up) {
  for (const char* const text : {"\\Aa", "a\\z", "\\Qa", "(?x)a b", "(?m)a", "(*UCP)a", "\\p{L}", "\\h",
                                 "a\\Kb", "(?#x)a", "[[:^alpha:]]", "\\012", "(?(1)a|b)", "(?1)", "a\\"}) {
    EXPECT_FALSE(rewrite(text, false, false).usable) << text;
  }
}

TEST(finder_text, bytes_suffice_where_characters_make_no_difference) {
  EXPECT_TRUE(rewrite("foo", false, true).bytes_suffice);
  EXPECT_TRUE(rewrite("caf\xc3\xa9+", false, true).bytes_suffice);
  EXPECT_TRUE(rewrite("[a-z]+0", false, true).bytes_suffice);
  EXPECT_TRUE(rewrite("bar", true, true).bytes_suffice);
  for (const char* const text : {"a.b", "[^a]", "\\w", "\\bx", "\\S", "[\xc3\xa9]", "(?i)a"})
    EXPECT_FALSE(rewrite(text, false, true).bytes_suffice) << text;
  EXPECT_FALSE(rewrite("ask", true, true).bytes_suffice);
  EXPECT_FALSE(rewrite("\xc3\xa9", true, true).usable);
}

TEST(finder_text, quoting_leaves_no_operator) {
  EXPECT_EQ(quoted("a.b*_"), "a\\.b\\*\\_");
}

}  // namespace
}  // namespace still::grep
