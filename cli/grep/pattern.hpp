// SPDX-License-Identifier: Apache-2.0
//
// What is searched for, compiled. Two engines share the work, neither of them ours:
//
//   finder   Hyperscan, over many lines at once: proposes the lines in which a match ends
//   judge    PCRE2 with its JIT, over one line: confirms a proposal where the finder may be wrong, and says
//   where
//            in the line the matches are (-o, --color)
//
// finder_text.hpp says when the finder's word is final. Where there is no finder the judge sees every line,
// which is slower by far and never wrong. A match lies within one line, always.
#ifndef STILL_GREP_PATTERN_HPP
#define STILL_GREP_PATTERN_HPP

#include "grep/request.hpp"

#include <cstddef>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace still::grep {

// A pattern that is none. what() is one sentence for the user.
class pattern_error : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

// A line that matched, within the text given to matching_lines.
struct line {
  const char* at;   // somewhere in the line, its newline included
  const char* end;  // its newline, or the end of the text
};

struct span {
  std::size_t begin, end;
};

// Immutable once made, and shared by all threads.
class pattern {
 public:
  explicit pattern(const request& what);  // throws pattern_error
  pattern(const pattern&) = delete;
  pattern& operator=(const pattern&) = delete;
  ~pattern();

  bool has_finder() const;
  // For tests: from now on, the judge decides alone.
  void drop_finder();

 private:
  friend class matcher;
  struct engines;
  std::unique_ptr<engines> engines_;
};

// One thread's means of matching: scratch memory for both engines.
class matcher {
 public:
  explicit matcher(const pattern& what);
  matcher(const matcher&) = delete;
  matcher& operator=(const matcher&) = delete;
  ~matcher();

  // Replaces `lines` by the lines of text that match, in order. text is whole lines; the last may lack its
  // newline. any: one of them is enough, and it need not be the first.
  void matching_lines(std::string_view text, bool any, std::vector<line>& lines);

  // Whether this line, without its newline, matches.
  bool matches(std::string_view one_line);
  // The first match in it that starts at or after `from` and is not empty.
  std::optional<span> next_span(std::string_view one_line, std::size_t from);

  // Why a line could not be decided since the last call (a limit of the judge), or "".
  std::string take_failure();

 private:
  struct means;
  std::unique_ptr<means> means_;
};

}  // namespace still::grep

#endif
