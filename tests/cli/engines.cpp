// SPDX-License-Identifier: Apache-2.0
//
// The two engines against each other: random patterns over random lines, searched with the finder and by the
// judge alone. They must select the same lines, in bytes and in UTF-8, with every way of framing a pattern.
// The grammar favours what finder_text.cpp rewrites; a pattern that PCRE2 refuses is thrown away.
#include "grep/pattern.hpp"

#include <gtest/gtest.h>

#include <memory>
#include <random>
#include <string>
#include <vector>

namespace still::grep {
namespace {

class generator {
 public:
  explicit generator(unsigned seed) : random_(seed) {}

  bool chance(unsigned percent) { return random_() % 100 < percent; }
  std::size_t below(std::size_t n) { return random_() % n; }
  template <std::size_t N>
  std::string one_of(const char* const (&choices)[N]) {
    return choices[below(N)];
  }

  std::string pattern(int depth = 2) {
    std::string out = sequence(depth);
    if (chance(15)) out += '|' + sequence(depth);
    return out;
  }

  std::string text(bool exotic) {
    std::string out;
    const std::size_t lines = 1 + below(30);
    for (std::size_t i = 0; i < lines; ++i) {
      for (std::size_t n = below(8); n > 0; --n) {
        if (exotic && chance(10))
          out += one_of({"\xc3\xa9", "\xc3\x89", "\xe2\x84\xaa", "\xc5\xbf", "\xff", "\xc3", "\xd9\xa3",
                         "\xe4\xb8\xad"});
        else
          out +=
              one_of({"a", "b", "k", "s", "A", "K", "1", "_", " ", ".", "-", "\t", "\r", "ab", "foo", "]"});
      }
      out += '\n';
    }
    if (chance(20)) out.pop_back();
    return out;
  }

 private:
  std::string sequence(int depth) {
    std::string out;
    if (chance(8)) out += '^';
    for (std::size_t n = 1 + below(4); n > 0; --n) {
      out += atom(depth);
      if (chance(30)) out += one_of({"*", "+", "?", "{2}", "{1,2}", "{0,1}", "+?", "*?", "*+", "++"});
    }
    if (chance(8)) out += '$';
    return out;
  }

  std::string atom(int depth) {
    if (depth > 0 && chance(12)) {
      return one_of({"(", "(?:", "(?i:", "(?=", "(?!", "(?<!", "(?<=", "(?s:", "(?-i:", "(?>", "(?<n>"}) +
             pattern(depth - 1) + ")";
    }
    if (chance(25)) {
      return one_of({".",   "\\d",   "\\w", "\\s",   "\\D",     "\\W", "\\S",  "\\b",
                     "\\B", "\\t",   "\\.", "\\x61", "\\x{62}", "\\-", "(?i)", "\\1",
                     "\\n", "\\x0a", "{",   "{,2}",  "]",       "}",   "\\]"});
    }
    if (chance(20)) {
      return one_of({"[ab]",         "[^a]",          "[^ab]",  "[]a]",        "[^]a]",        "[a-c]",
                     "[\\w-]",       "[^\\s]",        "[\\W_]", "[[:alpha:]]", "[^[:space:]]", "[[:upper:]]",
                     "[[:punct:]b]", "[\\n]",         "[^\\n]", "[a\\n]",      "[+--]",        "[\\d.]",
                     "[A-Z]",        "[\\x00-\\x20]", "[^\\D]", "[k]",         "[^s]",         "[\\]a-]"});
    }
    if (chance(5))
      return one_of(
          {"\xc3\xa9", "[\xc3\xa9]", "\xc5\xbf", "[^\xc3\xa9]", "\\x{e9}", "\xe4\xb8\xad", "[a-\xc3\xa9]"});
    return one_of({"a", "b", "k", "s", "A", "K", "1", "_", " ", "foo", "ab"});
  }

  std::mt19937 random_;
};

std::string numbers(const std::string& text, const std::vector<line>& lines) {
  std::string out;
  for (const line& hit : lines) out += std::to_string(hit.end - text.data()) + ' ';
  return out;
}

void compare(bool utf8, unsigned seed, int rounds, int& with_finder) {
  generator made(seed);
  for (int round = 0; round < rounds; ++round) {
    request what;
    what.utf8 = utf8;
    what.ignore_case = made.chance(25);
    what.whole_word = made.chance(15);
    what.whole_line = !what.whole_word && made.chance(10);
    what.fixed = made.chance(10);
    for (std::size_t n = made.chance(20) ? 1 + made.below(3) : 1; n > 0; --n)
      what.patterns.push_back(made.pattern());
    std::unique_ptr<pattern> both, judge_only;
    try {
      both = std::make_unique<pattern>(what);
      judge_only = std::make_unique<pattern>(what);
    } catch (const pattern_error&) {
      continue;
    }
    judge_only->drop_finder();
    with_finder += both->has_finder() ? 1 : 0;
    matcher fast(*both), slow(*judge_only);
    for (int texts = 0; texts < 4; ++texts) {
      const std::string text = made.text(made.chance(50));
      std::vector<line> fast_lines, slow_lines;
      fast.matching_lines(text, false, fast_lines);
      slow.matching_lines(text, false, slow_lines);
      ASSERT_EQ(numbers(text, fast_lines), numbers(text, slow_lines))
          << "pattern " << testing::PrintToString(what.patterns) << (what.ignore_case ? " -i" : "")
          << (what.whole_word ? " -w" : "") << (what.whole_line ? " -x" : "") << (what.fixed ? " -F" : "")
          << " utf8 " << utf8 << "\ntext " << testing::PrintToString(text);
      fast.matching_lines(text, true, fast_lines);
      ASSERT_EQ(fast_lines.empty(), slow_lines.empty()) << testing::PrintToString(what.patterns);
    }
  }
}

TEST(engines, agree_on_random_patterns_over_bytes) {
  int with_finder = 0;
  compare(false, 1, 1500, with_finder);
  EXPECT_GT(with_finder, 500) << "hardly anything was compared";
}

TEST(engines, agree_on_random_patterns_over_utf8) {
  int with_finder = 0;
  compare(true, 2, 1500, with_finder);
  EXPECT_GT(with_finder, 500) << "hardly anything was compared";
}

// The canary: a comparison of different patterns must see a difference.
TEST(engines, comparison_sees_a_difference) {
  request one, other;
  one.patterns = {"ab"};
  other.patterns = {"a"};
  const pattern first(one), second(other);
  matcher a(first), b(second);
  const std::string text = "ab\na\n";
  std::vector<line> of_a, of_b;
  a.matching_lines(text, false, of_a);
  b.matching_lines(text, false, of_b);
  EXPECT_NE(numbers(text, of_a), numbers(text, of_b));
}

std::string selected(const request& what, const std::string& text) {
  const pattern compiled(what);
  matcher by(compiled);
  std::vector<line> lines;
  by.matching_lines(text, false, lines);
  std::string out;
  for (const line& hit : lines) {
    const std::size_t at = static_cast<std::size_t>(hit.at - text.data());
    const std::size_t newline = at == 0 ? std::string::npos : text.rfind('\n', at - 1);
    const std::size_t begin = newline == std::string::npos ? 0 : newline + 1;
    out += text.substr(begin, static_cast<std::size_t>(hit.end - text.data()) - begin) + '|';
  }
  return out;
}

TEST(engines, a_match_never_crosses_a_newline) {
  request what;
  for (const char* const text :
       {"foo\\sbar", "foo[^x]bar", "foo\\Wbar", "foo\\nbar", "(?s)foo.bar", "foo[\\s\\S]bar"}) {
    what.patterns = {text};
    EXPECT_EQ(selected(what, "foo\nbar\n"), "") << text;
  }
  what.patterns = {"foo\\s*"};
  EXPECT_EQ(selected(what, "foo\n\n\nbar\n"), "foo|");
}

TEST(engines, anchors_are_the_line_s) {
  request what;
  what.patterns = {"^b"};
  EXPECT_EQ(selected(what, "ab\nb\nb"), "b|b|");
  what.patterns = {"b$"};
  EXPECT_EQ(selected(what, "ab\nb\r\nb"), "ab|b|") << "a CR is an ordinary byte";
  what.patterns = {"\\Ab"};
  EXPECT_EQ(selected(what, "ab\nb\n"), "b|");
  what.patterns = {"^$"};
  EXPECT_EQ(selected(what, "a\n\nb\n"), "|");
}

TEST(engines, case_of_distant_twins) {
  request what;
  what.utf8 = what.ignore_case = true;
  what.patterns = {"k"};
  EXPECT_EQ(selected(what, "x\xe2\x84\xaax\nK\n"), "x\xe2\x84\xaax|K|");
  what.patterns = {"\xe2\x84\xaa"};
  EXPECT_EQ(selected(what, "k\nb\n"), "k|");
  what.patterns = {"\xc3\x89t\xc3\xa9"};
  EXPECT_EQ(selected(what, "un \xc3\xa9t\xc3\xa9\nhiver\n"), "un \xc3\xa9t\xc3\xa9|");
}

TEST(engines, no_pattern_matches_nothing_and_the_empty_one_everything) {
  request what;
  EXPECT_EQ(selected(what, "a\n\n"), "");
  what.patterns = {""};
  EXPECT_EQ(selected(what, "a\n\nb"), "a||b|");
  what.whole_line = true;
  EXPECT_EQ(selected(what, "a\n\nb"), "|");
}

TEST(engines, many_fixed_strings) {
  request what;
  what.fixed = true;
  for (int i = 0; i < 3000; ++i) what.patterns.push_back("word" + std::to_string(i) + ".");
  EXPECT_EQ(selected(what, "word2999.\nword3000.\nxword7.x\nword7x\n"), "word2999.|xword7.x|");
  what.ignore_case = true;
  EXPECT_EQ(selected(what, "WORD2999.\nword3000.\n"), "WORD2999.|");
}

TEST(engines, the_longest_fixed_string_is_shown) {
  request what;
  what.fixed = true;
  what.patterns = {"ab", "abc", "a"};
  const pattern compiled(what);
  matcher by(compiled);
  const auto found = by.next_span("xabcab", 0);
  ASSERT_TRUE(found);
  EXPECT_EQ(found->begin, 1U);
  EXPECT_EQ(found->end, 4U);
}

TEST(engines, a_limit_of_the_judge_is_told) {
  request what;
  what.patterns = {"^(a+)+(?=b)\\1$"};
  const pattern compiled(what);
  matcher by(compiled);
  by.matches(std::string(40, 'a') + "c");
  (void)by.take_failure();
  what.patterns = {"(x+x+)+(?<n>y)\\k<n>"};
  const pattern explosive(what);
  matcher second(explosive);
  EXPECT_FALSE(second.matches(std::string(60, 'x') + "yz"));
  EXPECT_NE(second.take_failure(), "");
  EXPECT_EQ(second.take_failure(), "");
}

TEST(engines, bad_patterns_are_refused) {
  request what;
  for (const char* const text : {"a)(b", "(", "[", "*a", "\\", "a{2,1}"}) {
    what.patterns = {text};
    EXPECT_THROW(pattern{what}, pattern_error) << text;
    what.fixed = true;
    EXPECT_NO_THROW(pattern{what}) << text;
    what.fixed = false;
  }
}

TEST(engines, a_pattern_that_is_not_utf8_is_searched_as_bytes) {
  request what;
  what.utf8 = true;
  what.patterns = {"a\xff."};
  EXPECT_EQ(selected(what,
                     "a\xff"
                     "b\nab\n"),
            "a\xff"
            "b|");
}

}  // namespace
}  // namespace still::grep
