// SPDX-License-Identifier: Apache-2.0
//
// What a hostile reader can do to a writer, a hostile writer to a reader, and what 10,000 leases cost. Prints
// JSON; bench/denial.py makes docs/denial-of-service.md of it. Works on scratch files in $STILLMAP_BENCH_DIR
// (default: the current folder). As root it sets lease-break-time for the length of one section, and puts it
// back.
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include <stillmap/snapshot.hpp>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <functional>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "scratch.hpp"

namespace stillmap::bench {
namespace {

using nlohmann::json;
using clock = std::chrono::steady_clock;

double ms_since(clock::time_point begin) {
  return std::chrono::duration<double, std::milli>(clock::now() - begin).count();
}

json spread(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const auto at = [&](double fraction) {
    return values[static_cast<std::size_t>(fraction * static_cast<double>(values.size() - 1))];
  };
  return {{"median", at(0.5)}, {"p99", at(0.99)}, {"most", values.back()}, {"count", values.size()}};
}

// A process that runs until it is killed; its end is waited for.
class child {
 public:
  explicit child(const std::function<void()>& body) : id_(::fork()) {
    if (id_ == 0) {
      body();
      ::_exit(0);
    }
  }
  child(const child&) = delete;
  child& operator=(const child&) = delete;
  ~child() {
    ::kill(id_, SIGKILL);
    ::waitpid(id_, nullptr, 0);
  }

 private:
  pid_t id_;
};

// How long an open for writing waits, in ms; less than 0: refused.
double wait_to_write(const char* path, int flags = 0) {
  const auto begin = clock::now();
  const int fd = ::open(path, O_WRONLY | O_CLOEXEC | flags);
  const double waited = ms_since(begin);
  if (fd < 0) return -1;
  ::close(fd);
  return waited;
}

bool is_leased(const char* path) {
  const int fd = ::open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC);
  if (fd >= 0) ::close(fd);
  return fd < 0 && errno == EAGAIN;
}

class break_time {
 public:
  explicit break_time(int seconds) {
    std::ifstream(setting) >> before_;
    changed_ = static_cast<bool>(std::ofstream(setting) << seconds);
  }
  break_time(const break_time&) = delete;
  break_time& operator=(const break_time&) = delete;
  ~break_time() {
    if (changed_) std::ofstream(setting) << before_;
  }
  explicit operator bool() const { return changed_; }

 private:
  static constexpr const char* setting = "/proc/sys/fs/lease-break-time";
  int before_ = 45;
  bool changed_ = false;
};

// No library is needed for this: any reader of a file of its own may lease it and sleep.
json reader_that_never_answers() {
  const break_time short_one(1);
  if (!short_one) return nullptr;
  std::vector<double> waits;
  const scratch_file file(4096);
  for (int i = 0; i < 5; ++i) {
    const child reader([&] {
      const int fd = ::open(file.path(), O_RDONLY | O_CLOEXEC);
      ::signal(SIGIO, SIG_IGN);
      ::fcntl(fd, F_SETLEASE, F_RDLCK);
      for (;;) ::pause();
    });
    while (!is_leased(file.path())) ::usleep(1000);
    waits.push_back(wait_to_write(file.path()));
  }
  return spread(waits);
}

json readers_that_lease_again(int readers) {
  const scratch_file file(std::uint64_t{64} << 20);
  std::vector<std::unique_ptr<child>> all;
  for (int i = 0; i < readers; ++i) {
    all.push_back(std::make_unique<child>([&] {
      for (;;) {
        std::error_code ec;
        const snapshot one = snapshot::open(file.path(), {.backing = backing::leased}, ec);
        if (!ec) keep(sum(one.data(), one.size()));
      }
    }));
  }
  ::usleep(500'000);
  std::vector<double> waits;
  for (int i = 0; i < 200; ++i) {
    waits.push_back(wait_to_write(file.path()));
    ::usleep(5000);
  }
  return spread(waits);
}

// Opens for writing, writes a page and closes, without a pause.
json writer_without_pause() {
  const scratch_file file(std::uint64_t{64} << 20);
  const child writer([&] {
    const std::string page(4096, '#');
    for (;;) {
      const int fd = ::open(file.path(), O_WRONLY | O_CLOEXEC);
      if (fd < 0) continue;
      if (::pwrite(fd, page.data(), page.size(), 0) < 0) ::_exit(1);
      ::close(fd);
    }
  });
  ::usleep(200'000);
  std::vector<double> opens;
  std::uint64_t private_most = 0;
  json how = json::object();
  for (int i = 0; i < 100; ++i) {
    std::error_code ec;
    const auto begin = clock::now();
    const snapshot one = snapshot::open(file.path(), {.require = consistency::torn}, ec);
    opens.push_back(ms_since(begin));
    const std::string name = ec ? "refused" : still_backing_name(still_how(one.get()));
    how[name] = how.value(name, 0) + 1;
    if (ec) continue;
    keep(sum(one.data(), one.size()));
    private_most = std::max(private_most, one.private_bytes());
  }
  json result = spread(opens);
  result["how"] = how;
  result["private_most"] = private_most;
  return result;
}

json writer_that_will_not_wait() {
  const scratch_file file(std::uint64_t{64} << 20);
  std::vector<double> times;
  int refused = 0;
  constexpr int rounds = 21;
  for (int i = 0; i < rounds; ++i) {
    const snapshot one = snapshot::open(file.path(), {.backing = backing::leased});
    keep(sum(one.data(), one.size()));
    const auto begin = clock::now();
    while (wait_to_write(file.path(), O_NONBLOCK) < 0) {
      ++refused;
      ::usleep(1000);
    }
    times.push_back(ms_since(begin));
  }
  json result = spread(times);
  result["refused"] = static_cast<double>(refused) / rounds;
  return result;
}

json many_leases() {
  constexpr std::size_t files = 10'000, sample = 200;
  rlimit limit{};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = files * 2;
  limit.rlim_max = std::max(limit.rlim_max, limit.rlim_cur);
  if (::setrlimit(RLIMIT_NOFILE, &limit) != 0) return nullptr;
  const std::string prefix = folder() + "/stillmap-bench-many-";
  std::vector<std::string> names;
  for (std::size_t i = 0; i < files; ++i) {
    names.push_back(prefix + std::to_string(i));
    std::ofstream(names.back(), std::ios::binary) << i << std::string(5000, '.');
  }
  std::vector<snapshot> held;
  const auto hold = [&](std::size_t i) {
    const auto begin = clock::now();
    held.push_back(snapshot::open(names[i], {.backing = backing::leased}));
    return ms_since(begin) * 1e3;
  };
  const auto break_sample = [&](std::size_t first) {
    std::vector<double> waits;
    for (std::size_t i = 0; i < sample; ++i) waits.push_back(wait_to_write(names[first + i].c_str()) * 1e3);
    return spread(waits);
  };
  json result;
  hold(0);  // starts the threads
  held.clear();
  // One lease alone, again and again.
  std::vector<double> alone;
  for (std::size_t i = 0; i < sample; ++i) {
    hold(i);
    alone.push_back(wait_to_write(names[i].c_str()) * 1e3);
    held.clear();
  }
  result["break_alone_us"] = spread(alone);
  std::vector<double> first, last;
  for (std::size_t i = 0; i < files; ++i) {
    const double us = hold(i);
    if (i < sample) first.push_back(us);
    if (i >= files - sample) last.push_back(us);
  }
  result["files"] = files;
  result["open_first_us"] = spread(first);
  result["open_last_us"] = spread(last);
  result["break_among_us"] = break_sample(files / 2);

  // The storm: broken without waiting, one after the other; then written to.
  rlimit signals{};
  ::getrlimit(RLIMIT_SIGPENDING, &signals);
  const rlimit few{16, signals.rlim_max};
  ::setrlimit(RLIMIT_SIGPENDING, &few);
  const auto begin = clock::now();
  for (const std::string& each : names) wait_to_write(each.c_str(), O_NONBLOCK);
  for (const std::string& each : names) std::ofstream(each, std::ios::binary) << "gone";
  result["storm_s"] = ms_since(begin) / 1e3;
  ::setrlimit(RLIMIT_SIGPENDING, &signals);
  std::size_t kept = 0;
  for (std::size_t i = 0; i < files; ++i) {
    const std::string wanted = std::to_string(i) + std::string(5000, '.');
    kept += held[i].current() == state::private_memory && held[i].size() == wanted.size() &&
            std::memcmp(held[i].data(), wanted.data(), wanted.size()) == 0;
  }
  result["storm_kept"] = kept;
  held.clear();
  for (const std::string& each : names) ::unlink(each.c_str());
  return result;
}

}  // namespace
}  // namespace stillmap::bench

int main() {
  using namespace stillmap::bench;
  json result;
  result["reader_that_never_answers_ms"] = reader_that_never_answers();
  result["readers_that_lease_again_ms"] = {{"1", readers_that_lease_again(1)}, {"4", readers_that_lease_again(4)}};
  result["writer_without_pause_ms"] = writer_without_pause();
  result["writer_that_will_not_wait_ms"] = writer_that_will_not_wait();
  result["many_leases"] = many_leases();
  std::cout << result.dump(2) << '\n';
}
