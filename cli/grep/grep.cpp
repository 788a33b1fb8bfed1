// SPDX-License-Identifier: Apache-2.0
//
// Ties the units together: paths to roots, files to snapshots, snapshots to the search, results to the exit
// code. Each worker has its own matcher, text buffer and sums; what they share is the pattern, the outlet and
// three flags.
#include "grep/grep.hpp"

#include "grep/fault.hpp"
#include "grep/outlet.hpp"
#include "grep/pattern.hpp"
#include "grep/search.hpp"
#include "grep/walk.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <system_error>
#include <vector>

namespace still::grep {
namespace {

constexpr const char* standard_input = "-";

struct sums {
  std::uint64_t files = 0, bytes = 0, selected = 0, files_selected = 0, failed = 0;
  std::array<std::uint64_t, STILL_TRUSTED + 1> by_backing{};
  std::array<std::uint64_t, STILL_POINT_IN_TIME + 1> by_consistency{};

  void add(const sums& other) {
    files += other.files;
    bytes += other.bytes;
    selected += other.selected;
    files_selected += other.files_selected;
    failed += other.failed;
    for (std::size_t i = 0; i < by_backing.size(); ++i) by_backing[i] += other.by_backing[i];
    for (std::size_t i = 0; i < by_consistency.size(); ++i) by_consistency[i] += other.by_consistency[i];
  }
};

void say(const std::string& sentence) {
  const std::string text = "still: " + sentence + "\n";
  // One write, so that the sentences of several threads do not mix. Nothing can be done where it fails.
  [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, text.data(), text.size());
}

std::string words_for(std::error_code code) {
  // An errno says enough in two words; the library's own failures need their sentence.
  if (code.category() == std::generic_category()) return code.message();
  const std::string message = still_message();
  return message.empty() ? code.message() : message;
}

class session final : public visitor {
 public:
  session(const request& what, const pattern& compiled, bool named)
      : what_(what),
        compiled_(compiled),
        named_(named),
        outlet_(STDOUT_FILENO, what.context && what.report == report::lines && what.group_separator_on
                                   ? separator_line(what)
                                   : std::string()),
        workers_(what.threads) {
    struct stat facts;
    // Where the output goes into a file, that file must not be searched: each line found would be found
    // again.
    if (what.report == report::lines && what.max_count > 1 && fstat(STDOUT_FILENO, &facts) == 0 &&
        S_ISREG(facts.st_mode)) {
      output_is_file_ = true;
      output_device_ = facts.st_dev;
      output_inode_ = facts.st_ino;
    }
  }

  void file(unsigned number, const std::string& path, std::optional<std::uint64_t> turn,
            unsigned idle) override {
    worker& own = workers_[number];
    if (!own.means) own.means = std::make_unique<matcher>(compiled_);
    const bool from_stdin = turn && path == standard_input;
    const std::string& name = from_stdin ? what_.stdin_label : path;
    // Also a file that cannot be opened takes its turn.
    page output(outlet_, own.text, turn);
    if (output_is_file_ && is_output(path, from_stdin)) {
      say(name + ": input file is also the output");
      troubled_ = true;
      return;
    }
    std::error_code error;
    off_t start = 0;
    const stillmap::snapshot file = from_stdin ? open_stdin(start, error) : open(path, error);
    if (error) {
      ++own.totals.failed;
      failed(name, words_for(error), turn);
      return;
    }
    const std::string_view text{static_cast<const char*>(file.data()), file.size()};
    const fault_guard guard(text.data(), text.size(), name);
    const outcome result = search(what_, compiled_, *own.means, text, name, named_, idle, output);
    if (from_stdin && start >= 0)
      lseek(STDIN_FILENO, start + static_cast<off_t>(result.read_bytes), SEEK_SET);
    if (result.binary_match) say(name + ": binary file matches");
    if (!result.failure.empty()) failed(name, result.failure, turn);

    ++own.totals.files;
    own.totals.bytes += result.read_bytes;
    own.totals.selected += result.selected;
    own.totals.files_selected += result.selected > 0 ? 1u : 0u;
    if (what_.stats && file) {
      ++own.totals.by_backing[static_cast<std::size_t>(file.how())];
      ++own.totals.by_consistency[static_cast<std::size_t>(file.when())];
    }
    if (result.selected > 0) succeeded_ = true;  // also with -L, as in GNU grep before 3.2 and since 3.5
    if (result.selected > 0 && what_.report == report::nothing) {
      const std::lock_guard lock(held_back_mutex_);
      if (turn) first_success_ = std::min(first_success_, *turn);
      enough_ = true;
    }
  }

  void folder_failed(const std::string& path, int error) override {
    failed(path.empty() ? "." : path, std::generic_category().message(error), {});
  }

  bool enough() const override { return enough_; }
  void turns_restart() override {
    tell_held_back();
    outlet_.restart_turns();
  }

  void failed(const std::string& name, const std::string& why, std::optional<std::uint64_t> turn) {
    troubled_ = true;
    if (what_.no_messages) return;
    // With -q nothing behind the first match is looked at; another thread may have done so all the same.
    if (what_.report == report::nothing && turn) {
      const std::lock_guard lock(held_back_mutex_);
      held_back_.emplace(*turn, name + ": " + why);
    } else {
      say(name + ": " + why);
    }
  }

  int finish() {
    tell_held_back();
    if (const int error = outlet_.failure()) {
      say("write error: " + std::generic_category().message(error));
      troubled_ = true;
      succeeded_ = false;
    }
    if (what_.stats) tell_stats();
    if (succeeded_ && (what_.report == report::nothing || !troubled_)) return found;
    return troubled_ ? trouble : none_found;
  }

 private:
  struct alignas(64) worker {  // a cache line apart: each is written by its own thread at every file
    std::unique_ptr<matcher> means;
    std::string text;
    sums totals;
  };

  static std::string separator_line(const request& what) {
    if (!what.color) return what.group_separator + '\n';
    return "\33[36m\33[K" + what.group_separator + "\33[m\33[K\n";
  }

  stillmap::options options() const {
    return {.require = what_.require, .access = stillmap::access::sequential};
  }

  stillmap::snapshot open(const std::string& path, std::error_code& error) const {
    return stillmap::snapshot::open(path.c_str(), options(), error);
  }

  // Standard input counts from where it stands, as for any reader; start is -1 where there is no such place.
  stillmap::snapshot open_stdin(off_t& start, std::error_code& error) const {
    struct stat facts;
    start = -1;
    stillmap::options how = options();
    if (fstat(STDIN_FILENO, &facts) == 0 && S_ISREG(facts.st_mode)) start = lseek(STDIN_FILENO, 0, SEEK_CUR);
    if (start > 0) {
      if (start >= facts.st_size) return {};  // nothing left to read
      how.offset = static_cast<std::uint64_t>(start);
    }
    return stillmap::snapshot::from_fd(STDIN_FILENO, how, error);
  }

  bool is_output(const std::string& path, bool from_stdin) const {
    struct stat facts;
    if ((from_stdin ? fstat(STDIN_FILENO, &facts) : stat(path.c_str(), &facts)) != 0) return false;
    return facts.st_dev == output_device_ && facts.st_ino == output_inode_ && S_ISREG(facts.st_mode);
  }

  void tell_held_back() {
    for (const auto& [turn, sentence] : held_back_)
      if (turn < first_success_) say(sentence);
    held_back_.clear();
  }

  void tell_stats() {
    sums all;
    for (const worker& one : workers_) all.add(one.totals);
    std::string text = std::to_string(all.files) + " files, " + std::to_string(all.bytes) +
                       " bytes searched\n" + std::to_string(all.selected) + " lines selected in " +
                       std::to_string(all.files_selected) + " files\n";
    if (all.failed > 0) text += std::to_string(all.failed) + " files could not be opened\n";
    const auto list = [&text](const char* title, const auto& counts, auto name_of) {
      bool first = true;
      for (std::size_t i = 1; i < counts.size(); ++i) {
        if (counts[i] == 0) continue;
        text += first ? std::string(title) + ": " : std::string(", ");
        text += std::string(name_of(i)) + ' ' + std::to_string(counts[i]);
        first = false;
      }
      if (!first) text += '\n';
    };
    list("held by", all.by_backing,
         [](std::size_t i) { return still_backing_name(static_cast<still_backing>(i)); });
    list("consistency", all.by_consistency,
         [](std::size_t i) { return still_consistency_name(static_cast<still_consistency>(i)); });
    std::fputs(text.c_str(), stderr);
  }

  const request& what_;
  const pattern& compiled_;
  const bool named_;
  outlet outlet_;
  std::vector<worker> workers_;
  bool output_is_file_ = false;
  dev_t output_device_ = 0;
  ino_t output_inode_ = 0;
  std::mutex held_back_mutex_;
  std::map<std::uint64_t, std::string> held_back_;  // messages of -q by their file's turn
  std::uint64_t first_success_ = unlimited;
  std::atomic<bool> succeeded_ = false, troubled_ = false, enough_ = false;
};

std::vector<root> roots_of(const request& what) {
  std::vector<root> roots;
  for (const std::string& path : what.paths) {
    struct stat facts;
    // What cannot be looked at is left to the open, which says why.
    const bool is_folder =
        path.empty() || (path != standard_input && stat(path.c_str(), &facts) == 0 && S_ISDIR(facts.st_mode));
    if (!is_folder && path != standard_input && !admits(what, path)) continue;
    roots.push_back({path, is_folder});
  }
  return roots;
}

}  // namespace

int run(const request& what) {
  if (what.max_count == 0) return none_found;  // as grep: nothing is read, not even the pattern
  std::unique_ptr<const pattern> compiled;
  try {
    compiled = std::make_unique<const pattern>(what);
  } catch (const pattern_error& error) {
    say(error.what());
    return trouble;
  }
  const std::vector<root> roots = roots_of(what);
  bool named = what.names == naming::always;
  if (what.names == naming::automatic) {
    named = what.paths.size() > 1;
    for (const root& one : roots) named = named || one.is_folder;
  }
  tell_faults();
  session all(what, *compiled, named);
  walk(what, roots, all);
  return all.finish();
}

}  // namespace still::grep
