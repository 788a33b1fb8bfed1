// SPDX-License-Identifier: Apache-2.0
//
// The parent of all: makes the folder, starts the writers, then one reader after the other, each in a process
// of its own that may be killed by what it meets. All are its children, end with it, and are waited for; then
// the folder goes.
#include "torture/torture.hpp"

#include "live_line.hpp"
#include "stop.hpp"
#include "torture/readers.hpp"
#include "torture/scoreboard.hpp"
#include "torture/writers.hpp"
#include "words.hpp"

#include <nlohmann/json.hpp>

#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>
#include <new>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

namespace still::torture {
namespace {

using std::chrono::milliseconds;

constexpr int held_still = 0, harmed = 1, not_run = 2, too_weak = 3;
constexpr std::int64_t warm_up_max_ns = 5'000'000'000;  // the first change of each kind
// A reader past its time is finishing a round: closing, waiting for its disk.
constexpr std::int64_t grace_ns = 10'000'000'000;

volatile sig_atomic_t ended_by = 0;

void note_end(int number) {
  ended_by = number;
}

void listen_for_the_end() {
  for (const int number : {SIGINT, SIGTERM, SIGHUP}) {
    struct sigaction now;
    if (::sigaction(number, nullptr, &now) != 0 || now.sa_handler != SIG_DFL) continue;
    now.sa_handler = note_end;
    ::sigaction(number, &now, nullptr);
  }
}

// Fresh, and taken away with all that is in it.
class scratch_folder {
 public:
  explicit scratch_folder(const std::string& directory) : path_(directory + "/still-torture-XXXXXX") {
    if (::mkdtemp(path_.data()) == nullptr) throw std::runtime_error(directory + ": " + std::strerror(errno));
  }
  scratch_folder(const scratch_folder&) = delete;
  scratch_folder& operator=(const scratch_folder&) = delete;
  ~scratch_folder() {
    std::error_code ec;
    std::filesystem::remove_all(path_, ec);
    if (ec) std::fprintf(stderr, "still: %s: %s\n", path_.c_str(), ec.message().c_str());
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

class shared_scoreboard {
 public:
  shared_scoreboard()
      : memory_(
            ::mmap(nullptr, sizeof(scoreboard), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0)) {
    if (memory_ == MAP_FAILED) throw std::bad_alloc();
    board_ = new (memory_) scoreboard{};
  }
  shared_scoreboard(const shared_scoreboard&) = delete;
  shared_scoreboard& operator=(const shared_scoreboard&) = delete;
  ~shared_scoreboard() { ::munmap(memory_, sizeof(scoreboard)); }
  scoreboard& operator*() const { return *board_; }

 private:
  void* memory_;
  scoreboard* board_;
};

// A child that does not outlive this process, nor this object.
class child {
 public:
  template <class Life>
  explicit child(Life life) {
    const pid_t parent = ::getpid();
    pid_ = ::fork();
    if (pid_ < 0) throw std::runtime_error(std::string("fork: ") + std::strerror(errno));
    if (pid_ > 0) return;
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) ::_exit(0);
    // A Ctrl-C is the parent's to answer: it then ends this one, and knows why.
    for (const int number : {SIGINT, SIGTERM, SIGHUP}) ::signal(number, SIG_IGN);
    try {
      life();
    } catch (...) {
      ::_exit(1);
    }
    ::_exit(0);
  }
  child(const child&) = delete;
  child& operator=(const child&) = delete;
  ~child() {
    if (ended()) return;
    ::kill(pid_, SIGKILL);
    while (::waitpid(pid_, &status_, 0) < 0 && errno == EINTR) {
    }
  }
  bool ended() {
    if (!ended_) ended_ = ::waitpid(pid_, &status_, WNOHANG) == pid_;
    return ended_;
  }
  bool killed() const { return ended_ && WIFSIGNALED(status_); }

 private:
  pid_t pid_ = -1;
  int status_ = 0;
  bool ended_ = false;
};

// A writer has no lease to give up when Ctrl-Z comes.
void stop_by_default() {
  sigset_t stop;
  sigemptyset(&stop);
  sigaddset(&stop, SIGTSTP);
  ::pthread_sigmask(SIG_UNBLOCK, &stop, nullptr);
}

class storm_of_writers {
 public:
  storm_of_writers(scoreboard& board, const std::string& folder) {
    for (std::size_t i = 0; i < writer_processes; ++i)
      writers_.push_back(std::make_unique<child>([&board, &folder, i] {
        stop_by_default();
        storm(board, folder, i);
      }));
  }
  bool broken() const {
    return std::any_of(writers_.begin(), writers_.end(), [](const auto& one) { return one->ended(); });
  }

 private:
  std::vector<std::unique_ptr<child>> writers_;
};

std::uint64_t harm(const row_score& score) {
  return score.changed_bytes + score.signals + score.killed;
}

void check_storm(const storm_of_writers& writers) {
  if (writers.broken()) throw std::runtime_error("a writer of the storm ended by itself");
}

// Until each kind has made a change, or cannot.
void warm_up(const scoreboard& board, const storm_of_writers& writers) {
  const std::int64_t end = now_ns() + warm_up_max_ns;
  const auto ready = [&] {
    for (std::size_t i = 0; i < kinds().size(); ++i)
      if (!kinds()[i].in_the_reader && board.kinds[i].strikes == 0 && board.kinds[i].missing_error == 0)
        return false;
    return true;
  };
  while (!ready() && ended_by == 0 && now_ns() < end) {
    check_storm(writers);
    std::this_thread::sleep_for(milliseconds(5));
  }
}

void try_row(scoreboard& board, const std::string& folder, const storm_of_writers& writers, std::size_t row,
             std::int64_t end_ns, std::int64_t all_end_ns, live_line& line) {
  row_score& score = board.rows[row];
  board.row_end_ns = end_ns;
  board.row = static_cast<int>(row) + 1;
  // A reader that was killed is followed by another one.
  do {
    child reader([&] {
      leave_leases_before_stopping();
      read_under_storm(board, folder, row);
    });
    while (!reader.ended() && ended_by == 0 && now_ns() < end_ns + grace_ns) {
      check_storm(writers);
      const auto left_s = std::max<std::int64_t>(0, (all_end_ns - now_ns()) / 1'000'000'000);
      line.show(std::string(ways()[row].name) + ": " + std::to_string(left_s) + " s left; " +
                std::to_string(score.snapshots) + " snapshots, " + std::to_string(score.changed_bytes) +
                " changed bytes, " + std::to_string(score.signals) + " signals");
      std::this_thread::sleep_for(milliseconds(line.on() ? 50 : 5));
    }
    if (!reader.killed()) break;
    ++score.killed;
  } while (ended_by == 0 && now_ns() < end_ns);
  board.row = 0;
}

struct waits {
  double median_ms = 0, p99_ms = 0;
};

waits waits_of(const row_score& score) {
  std::vector<std::uint32_t> all_us;
  for (std::size_t writer = 0; writer < writers_max; ++writer)
    all_us.insert(all_us.end(), score.waits_us[writer],
                  score.waits_us[writer] + std::min(score.waits[writer].load(), waits_max));
  if (all_us.empty()) return {};
  std::sort(all_us.begin(), all_us.end());
  return {all_us[all_us.size() / 2] / 1e3, all_us[all_us.size() * 99 / 100] / 1e3};
}

struct verdict {
  bool promise_kept = true, storm_proved = true;
  std::string words;

  int status() const { return !promise_kept ? harmed : storm_proved ? held_still : too_weak; }
};

verdict judge(const scoreboard& board) {
  verdict result;
  std::string broken, unharmed;
  for (std::size_t i = 0; i < ways().size(); ++i) {
    const bool hurt = harm(board.rows[i]) != 0;
    if (ways()[i].harmless() && hurt) broken += (broken.empty() ? "" : ", ") + std::string(ways()[i].name);
    if (!ways()[i].harmless() && !hurt)
      unharmed += (unharmed.empty() ? "" : ", ") + std::string(ways()[i].name);
  }
  result.promise_kept = broken.empty();
  result.storm_proved = unharmed.empty();
  if (!broken.empty())
    result.words = "BYTES DID NOT HOLD STILL: " + broken;
  else if (!unharmed.empty())
    result.words = "nothing is proved: the storm was too weak to harm " + unharmed;
  else
    result.words = "what was held did hold still, under a storm that harmed every plain mapping";
  return result;
}

nlohmann::ordered_json record(const scoreboard& board, const arguments& what, const verdict& judged) {
  nlohmann::ordered_json result;
  result["directory"] = what.directory;
  result["seconds"] = what.seconds;
  auto& rows = result["rows"] = nlohmann::ordered_json::array();
  for (std::size_t i = 0; i < ways().size(); ++i) {
    const row_score& score = board.rows[i];
    const waits waited = waits_of(score);
    nlohmann::ordered_json row;
    row["way"] = ways()[i].name;
    row["stillmap"] = ways()[i].how == method::stillmap;
    row["here"] = !score.not_here;
    row["last_refusal"] = score.refusal;
    row["snapshots"] = score.snapshots.load();
    row["refused"] = score.refused.load();
    row["changed_bytes"] = score.changed_bytes.load();
    row["signals"] = score.signals + score.killed;
    row["killed"] = score.killed.load();
    row["failed_closed"] = score.failed_closed.load();
    row["mixed"] = score.mixed.load();
    row["writer_median_ms"] = waited.median_ms;
    row["writer_p99_ms"] = waited.p99_ms;
    row["private_bytes_max"] = score.private_bytes_max.load();
    auto& met = row["kinds_met"] = nlohmann::ordered_json::array();
    for (std::size_t k = 0; k < kinds().size(); ++k)
      if ((score.kinds_met >> k & 1) != 0) met.push_back(kinds()[k].name);
    rows.push_back(std::move(row));
  }
  auto& changes = result["kinds"] = nlohmann::ordered_json::array();
  for (std::size_t k = 0; k < kinds().size(); ++k) {
    const kind_score& score = board.kinds[k];
    nlohmann::ordered_json entry;
    entry["name"] = kinds()[k].name;
    entry["changes"] = score.strikes.load();
    entry["failures"] = score.failures.load();
    if (score.missing_error != 0) entry["not_here"] = std::strerror(score.missing_error);
    changes.push_back(std::move(entry));
  }
  result["promise_kept"] = judged.promise_kept;
  result["storm_proved"] = judged.storm_proved;
  result["verdict"] = judged.words;
  return result;
}

void print_table(const scoreboard& board) {
  std::printf("%-18s %9s %8s %14s %8s %14s %6s %17s %11s\n", "", "snapshots", "refused", "changed bytes",
              "signals", "failed closed", "mixed", "writer, ms: 50/99 %", "private MiB");
  for (std::size_t i = 0; i < ways().size(); ++i) {
    const row_score& score = board.rows[i];
    if (score.not_here) {
      std::printf("%-18s not here: %s\n", ways()[i].name, score.refusal);
      continue;
    }
    const waits waited = waits_of(score);
    std::printf(
        "%-18s %9llu %8llu %14llu %8llu %14llu %6llu %9.2f / %7.2f %11.1f\n", ways()[i].name,
        static_cast<unsigned long long>(score.snapshots), static_cast<unsigned long long>(score.refused),
        static_cast<unsigned long long>(score.changed_bytes),
        static_cast<unsigned long long>(score.signals + score.killed),
        static_cast<unsigned long long>(score.failed_closed), static_cast<unsigned long long>(score.mixed),
        waited.median_ms, waited.p99_ms, static_cast<double>(score.private_bytes_max) / (1 << 20));
  }
  std::uint64_t changes = 0;
  std::size_t here = 0;
  std::string missing;
  for (std::size_t k = 0; k < kinds().size(); ++k) {
    changes += board.kinds[k].strikes;
    if (board.kinds[k].missing_error == 0)
      ++here;
    else
      missing += (missing.empty() ? "; not here: " : ", ") + std::string(kinds()[k].name);
  }
  std::printf("\n%llu changes of %zu kinds%s\n", static_cast<unsigned long long>(changes), here,
              missing.c_str());
}

// False: interrupted.
bool rage(scoreboard& board, const arguments& what) {
  const scratch_folder folder(what.directory);
  for (std::size_t i = 0; i < kinds().size(); ++i)
    if (const int error = make_victim(victim(victim_path(folder.path(), i))))
      throw std::runtime_error(folder.path() + ": " + std::strerror(error));
  const storm_of_writers writers(board, folder.path());
  live_line line(true);
  warm_up(board, writers);
  const std::int64_t end_ns = now_ns() + static_cast<std::int64_t>(what.seconds * 1e9);
  for (std::size_t row = 0; row < ways().size() && ended_by == 0; ++row) {
    // What a way that is not here leaves of its share goes to the others.
    const std::int64_t now = now_ns(), left_ns = std::max<std::int64_t>(0, end_ns - now);
    const auto rows_left = static_cast<std::int64_t>(ways().size() - row);
    try_row(board, folder.path(), writers, row, now + left_ns / rows_left, end_ns, line);
  }
  return ended_by == 0;
}

}  // namespace

void declare(CLI::App& app, arguments& into) {
  app.set_help_flag("-h,--help", "Print this help and exit");
  app.add_option("DIRECTORY", into.directory, "Where to make the scratch files")->capture_default_str();
  app.add_option("--seconds", into.seconds, "For all ways of reading together")
      ->capture_default_str()
      ->check(CLI::Range(0.1, 1e6));
  app.add_flag("--json", into.json, "One object instead of the table");
  app.footer(
      "changed bytes: read once, and read differently later in the same snapshot\n"
      "signals: SIGBUS and SIGSEGV, a page each\n"
      "failed closed: snapshots that said that their bytes are lost, and faulted rather than show others\n"
      "mixed: snapshots with bytes of two moments, which copied, spilled and paged accept here\n"
      "writer: how long one change took, median and 99th of a hundred\n\n"
      "Exit status: 0 if what was held did hold still, 1 if bytes changed or faults came without a word, 3 "
      "if "
      "the storm did plain mappings no harm and so proved nothing, 2 if it could not be run.");
}

int run(const arguments& typed) {
  arguments what = typed;
  what.directory = unshielded(what.directory);
  listen_for_the_end();
  try {
    const shared_scoreboard board;
    if (!rage(*board, what)) {
      ::signal(ended_by, SIG_DFL);
      ::raise(ended_by);
    }
    const verdict judged = judge(*board);
    if (what.json)
      std::puts(record(*board, what, judged)
                    .dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace)
                    .c_str());
    else
      print_table(*board);
    std::fflush(stdout);
    std::fprintf(stderr, "still: %s\n", judged.words.c_str());
    return judged.status();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "still: torture: %s\n", error.what());
    return not_run;
  }
}

}  // namespace still::torture
