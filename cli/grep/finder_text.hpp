// SPDX-License-Identifier: Apache-2.0
//
// From a Perl-compatible pattern to what the finder is given. The finder (Hyperscan) looks at many lines at
// once and at bytes; the judge (PCRE2) looks at one line alone and, in a UTF-8 locale, at characters. A
// finder may propose too many lines, never too few, so each piece of a pattern is either rewritten into
// something that provably selects the same lines, or weakened into something that selects more, or given up
// (the judge then sees every line). This file holds those proofs: one small scanner of the pattern's text,
// which rejects what it does not know.
//
// The rewriting takes newlines out of classes ([^a], \W, \s), which keeps a match inside its line, and spells
// classes out as sets of bytes, which leaves nothing to differences between two parsers.
#ifndef STILL_GREP_FINDER_TEXT_HPP
#define STILL_GREP_FINDER_TEXT_HPP

#include <string>
#include <string_view>

namespace still::grep {

struct finder_text {
  bool usable = false;         // false: no finder, the judge decides every line
  bool exact = false;          // selects the very lines the judge would, at least among lines of ASCII alone
  bool bytes_suffice = false;  // and among all others too, although characters are UTF-8
  bool plain = false;          // nothing that counts groups: may be joined with other patterns by |
  bool loose = false;          // holds what the finder can only approximate (lookaround, backreferences)
  std::string text;            // for the finder
};

// A regular expression. `utf8`: the judge will see characters.
finder_text rewrite(std::string_view pattern, bool ignore_case, bool utf8);
// A fixed string.
finder_text rewrite_fixed(std::string_view pattern, bool ignore_case, bool utf8);

// The pattern of the judge that matches this string and nothing else.
std::string quoted(std::string_view fixed);

}  // namespace still::grep

#endif
