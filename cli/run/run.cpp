// SPDX-License-Identifier: Apache-2.0
#include "run/run.hpp"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <new>
#include <string>

#include "report.hpp"
#include "words.hpp"

namespace still::run {
namespace {

namespace fs = std::filesystem;
using preload::report;

constexpr int cannot_run = 126, not_found = 127;

int refuse(int status, const std::string& what) {
  std::fprintf(stderr, "still run: %s\n", what.c_str());
  return status;
}

// Beside the installed command, or in the tree where both were built.
fs::path preload_library() {
  if (const char* const given = std::getenv("STILLMAP_PRELOAD"); given != nullptr && *given != '\0') return given;
  std::error_code ec;
  const fs::path self = fs::read_symlink("/proc/self/exe", ec).parent_path();
  const char* const name = "libstillmap-preload.so";
  for (const fs::path& folder : {self / ".." / STILL_LIBRARY_FOLDER, self / ".." / "preload"}) {
    fs::path there = fs::weakly_canonical(folder / name, ec);
    if (!ec && fs::exists(there, ec)) return there;
  }
  return {};
}

// As execvp(3) would find it.
fs::path found(const std::string& command) {
  if (command.find('/') != std::string::npos) return command;
  const char* const given = std::getenv("PATH");
  const std::string folders = given != nullptr ? given : "/bin:/usr/bin";
  for (std::size_t begin = 0; begin <= folders.size();) {
    const std::size_t end = std::min(folders.find(':', begin), folders.size());
    const fs::path candidate = fs::path(folders.substr(begin, end - begin)) / command;
    if (::access(candidate.c_str(), X_OK) == 0 && !fs::is_directory(candidate)) return candidate;
    begin = end + 1;
  }
  return {};
}

// Why the loader would leave the preload out; "": it will not. Only the command itself is looked at, not what
// it starts.
std::string obstacle(const fs::path& program) {
  struct stat found;
  if (::stat(program.c_str(), &found) != 0) return "";
  if ((found.st_mode & (S_ISUID | S_ISGID)) != 0 && ::geteuid() != 0)
    return "runs with more rights than its user has: the loader takes no preload into it";
  const int fd = ::open(program.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return "";
  Elf64_Ehdr head{};
  bool dynamic = false;
  const bool elf = ::pread(fd, &head, sizeof head, 0) == static_cast<ssize_t>(sizeof head) &&
                   std::memcmp(head.e_ident, ELFMAG, SELFMAG) == 0;
  for (unsigned i = 0; elf && i < head.e_phnum; ++i) {
    Elf64_Phdr part{};
    const auto at = static_cast<off_t>(head.e_phoff + i * head.e_phentsize);
    if (::pread(fd, &part, sizeof part, at) == static_cast<ssize_t>(sizeof part) && part.p_type == PT_INTERP) dynamic = true;
  }
  ::close(fd);
  if (elf && head.e_ident[EI_CLASS] != ELFCLASS64) return "is a program of another word size than the preload";
  return elf && !dynamic ? "is linked statically: no preload reaches it" : "";
}

std::string lines(const std::vector<std::string>& all) {
  std::string result;
  for (const std::string& each : all) result += unshielded(each) + "\n";
  return result;
}

// A file that every process of the command can map by name.
class report_file {
 public:
  report_file() {
    const char* const folder = std::getenv("TMPDIR");
    path_ = std::string(folder != nullptr && *folder != '\0' ? folder : "/tmp") + "/still-run.XXXXXX";
    const int fd = ::mkstemp(path_.data());
    if (fd < 0) return;
    void* place = MAP_FAILED;
    if (::ftruncate(fd, sizeof(report)) == 0)
      place = ::mmap(nullptr, sizeof(report), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    ::close(fd);
    if (place != MAP_FAILED) counts_ = static_cast<report*>(place);
  }
  report_file(const report_file&) = delete;
  report_file& operator=(const report_file&) = delete;
  ~report_file() { ::unlink(path_.c_str()); }

  const report* counts() const { return counts_; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  report* counts_ = nullptr;
};

void print(const report& all) {
  std::uint64_t held = 0;
  for (const auto& way : all.held)
    for (const auto& level : way) held += level;
  const auto number = [](const std::atomic<std::uint64_t>& value) { return static_cast<unsigned long long>(value.load()); };
  std::fprintf(stderr, "still run: %llu mappings held, in %llu processes\n", static_cast<unsigned long long>(held), number(all.processes));
  for (std::size_t way = 0; way < report::ways; ++way)
    for (std::size_t level = 0; level < report::levels; ++level)
      if (all.held[way][level] != 0)
        std::fprintf(stderr, "  %8llu  %s, %s\n", number(all.held[way][level]),
                     way == STILL_AUTO ? "wholly behind the end of their file" : still_backing_name(static_cast<still_backing>(way)),
                     still_consistency_name(static_cast<still_consistency>(level)));
  std::fprintf(stderr, "  %8llu  of them made private when a writer came, or for a fork; %llu lost\n", number(all.detached), number(all.lost));
  if (all.refused != 0) std::fprintf(stderr, "  %8llu  refused\n", number(all.refused));
  for (std::size_t i = 0; i < static_cast<std::size_t>(preload::left_alone::count); ++i)
    if (all.left[i] != 0)
      std::fprintf(stderr, "  %8llu  left alone: %s\n", number(all.left[i]), preload::words_for(static_cast<preload::left_alone>(i)));
}

[[noreturn]] void become(std::vector<char*>& words) {
  ::execvp(words[0], words.data());
  const int error = errno;
  std::fprintf(stderr, "still run: %s: %s\n", words[0], std::strerror(error));
  ::_exit(error == ENOENT ? not_found : cannot_run);
}

volatile pid_t waited_for = 0;
void pass_on(int number) { ::kill(waited_for, number); }

// Waits for the command as a shell does, and ends as it ended. What the terminal sends goes to the command as
// well, which decides; what is sent to this process alone is passed on.
int wait_for(pid_t child) {
  waited_for = child;
  ::signal(SIGINT, SIG_IGN);
  ::signal(SIGQUIT, SIG_IGN);
  for (const int number : {SIGTERM, SIGHUP, SIGUSR1, SIGUSR2}) ::signal(number, pass_on);
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return status;
}

}  // namespace

void declare(CLI::App& app, arguments& into) {
  app.add_option("--only", into.only, "Hold only files whose name, or path where it has a slash, matches GLOB")
      ->type_name("GLOB")
      ->expected(1)
      ->take_all();
  app.add_option("--except", into.except, "Leave files alone whose name, or path where it has a slash, matches GLOB")
      ->type_name("GLOB")
      ->expected(1)
      ->take_all();
  app.add_option("--mappings", into.mappings,
                 "snapshot: those asked for with MAP_SNAPSHOT; private: also every MAP_PRIVATE one of a file; readonly: also "
                 "shared ones that are only read, of named files; all: of unlinked files, memfds and by writable descriptors too")
      ->check(CLI::IsMember({"snapshot", "private", "readonly", "all"}))
      ->capture_default_str();
  app.add_option("--require", into.require, "Weakest level accepted; where it cannot be had, mmap fails")
      ->check(CLI::IsMember({"torn", "verified", "point_in_time"}))
      ->capture_default_str();
  app.add_flag("--report", into.report, "Tell on standard error what was held, and how, when the command has ended");
  app.footer("Usage: still run [OPTIONS] -- COMMAND [ARG...]");
}

words divided(std::vector<std::string> all) {
  words result;
  auto at = all.begin();
  for (; at != all.end() && *at != "--" && at->starts_with('-'); ++at) {
    result.ours.push_back(*at);
    const bool has_value = at->find('=') == std::string::npos && (*at == "--only" || *at == "--except" || *at == "--mappings" || *at == "--require");
    if (has_value && at + 1 != all.end()) result.ours.push_back(*++at);
  }
  if (at != all.end() && *at == "--") ++at;
  result.command.assign(at, all.end());
  return result;
}

int run(const arguments& what) {
  if (what.command.empty()) return refuse(2, "no COMMAND was given\nTry 'still run --help'.");
  const fs::path library = preload_library();
  if (library.empty()) return refuse(cannot_run, "libstillmap-preload.so is not where it was installed (see $STILLMAP_PRELOAD)");
  const fs::path program = found(what.command[0]);
  if (program.empty()) return refuse(not_found, what.command[0] + ": not found");
  if (const std::string why = obstacle(program); !why.empty()) return refuse(cannot_run, what.command[0] + " " + why);

  std::string loaded = library.string();
  if (const char* const others = std::getenv("LD_PRELOAD"); others != nullptr && *others != '\0') loaded += std::string(":") + others;
  ::setenv("LD_PRELOAD", loaded.c_str(), 1);
  ::setenv(preload::mappings_variable, what.mappings.c_str(), 1);
  ::setenv(preload::require_variable, what.require.c_str(), 1);
  ::setenv(preload::only_variable, lines(what.only).c_str(), 1);
  ::setenv(preload::except_variable, lines(what.except).c_str(), 1);
  std::vector<char*> command;
  for (const std::string& each : what.command) command.push_back(const_cast<char*>(each.c_str()));
  command.push_back(nullptr);
  if (!what.report) become(command);

  const report_file file;
  if (file.counts() == nullptr) return refuse(cannot_run, "no file for the report: " + file.path() + ": " + std::strerror(errno));
  ::setenv(preload::report_variable, file.path().c_str(), 1);
  const pid_t child = ::fork();
  if (child == 0) become(command);
  if (child < 0) return refuse(cannot_run, std::strerror(errno));
  const int status = wait_for(child);
  print(*file.counts());
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

}  // namespace still::run
