// SPDX-License-Identifier: Apache-2.0
//
// See arguments.hpp. Names and meanings are GNU grep's where it has the option; --stats, -j and --require are
// not its.
#include "grep/arguments.hpp"

#include "words.hpp"

#include <langinfo.h>
#include <sched.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <clocale>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string_view>
#include <system_error>

namespace still::grep {
namespace {

std::uint64_t number(const std::string& text, const char* option) {
  std::uint64_t value = 0;
  const auto result = std::from_chars(text.data(), text.data() + text.size(), value);
  const bool all_digits = !text.empty() && text.find_first_not_of("0123456789") == std::string::npos;
  // A number too large to hold means the same as any other that no file reaches.
  if (all_digits && result.ec == std::errc::result_out_of_range) return unlimited;
  if (!all_digits || result.ec != std::errc())
    throw usage_error(std::string(option) + ": not a number: " + text);
  return value;
}

void add_patterns(std::string_view text, std::vector<std::string>& to) {
  for (;;) {
    const std::size_t end = text.find('\n');
    to.emplace_back(text.substr(0, end));
    if (end == std::string_view::npos) return;
    text.remove_prefix(end + 1);
  }
}

void add_pattern_file(const std::string& path, std::vector<std::string>& to) {
  std::error_code error;
  const stillmap::options how{.require = stillmap::consistency::torn};
  const stillmap::snapshot file = path == "-" ? stillmap::snapshot::from_fd(STDIN_FILENO, how, error)
                                              : stillmap::snapshot::open(path.c_str(), how, error);
  if (error) throw usage_error(path + ": " + error.message());
  std::string_view text{static_cast<const char*>(file.data()), file.size()};
  if (text.empty()) return;  // no pattern at all, which is not the empty pattern
  if (text.back() == '\n') text.remove_suffix(1);
  add_patterns(text, to);
}

bool terminal_takes_color() {
  const char* const terminal = std::getenv("TERM");
  return isatty(STDOUT_FILENO) && terminal && std::strcmp(terminal, "dumb") != 0 && !std::getenv("NO_COLOR");
}

unsigned processors() {
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return 1;
  return static_cast<unsigned>(std::max(1, CPU_COUNT(&allowed)));
}

// A pipe or a file on standard input is meant to be read where no path is given; a terminal or nothing is
// not.
bool stdin_is_meant() {
  struct stat facts;
  if (fstat(STDIN_FILENO, &facts) != 0) return false;
  return S_ISREG(facts.st_mode) || S_ISFIFO(facts.st_mode) || S_ISSOCK(facts.st_mode);
}

bool locale_is_utf8() {
  std::setlocale(LC_CTYPE, "");
  const bool result = std::strcmp(nl_langinfo(CODESET), "UTF-8") == 0;
  std::setlocale(LC_CTYPE, "C");
  return result;
}

}  // namespace

void declare(CLI::App& app, arguments& into) {
  app.set_help_flag("--help", "Print this help and exit");
  app.footer(
      "PATTERN is a Perl-compatible regular expression (as in PCRE2; most of ripgrep's and grep -E's are the "
      "same),\n"
      "matched within one line; several stand on lines of their own. A folder is searched through and "
      "through.\n"
      "Without PATH: standard input if it is a file or a pipe, else the current folder. PATH - is standard "
      "input.\n"
      "Characters are UTF-8 if the locale says so (LC_ALL, LC_CTYPE, LANG), else bytes.\n"
      "Exit status: 0 if a line was selected, 1 if none, 2 on an error (with -q: 0 as soon as one was "
      "selected).");

  // Exactly one value each time, or `-e PATTERN PATH` would take the path too.
  const auto repeatable = [&app](const char* name, std::vector<std::string>& value, const char* help) {
    return app.add_option(name, value, help)->allow_extra_args(false);
  };
  app.add_option("PATTERN [PATH...]", into.positionals, "what to search for, and where")->expected(-1);

  const char* group = "What to search for";
  repeatable("-e,--regexp", into.patterns, "Search for this pattern too")->type_name("PATTERN")->group(group);
  repeatable("-f,--file", into.pattern_files, "Take patterns from a file, one a line")
      ->type_name("FILE")
      ->group(group);
  app.add_flag("-F,--fixed-strings", into.fixed, "Patterns are strings, not expressions")->group(group);
  app.add_flag("-E,--extended-regexp", into.extended, "Accepted, changes nothing")->group(group);
  app.add_flag("-P,--perl-regexp", into.perl, "Accepted, changes nothing")->group(group);
  app.add_flag("-i,-y,--ignore-case", into.ignore_case, "Upper and lower case are the same")->group(group);
  app.add_flag("--no-ignore-case", into.no_ignore_case, "They are not (default)")->group(group);
  app.add_flag("-w,--word-regexp", into.word, "Only matches that are whole words")->group(group);
  app.add_flag("-x,--line-regexp", into.line, "Only matches that are whole lines")->group(group);
  app.add_flag("-v,--invert-match", into.invert, "Select the lines that do not match")->group(group);

  group = "Where to search";
  app.add_flag("-r,--recursive", into.recursive, "Accepted: folders are always searched")->group(group);
  repeatable("--include", into.include, "Only files whose name matches")->type_name("GLOB")->group(group);
  repeatable("--exclude", into.exclude, "No files whose name matches")->type_name("GLOB")->group(group);
  repeatable("--exclude-dir", into.exclude_folders, "No folders whose name matches")
      ->type_name("GLOB")
      ->group(group);
  app.add_flag("-a,--text", into.text, "Binary files are text")->group(group);
  app.add_flag("-I", into.without_binary, "Binary files match nothing")->group(group);
  app.add_option("--binary-files", into.binaries, "binary, text or without-match")
      ->check(CLI::IsMember({"binary", "text", "without-match"}))
      ->group(group);
  app.add_option("--require", into.require, "Weakest consistency accepted: torn, verified or point_in_time")
      ->check(CLI::IsMember({"torn", "verified", "point_in_time"}))
      ->group(group);
  app.add_option("-j,--threads", into.threads, "Threads (default: one a processor)")
      ->type_name("N")
      ->group(group);

  group = "What to print";
  app.add_flag("-c,--count", into.count, "The number of selected lines")->group(group);
  app.add_flag("-l{with},--files-with-matches{with},-L{without},--files-without-match{without}", into.report,
               "Names of files with (-l) or without (-L) selected lines")
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeLast)
      ->group(group);
  app.add_flag("-o,--only-matching", into.only_matching, "Only the parts that match")->group(group);
  app.add_flag("-q,--quiet,--silent", into.quiet, "Nothing: the exit status tells")->group(group);
  app.add_flag("-n,--line-number", into.line_number, "Line numbers")->group(group);
  app.add_flag("-b,--byte-offset", into.byte_offset, "Byte offsets")->group(group);
  app.add_flag("-H{always},--with-filename{always},-h{never},--no-filename{never}", into.names,
               "File names always (-H) or never (-h)")
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeLast)
      ->group(group);
  app.add_option("--label", into.label, "Name for standard input")->group(group);
  app.add_flag("-Z,--null", into.null, "A NUL after each file name")->group(group);
  app.add_option("-m,--max-count", into.max_count, "Stop a file after so many lines")
      ->type_name("N")
      ->group(group);
  app.add_option("-A,--after-context", into.after, "Lines of context behind")->type_name("N")->group(group);
  app.add_option("-B,--before-context", into.before, "Lines of context before")->type_name("N")->group(group);
  app.add_option("-C,--context", into.context, "Lines of context around; also -N")
      ->type_name("N")
      ->group(group);
  app.add_option("--group-separator", into.group_separator, "Between groups of context")->group(group);
  app.add_flag("--no-group-separator", into.no_group_separator, "Nothing between them")->group(group);
  app.add_option("--color,--colour", into.color, "always, never or auto")
      ->check(CLI::IsMember({"always", "never", "auto"}))
      ->group(group);
  app.add_flag("-s,--no-messages", into.no_messages, "Do not tell of files that cannot be read")
      ->group(group);
  app.add_flag("--stats", into.stats, "How many files, and how they were held, to standard error")
      ->group(group);
  for (CLI::Option* option : app.get_options())
    if (option->get_items_expected_max() == 1) option->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
}

std::vector<std::string> normalized(std::vector<std::string> typed) {
  // Options whose value is the next word, whatever that looks like.
  constexpr std::string_view valued = "efmABCj";
  bool is_value = false;
  for (std::string& word : typed) {
    if (is_value) {
      is_value = false;
      continue;
    }
    if (word == "--") break;
    if (word == "--color" || word == "--colour") {
      word += "=auto";
    } else if (word.starts_with("--")) {
      is_value = word == "--regexp" || word == "--file" || word == "--label" || word == "--group-separator" ||
                 word == "--include" || word == "--exclude" || word == "--exclude-dir";
    } else if (word.size() > 1 && word[0] == '-') {
      if (word.find_first_not_of("0123456789", 1) == std::string::npos) {
        word.replace(0, 1, "--context=");
        continue;
      }
      const std::size_t first = word.find_first_of(valued, 1);
      is_value = first == word.size() - 1;
    }
  }
  shield(typed);
  return typed;
}

request understand(const arguments& typed) {
  request result;
  const std::vector<std::string> positionals = unshielded(typed.positionals);
  auto paths = positionals.begin();
  for (const std::string& text : unshielded(typed.patterns)) add_patterns(text, result.patterns);
  for (const std::string& path : unshielded(typed.pattern_files)) add_pattern_file(path, result.patterns);
  if (typed.patterns.empty() && typed.pattern_files.empty()) {
    if (paths == positionals.end()) throw usage_error("no PATTERN");
    add_patterns(*paths++, result.patterns);
  }
  result.paths.assign(paths, positionals.end());
  if (result.paths.empty()) result.paths.push_back(stdin_is_meant() ? "-" : "");

  result.fixed = typed.fixed;
  result.ignore_case = typed.ignore_case && !typed.no_ignore_case;
  result.whole_word = typed.word && !typed.line;
  result.whole_line = typed.line;
  result.invert = typed.invert;
  result.utf8 = locale_is_utf8();

  result.include = unshielded(typed.include);
  result.exclude = unshielded(typed.exclude);
  result.exclude_folders = unshielded(typed.exclude_folders);
  static const std::map<std::string, stillmap::consistency> levels = {
      {"torn", stillmap::consistency::torn},
      {"verified", stillmap::consistency::verified},
      {"point_in_time", stillmap::consistency::point_in_time}};
  result.require = levels.at(typed.require);
  if (typed.text || typed.binaries == "text")
    result.binaries = binary::as_text;
  else if (typed.without_binary || typed.binaries == "without-match")
    result.binaries = binary::skip;
  result.threads = std::min(typed.threads > 0 ? typed.threads : processors(), 256u);

  if (typed.quiet)
    result.report = report::nothing;
  else if (!typed.report.empty())
    result.report = typed.report == "with" ? report::files_with_match : report::files_without_match;
  else if (typed.count)
    result.report = report::counts;
  result.only_matching = typed.only_matching;
  result.line_numbers = typed.line_number;
  result.byte_offsets = typed.byte_offset;
  result.color = typed.color == "always" || (typed.color == "auto" && terminal_takes_color());
  result.null_after_name = typed.null;
  result.no_messages = typed.no_messages;
  result.stats = typed.stats;
  if (!typed.names.empty()) result.names = typed.names == "always" ? naming::always : naming::never;
  if (!typed.max_count.empty()) result.max_count = number(typed.max_count, "--max-count");
  result.context = !typed.before.empty() || !typed.after.empty() || !typed.context.empty();
  if (!typed.context.empty()) result.before = result.after = number(typed.context, "--context");
  if (!typed.before.empty()) result.before = number(typed.before, "--before-context");
  if (!typed.after.empty()) result.after = number(typed.after, "--after-context");
  result.group_separator = unshielded(typed.group_separator);
  result.group_separator_on = !typed.no_group_separator;
  result.stdin_label = unshielded(typed.label);
  return result;
}

}  // namespace still::grep
