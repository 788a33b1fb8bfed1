// SPDX-License-Identifier: Apache-2.0
//
// The bytes go from the snapshot to the file by pwrite(2): where they were taken away (a truncation that no
// lease stops, a disk error) the call says EFAULT, and no signal comes.
#include "cp/cp.hpp"

#include "cp/replacement.hpp"
#include "live_line.hpp"
#include "words.hpp"

#include <stillmap/snapshot.hpp>

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <utility>

namespace still::cp {
namespace {

constexpr int whole_status = 0, failed_status = 1, torn_status = 3;
// A piece is 1 ms of memory and 10 to 40 ms of disk: often enough for the progress line.
constexpr std::size_t piece_bytes = std::size_t{4} << 20;
// Zeros as long as this become a hole; the largest block of the file systems in use.
constexpr std::size_t hole_bytes = 64 * 1024;

using clock = std::chrono::steady_clock;
constexpr std::chrono::milliseconds silent{300}, between_shows{100};

const std::vector<std::string>& level_names() {
  static const std::vector<std::string> names = {"torn", "verified", "point_in_time"};
  return names;
}

bool from_stdin(const arguments& what) {
  return what.source == "-";
}

std::optional<struct stat> looked_at(const std::string& path) {
  struct stat found;
  if (::stat(path.c_str(), &found) == 0) return found;
  if (errno != ENOENT) throw failure_of(path, errno);
  return {};
}

std::string last_component(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path.substr(path.rfind('/') + 1);
}

// The file to be replaced: inside the target where that is a folder, and what it leads to where it is a link.
std::string place_of(const arguments& what) {
  std::string target = what.target;
  if (const auto found = looked_at(target); found && S_ISDIR(found->st_mode)) {
    if (from_stdin(what)) throw failure(target + ": a folder; what comes from standard input needs a name");
    target += (target.back() == '/' ? "" : "/") + last_component(what.source);
  }
  struct stat link;
  if (::lstat(target.c_str(), &link) == 0 && S_ISLNK(link.st_mode)) {
    const std::unique_ptr<char, void (*)(void*)> real(::realpath(target.c_str(), nullptr), std::free);
    if (!real) throw failure(target + ": a symbolic link that leads nowhere");
    target = real.get();
  }
  if (target.empty()) throw failure_of("''", ENOENT);
  if (target.back() == '/') throw failure_of(target, ENOTDIR);
  return target;
}

std::optional<struct stat> may_be_replaced(const std::string& target) {
  const auto there = looked_at(target);
  if (!there) return there;
  if (S_ISDIR(there->st_mode)) throw failure_of(target, EISDIR);
  if (!S_ISREG(there->st_mode)) throw failure(target + ": not a regular file, and would be replaced by one");
  // A rename asks the folder alone; who took write permission away meant the file.
  if (::faccessat(AT_FDCWD, target.c_str(), W_OK, AT_EACCESS) != 0) throw failure_of(target, errno);
  return there;
}

struct source_file {
  stillmap::snapshot bytes;
  std::string why_torn;  // why nothing better was to be had; empty: it was asked for
};

stillmap::snapshot open_source(const arguments& what, stillmap::consistency require, std::error_code& ec) {
  stillmap::options how;
  how.require = require;
  how.access = stillmap::access::sequential;
  if (!from_stdin(what)) return stillmap::snapshot::open(what.source, how, ec);
  // A file as standard input is read from where it stands, as by everybody else.
  struct stat input;
  if (const off_t at = ::lseek(STDIN_FILENO, 0, SEEK_CUR);
      at > 0 && ::fstat(STDIN_FILENO, &input) == 0 && S_ISREG(input.st_mode))
    how.offset = static_cast<std::uint64_t>(std::min(at, input.st_size));
  return stillmap::snapshot::from_fd(STDIN_FILENO, how, ec);
}

source_file hold(const arguments& what) {
  const auto& names = level_names();
  const auto named = std::find(names.begin(), names.end(), what.require) - names.begin();
  const auto require = what.require.empty() ? stillmap::consistency::verified
                                            : static_cast<stillmap::consistency>(STILL_TORN + named);
  source_file result;
  std::error_code ec;
  result.bytes = open_source(what, require, ec);
  if (!ec) return result;
  std::string why = still_message();
  const int error = ec.value();
  const bool less_may_do =
      error == STILL_ERROR_BUSY_WRITER || error == STILL_ERROR_CHANGING || error == STILL_ERROR_UNSUPPORTED;
  if (!what.require.empty() || !less_may_do) throw failure(why);
  result.bytes = open_source(what, stillmap::consistency::torn, ec);
  if (ec) throw failure(still_message());
  result.why_torn = std::move(why);
  return result;
}

// Shown from 0.3 s on, on a terminal.
class progress {
 public:
  progress(bool wanted, std::size_t all) : line_(wanted), all_(static_cast<double>(all)) {}

  void at(std::size_t done) {
    const auto now = clock::now();
    if (!line_.on() || now - shown_ < between_shows) return;
    shown_ = now;
    const auto copied = static_cast<double>(done);
    const double seconds = std::chrono::duration<double>(now - begin_).count();
    char text[120];
    std::snprintf(text, sizeof text, "%.1f of %.1f MB  %3.0f %%  %.1f MB/s", copied / 1e6, all_ / 1e6,
                  100 * copied / all_, copied / 1e6 / seconds);
    line_.show(text);
  }

 private:
  live_line line_;
  double all_;
  clock::time_point begin_ = clock::now(), shown_ = begin_ + silent - between_shows;
};

[[noreturn]] void taken_away(const std::string& source) {
  throw failure(source + ": its bytes were taken away while they were copied (truncated, or a disk error)");
}

bool all_zero(const char* data, std::size_t bytes) {
  return data[0] == 0 && std::memcmp(data, data + 1, bytes - 1) == 0;
}

// A source with holes is copied by way of a buffer, where zeros can be looked for: there no fault can come.
// The kernel fills it, which says EFAULT, as write(2) does.
class buffer {
 public:
  // Null where a sandbox forbids the call: then the holes are filled.
  const char* filled(const char* from, std::size_t bytes, const std::string& source) {
    for (std::size_t done = 0; done < bytes;) {
      const iovec to{memory_.get() + done, bytes - done}, what{const_cast<char*>(from) + done, bytes - done};
      const ssize_t got = ::process_vm_readv(::getpid(), &to, 1, &what, 1, 0);
      if (got < 0 && errno == EFAULT) taken_away(source);
      if (got <= 0) return nullptr;
      done += static_cast<std::size_t>(got);
    }
    return memory_.get();
  }

 private:
  std::unique_ptr<char[]> memory_ = std::make_unique<char[]>(piece_bytes);
};

void write_whole(int fd, const char* data, std::size_t bytes, std::size_t at, const arguments& what,
                 const std::string& target) {
  for (std::size_t done = 0; done < bytes;) {
    const ssize_t wrote = ::pwrite(fd, data + done, bytes - done, static_cast<off_t>(at + done));
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0 && errno == EFAULT) taken_away(what.source);
    if (wrote < 0) throw failure_of(target, errno);
    done += static_cast<std::size_t>(wrote);
  }
}

void copy(stillmap::snapshot& from, bool has_holes, const replacement& to, const arguments& what,
          const std::string& target) {
  progress shown(!what.quiet, from.size());
  std::optional<buffer> between;
  if (has_holes) between.emplace();
  const auto* const data = static_cast<const char*>(from.data());
  for (std::size_t at = 0; at < from.size(); at += piece_bytes) {
    const std::size_t piece = std::min(piece_bytes, from.size() - at);
    // Paged: a system call may not be able to fetch what is not there yet.
    if (from.how() == stillmap::backing::paged && from.advise(stillmap::advice::populate, at, piece))
      throw failure(what.source + ": " + still_message());
    const char* const safe = between ? between->filled(data + at, piece, what.source) : nullptr;
    const std::size_t step = safe ? hole_bytes : piece;
    for (std::size_t i = 0; i < piece; i += step) {
      const std::size_t bytes = std::min(step, piece - i);
      if (safe && all_zero(safe + i, bytes)) continue;
      write_whole(to.fd(), (safe ? safe : data + at) + i, bytes, at + i, what, target);
    }
    shown.at(at + piece);
  }
  // The last byte may lie in a hole.
  if (between && ::ftruncate(to.fd(), static_cast<off_t>(from.size())) != 0) throw failure_of(target, errno);
}

int copied(const arguments& what) {
  const std::string target = place_of(what);
  const auto there = may_be_replaced(target);
  struct stat source;
  if ((from_stdin(what) ? ::fstat(STDIN_FILENO, &source) : ::stat(what.source.c_str(), &source)) != 0)
    throw failure_of(what.source, errno);
  if (S_ISDIR(source.st_mode)) throw failure_of(what.source, EISDIR);
  if (there && there->st_dev == source.st_dev && there->st_ino == source.st_ino)
    throw failure(what.source + " and " + target + " are the same file");

  source_file from = hold(what);
  replacement made(target, S_ISREG(source.st_mode) ? source.st_mode : 0666, there);
  const bool has_holes = S_ISREG(source.st_mode) && source.st_blocks * 512 < source.st_size;
  copy(from.bytes, has_holes, made, what, target);
  const bool torn = from.bytes.when() == stillmap::consistency::torn;
  from.bytes = {};  // no writer waits for our disk
  made.put_in_place();
  if (!torn) return whole_status;
  if (!what.quiet)
    std::fprintf(stderr, "still: %s: the copy is torn: its parts may come from different moments%s%s\n",
                 what.source.c_str(), from.why_torn.empty() ? "" : ". ", from.why_torn.c_str());
  return torn_status;
}

}  // namespace

void declare(CLI::App& app, arguments& into) {
  app.set_help_flag("-h,--help", "Print this help and exit");
  app.add_option("SOURCE", into.source, "File to copy; - is standard input")->required();
  app.add_option("TARGET", into.target, "File to make or replace, or a folder to put it in")->required();
  app.add_option("--require", into.require, "Weakest consistency accepted; no copy where it is not to be had")
      ->check(CLI::IsMember(level_names()));
  app.add_flag("-q,--quiet", into.quiet, "No progress, and of a torn copy the exit status alone tells");
  app.footer(
      "TARGET is replaced in one step when all is on the disk. It keeps its mode; its other hard links keep "
      "the old bytes.\n"
      "Exit status: 0 if the copy is whole, 3 if it was made but is torn, 1 if it failed and TARGET is "
      "untouched, 2 for a mistake in the command line.");
}

int run(const arguments& typed) {
  arguments what = typed;
  what.source = unshielded(what.source);
  what.target = unshielded(what.target);
  ::signal(SIGXFSZ, SIG_IGN);  // a limit on file sizes is an error of write(2), like a full disk
  try {
    return copied(what);
  } catch (const failure& error) {
    std::fprintf(stderr, "still: %s\n", error.what());
    return failed_status;
  } catch (const std::exception& error) {  // no memory
    std::fprintf(stderr, "still: %s: %s\n", what.source.c_str(), error.what());
    return failed_status;
  }
}

}  // namespace still::cp
