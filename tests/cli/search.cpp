// SPDX-License-Identifier: Apache-2.0
//
// One text, searched in pieces, alone and with helpers: the answer must not depend on either.
#include "grep/search.hpp"

#include "grep/print.hpp"

#include <gtest/gtest.h>

#include <sys/mman.h>
#include <unistd.h>

#include <string>

namespace still::grep {
namespace {

struct answer {
  outcome result;
  std::string output;
};

answer searched(const request& what, const std::string& text, unsigned helpers = 0) {
  const int file = memfd_create("output", MFD_CLOEXEC);
  answer out;
  {
    outlet to(file, "");
    const pattern compiled(what);
    matcher own(compiled);
    std::string buffer;
    page one(to, buffer, {});
    out.result = search(what, compiled, own, text, "name", false, helpers, one);
  }
  out.output.resize(static_cast<std::size_t>(lseek(file, 0, SEEK_END)));
  EXPECT_EQ(pread(file, out.output.data(), out.output.size(), 0), static_cast<ssize_t>(out.output.size()));
  close(file);
  return out;
}

request looking_for(const char* text) {
  request what;
  what.patterns = {text};
  what.line_numbers = true;
  return what;
}

std::string many_lines(std::size_t count) {
  std::string text;
  for (std::size_t i = 1; i <= count; ++i) text += "line " + std::to_string(i) + "\n";
  return text;
}

TEST(search, helpers_change_nothing) {
  const std::string text = many_lines(1'200'000);  // 14 MB: above the size from which helpers start
  ASSERT_GT(text.size(), 8U * 1024 * 1024);
  for (const char* const pattern : {"7777", "999$", "line", "nothing"}) {
    request what = looking_for(pattern);
    EXPECT_EQ(searched(what, text, 2).output, searched(what, text).output) << pattern;
    what.invert = true;
    what.report = report::counts;
    EXPECT_EQ(searched(what, text, 1).output, searched(what, text).output) << pattern;
    what.report = report::files_with_match;
    EXPECT_EQ(searched(what, text, 1).output, searched(what, text).output) << pattern;
    what = looking_for(pattern);
    what.max_count = 7;
    what.context = true;
    what.before = what.after = 2;
    EXPECT_EQ(searched(what, text, 1).output, searched(what, text).output) << pattern;
  }
}

TEST(search, every_line_of_a_large_text_is_seen_once) {
  const std::string text = many_lines(300'000);
  request what = looking_for("");
  what.report = report::counts;
  EXPECT_EQ(searched(what, text).result.selected, 300'000U);
  what.patterns = {"line"};
  EXPECT_EQ(searched(what, text).result.selected, 300'000U);
  what.invert = true;
  EXPECT_EQ(searched(what, text).result.selected, 0U);
}

TEST(search, a_line_longer_than_many_steps) {
  const std::string text =
      "first\n" + std::string(1'000'000, 'x') + "needle" + std::string(1'000'000, 'y') + "\nlast needle";
  request what = looking_for("needle");
  what.only_matching = true;
  EXPECT_EQ(searched(what, text).output, "2:needle\n3:needle\n");
}

TEST(search, empty_text_and_missing_newline) {
  EXPECT_EQ(searched(looking_for(""), "").output, "");
  EXPECT_EQ(searched(looking_for(""), "\n").output, "1:\n");
  EXPECT_EQ(searched(looking_for("a"), "a").output, "1:a\n");
  EXPECT_EQ(searched(looking_for("a$"), "b\na").output, "2:a\n");
  EXPECT_EQ(searched(looking_for("a\r$"), "a\r\n").output, "1:a\r\n");
}

TEST(search, a_nul_makes_the_rest_binary) {
  using namespace std::string_literals;
  const answer early = searched(looking_for("foo"), "foo\n\0foo\n"s);
  EXPECT_EQ(early.output, "");
  EXPECT_TRUE(early.result.binary_match);
  const std::string late = many_lines(50'000) + "nul\0\nline\n"s;
  request what = looking_for("^line 1$|^line$");
  const answer seen = searched(what, late);
  EXPECT_EQ(seen.output, "1:line 1\n") << "text before the step with the NUL is text";
  EXPECT_TRUE(seen.result.binary_match);
  what.binaries = binary::as_text;
  EXPECT_EQ(searched(what, late).output, "1:line 1\n50002:line\n");
  what.binaries = binary::skip;
  EXPECT_EQ(searched(what, late).result.selected, 0U);
}

TEST(search, where_the_reading_stopped) {
  request what = looking_for("b");
  what.max_count = 1;
  EXPECT_EQ(searched(what, "a\nb\nc\n").result.read_bytes, 4U);
  EXPECT_EQ(searched(what, "a\nb").result.read_bytes, 3U);
  EXPECT_EQ(searched(what, "a\nc\n").result.read_bytes, 4U);
}

TEST(search, newlines_are_counted_at_every_length) {
  for (std::size_t n : {0U, 1U, 191U, 192U, 193U, 1000U, 10'000U}) {
    EXPECT_EQ(count_newlines(std::string(n, '\n')), n);
    EXPECT_EQ(count_lines(std::string(n, '\n') + "x"), n + 1);
  }
}

}  // namespace
}  // namespace still::grep
