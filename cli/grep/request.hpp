// SPDX-License-Identifier: Apache-2.0
//
// What a call of `still grep` means, after its arguments have been understood: plain values that every other
// unit reads and none changes. arguments.cpp fills it; tests fill it by hand.
#ifndef STILL_GREP_REQUEST_HPP
#define STILL_GREP_REQUEST_HPP

#include <stillmap/snapshot.hpp>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

namespace still::grep {

constexpr std::uint64_t unlimited = std::numeric_limits<std::uint64_t>::max();

enum class report { lines, counts, files_with_match, files_without_match, nothing };
enum class binary { message, as_text, skip };
enum class naming { automatic, always, never };

struct request {
  // What to look for.
  std::vector<std::string> patterns;  // without newlines; none at all matches nothing
  bool fixed = false;
  bool ignore_case = false;
  bool whole_word = false;
  bool whole_line = false;
  bool invert = false;
  bool utf8 = false;  // characters are UTF-8 (the locale says so); else bytes

  // Where.
  std::vector<std::string> paths;
  std::vector<std::string> include, exclude, exclude_folders;  // globs for names met in a folder
  stillmap::consistency require = stillmap::consistency::torn;
  binary binaries = binary::message;
  unsigned threads = 1;

  // What to say.
  grep::report report = report::lines;
  bool only_matching = false;
  bool line_numbers = false;
  bool byte_offsets = false;
  bool color = false;
  bool null_after_name = false;
  bool no_messages = false;
  bool stats = false;
  naming names = naming::automatic;
  std::uint64_t max_count = unlimited;
  bool context = false;  // one of -A, -B, -C was given
  std::uint64_t before = 0, after = 0;
  bool group_separator_on = true;
  std::string group_separator = "--";
  std::string stdin_label = "(standard input)";
};

}  // namespace still::grep

#endif
