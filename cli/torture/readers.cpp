// SPDX-License-Identifier: Apache-2.0
//
// One round: snapshots of a few files, a first look at every byte, changes, a second look, a comparison. A
// fault is caught and counted for each page; behind a snapshot that says that its bytes are lost it is the
// promise kept, anywhere else it is harm.
#include "torture/readers.hpp"

#include "torture/descriptor.hpp"
#include "torture/writers.hpp"

#include <stillmap/snapshot.hpp>

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <deque>
#include <thread>
#include <utility>
#include <vector>

namespace still::torture {
namespace {

constexpr way all[] = {
    {.name = "mmap MAP_SHARED", .how = method::mmap_shared},
    {.name = "mmap MAP_PRIVATE", .how = method::mmap_private},
    {.name = "read", .how = method::read},
    // As a caller gets it who asks for nothing.
    {.name = "stillmap auto", .how = method::stillmap, .require = STILL_VERIFIED},
    {.name = "stillmap leased", .how = method::stillmap, .backing = STILL_LEASED},
    {.name = "stillmap cloned", .how = method::stillmap, .backing = STILL_CLONED},
    {.name = "stillmap copied", .how = method::stillmap, .backing = STILL_COPIED},
    {.name = "stillmap spilled", .how = method::stillmap, .backing = STILL_SPILLED},
    {.name = "stillmap paged", .how = method::stillmap, .backing = STILL_PAGED},
};
static_assert(std::size(all) <= rows_max);

constexpr std::size_t held_at_once = 8;
constexpr std::uint64_t strikes_between = 2;  // one of a pair may be a truncation, the other the rewriting
constexpr std::int64_t wait_max_ns = 250'000'000;

// Where to go on after a fault. The fences keep the compiler from moving the read that may fault out from
// between.
thread_local sigjmp_buf* volatile fallen = nullptr;

void on_fault(int number) {
  if (fallen != nullptr) siglongjmp(*fallen, 1);
  ::signal(number, SIG_DFL);  // not one of ours: the instruction runs again, and ends the process
}

void catch_faults() {
  struct sigaction action {};
  action.sa_handler = on_fault;
  action.sa_flags = SA_NODEFER;  // left by a jump
  ::sigaction(SIGBUS, &action, nullptr);
  ::sigaction(SIGSEGV, &action, nullptr);
}

// false: the page cannot be read.
bool look(std::byte* to, const std::byte* from, std::size_t bytes) {
  sigjmp_buf here;
  if (sigsetjmp(here, 0) != 0) {
    fallen = nullptr;
    return false;
  }
  fallen = &here;
  std::atomic_signal_fence(std::memory_order_seq_cst);
  std::memcpy(to, from, bytes);
  std::atomic_signal_fence(std::memory_order_seq_cst);
  fallen = nullptr;
  return true;
}

// One file, read in one way.
class view {
 public:
  view(const way& how, std::size_t kind) : kind_(kind), how_(how) {}
  view(const view&) = delete;
  view& operator=(const view&) = delete;
  ~view() {
    if (mapped_ != MAP_FAILED) ::munmap(mapped_, bytes_);
  }

  int open(const std::string& path) {
    if (how_.how == method::stillmap) {
      stillmap::options options;
      options.backing = static_cast<stillmap::backing>(how_.backing);
      options.require = static_cast<stillmap::consistency>(how_.require);
      std::error_code ec;
      snapshot_ = stillmap::snapshot::open(path, options, ec);
      if (ec) return ec.value();
      data_ = static_cast<const std::byte*>(snapshot_.data());
      bytes_ = snapshot_.size();
      return 0;
    }
    const descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    struct stat now;
    if (!file || ::fstat(file.get(), &now) != 0) return errno;
    bytes_ = static_cast<std::size_t>(now.st_size);
    if (how_.how == method::read) {
      copy_.resize(bytes_);
      const ssize_t got = ::pread(file.get(), copy_.data(), bytes_, 0);
      if (got < 0) return errno;
      bytes_ = static_cast<std::size_t>(got);
      data_ = copy_.data();
      return 0;
    }
    if (bytes_ == 0) return 0;
    mapped_ = ::mmap(nullptr, bytes_, PROT_READ, how_.how == method::mmap_shared ? MAP_SHARED : MAP_PRIVATE,
                     file.get(), 0);
    if (mapped_ == MAP_FAILED) return errno;
    data_ = static_cast<const std::byte*>(mapped_);
    return 0;
  }

  void look_first(row_score& score) {
    seen_.resize(bytes_);
    readable_.assign((bytes_ + page_bytes - 1) / page_bytes, false);
    for (std::size_t i = 0; i < readable_.size(); ++i) {
      readable_[i] = look(seen_.data() + i * page_bytes, data_ + i * page_bytes, page_size(i));
      if (!readable_[i]) fault(score);
    }
    if (kinds()[kind_].whole && faults_ == 0 && bytes_ != 0 &&
        std::any_of(seen_.begin(), seen_.end(), [&](std::byte one) { return one != seen_[0]; }))
      ++score.mixed;
  }

  void look_again(row_score& score) {
    std::byte now[page_bytes];
    std::uint64_t changed = 0;
    for (std::size_t i = 0; i < readable_.size(); ++i) {
      if (!readable_[i]) continue;  // never observed
      if (!look(now, data_ + i * page_bytes, page_size(i))) {
        fault(score);
        continue;
      }
      const std::byte* const before = seen_.data() + i * page_bytes;
      if (std::memcmp(now, before, page_size(i)) == 0) continue;
      for (std::size_t at = 0; at < page_size(i); ++at) changed += now[at] != before[at] ? 1u : 0u;
    }
    score.changed_bytes += changed;
    if (faults_ != 0 && lost_) ++score.failed_closed;
  }

  std::uint64_t private_bytes() const {
    return how_.how == method::read ? bytes_ : snapshot_ ? snapshot_.private_bytes() : 0;
  }
  std::size_t kind() const { return kind_; }

 private:
  std::size_t page_size(std::size_t page) const { return std::min(page_bytes, bytes_ - page * page_bytes); }

  // A detach asks the library to look for itself at what the kernel took away.
  void fault(row_score& score) {
    ++faults_;
    if (!lost_ && snapshot_) {
      snapshot_.detach();
      lost_ = snapshot_.current() == stillmap::state::lost;
    }
    if (!lost_) ++score.signals;
  }

  std::size_t kind_;
  const way& how_;
  const std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
  void* mapped_ = MAP_FAILED;
  std::vector<std::byte> copy_;
  stillmap::snapshot snapshot_;
  std::vector<std::byte> seen_;
  std::vector<bool> readable_;
  std::uint64_t faults_ = 0;
  bool lost_ = false;
};

class reader {
 public:
  reader(scoreboard& board, const std::string& folder, std::size_t row)
      : board_(board), folder_(folder), how_(all[row]), score_(board.rows[row]) {}

  void read() {
    // Where nothing is to be had of any file, there is nothing to wait for.
    while (!over() && (score_.snapshots != 0 || unsupported_ < 2 * kinds().size())) round();
    score_.not_here = score_.snapshots == 0 && unsupported_ != 0;
  }

 private:
  bool over() const { return now_ns() >= board_.row_end_ns; }
  std::uint64_t strikes(std::size_t kind) const { return board_.kinds[kind].strikes; }

  void round() {
    std::deque<view> held;
    for (std::size_t tried = 0; tried < kinds().size() && held.size() < held_at_once && !over(); ++tried) {
      const std::size_t kind = next_++ % kinds().size();
      if (board_.kinds[kind].missing_error != 0) continue;
      const std::string path = victim_path(folder_, kind);
      held.emplace_back(how_, kind);
      if (const int error = held.back().open(path); error != 0) {
        held.pop_back();
        refused(error, path);
        continue;
      }
      ++score_.snapshots;
      score_.kinds_met |= std::uint64_t{1} << kind;
      held.back().look_first(score_);
    }
    if (held.empty()) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      return;
    }
    wait_for_strikes(held);
    std::uint64_t own_bytes = 0;
    for (view& one : held) {
      one.look_again(score_);
      own_bytes += one.private_bytes();
    }
    if (own_bytes > score_.private_bytes_max) score_.private_bytes_max = own_bytes;
  }

  void refused(int error, const std::string& path) {
    if (error == ENOENT) return;  // the moment between unlink and the new file
    ++score_.refused;
    if (error == STILL_ERROR_UNSUPPORTED) ++unsupported_;
    std::string words = how_.how == method::stillmap ? still_message() : std::strerror(error);
    if (words.starts_with(path + ": ")) words.erase(0, path.size() + 2);  // of all files the same
    std::snprintf(score_.refusal, sizeof score_.refusal, "%s", words.c_str());
  }

  void wait_for_strikes(const std::deque<view>& held) const {
    std::vector<std::uint64_t> begin;
    for (const view& one : held) begin.push_back(strikes(one.kind()));
    const std::int64_t end = now_ns() + wait_max_ns;
    const auto struck = [&] {
      for (std::size_t i = 0; i < held.size(); ++i)
        if (strikes(held[i].kind()) < begin[i] + strikes_between) return false;
      return true;
    };
    while (!struck() && now_ns() < end) std::this_thread::sleep_for(std::chrono::microseconds(200));
  }

  scoreboard& board_;
  const std::string& folder_;
  const way& how_;
  row_score& score_;
  std::size_t next_ = 0, unsupported_ = 0;
};

}  // namespace

std::span<const way> ways() {
  return all;
}

void read_under_storm(scoreboard& board, const std::string& folder, std::size_t row) {
  catch_faults();
  std::atomic<bool> stop = false;
  std::thread inside([&] { storm_inside(board, folder, stop); });
  reader(board, folder, row).read();
  stop = true;
  inside.join();
}

}  // namespace still::torture
