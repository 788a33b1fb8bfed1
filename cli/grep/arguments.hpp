// SPDX-License-Identifier: Apache-2.0
//
// The command line of `still grep`, in two steps: what was typed (arguments, filled by CLI11), and what it
// means (request). The second step is where defaults meet the world: terminal, locale, number of processors,
// pattern files.
#ifndef STILL_GREP_ARGUMENTS_HPP
#define STILL_GREP_ARGUMENTS_HPP

#include "grep/request.hpp"

#include <CLI/CLI.hpp>

#include <stdexcept>
#include <string>
#include <vector>

namespace still::grep {

struct arguments {
  std::vector<std::string> positionals;
  std::vector<std::string> patterns, pattern_files;
  std::vector<std::string> include, exclude, exclude_folders;
  std::string names, report, binaries = "binary", color = "auto", require = "torn",
                             label = "(standard input)";
  std::string group_separator = "--";
  std::string max_count, before, after, context;
  bool fixed = false, ignore_case = false, no_ignore_case = false, word = false, line = false, invert = false;
  bool count = false, quiet = false, only_matching = false, line_number = false, byte_offset = false;
  bool text = false, without_binary = false, null = false, no_messages = false, stats = false;
  bool no_group_separator = false, recursive = false, perl = false, extended = false;
  unsigned threads = 0;
};

class usage_error : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Declares every option on app, to be parsed into `into`.
void declare(CLI::App& app, arguments& into);

// What CLI11 cannot take as people type it: --color without a value, -5 for -C 5, [abc].
std::vector<std::string> normalized(std::vector<std::string> typed);

// Throws usage_error. Reads the files of -f, and the terminal and the locale.
request understand(const arguments& typed);

}  // namespace still::grep

#endif
