// SPDX-License-Identifier: Apache-2.0
//
// One iteration: open a file, add up every byte, close it, in every way there is. The aim is the lower
// envelope of raw mmap and read into recycled memory, at every size, however the page cache holds the file.
// tools/bench runs this on each file system, all ways in random order.
//
//   scan/WAY/whole|pieces/BYTES     one thread
//   halves/WAY/whole|pieces/BYTES   two threads, half the bytes each
//   fresh/WAY/whole/BYTES           a file changed less than 10 s ago
//   written/WAY/whole/BYTES         ... which somebody has open for writing, so that there is no lease
//
// $STILLMAP_BENCH_MOST: the largest file made and measured, in bytes (1 GiB). $STILLMAP_BENCH_QUICK: fewer
// repetitions.
#include <benchmark/benchmark.h>

#include <functional>
#include <string>
#include <thread>

#include "ways.hpp"

namespace stillmap::bench {
namespace {

constexpr std::int64_t kib = 1 << 10, mib = 1 << 20;

// One way over one file, in one process for all repetitions. Three times before it counts, where that is cheap: what
// is measured is a process that does it again and again.
void repeat(benchmark::State& state, const way& by, look at, const scratch_file& file) {
  warm(file.path());
  for (int i = 0; i < 3 && !by.dear; ++i) by.once(file.path(), at, by.how);
  for (auto _ : state) {
    if (!by.once(file.path(), at, by.how)) {
      state.SkipWithError(still_message());
      break;
    }
  }
}

std::uint64_t sum_halves(const void* data, std::size_t bytes) {
  const std::size_t half = bytes / 2;
  std::uint64_t second = 0;
  std::thread other([&] { second = sum(static_cast<const char*>(data) + half, bytes - half); });
  const std::uint64_t first = sum(data, half);
  other.join();
  return first + second;
}

// The rival of two threads on one mapping: each reads its half into memory of its own.
bool read_halves(const char* path, look, const options&) {
  const opened file(path);
  char* const memory = recycled(file.bytes);
  const std::size_t half = file.bytes / 2;
  const auto take = [&](std::size_t from, std::size_t to) {
    constexpr std::size_t piece_bytes = std::size_t{256} << 10;  // stays in the cache until it is added up
    std::uint64_t total = 0;
    while (from < to) {
      const ssize_t got =
          ::pread(file.fd, memory + from, std::min(piece_bytes, to - from), static_cast<off_t>(from));
      if (got <= 0) break;
      total += sum(memory + from, static_cast<std::size_t>(got));
      from += static_cast<std::size_t>(got);
    }
    keep(total);
  };
  std::thread other(take, half, file.bytes);
  take(0, half);
  other.join();
  return true;
}

// Not its bytes, but its change time is of now.
void touch(const char* path) {
  if (::utimensat(AT_FDCWD, path, nullptr, 0) != 0) fail(path, "utimensat");
}

// Has the file open for writing, and writes nothing.
class writer {
 public:
  explicit writer(const char* path) : fd_(::open(path, O_WRONLY | O_CLOEXEC)) {
    if (fd_ < 0) fail(path, "open for writing");
  }
  writer(const writer&) = delete;
  writer& operator=(const writer&) = delete;
  ~writer() { ::close(fd_); }

 private:
  int fd_;
};

// Cloning and the like are not to be had on every file system.
bool to_be_had(const way& by) {
  static const scratch_file any(4 * mib + 1);
  return by.once(any.path(), sum, by.how);
}

struct plan {
  std::int64_t most;
  bool quick;

  void add(const std::string& family, const way& by, written how, std::int64_t bytes,
           const std::function<void(benchmark::State&)>& body) const {
    const std::string name =
        family + "/" + by.name + (how == written::whole ? "/whole/" : "/pieces/") + std::to_string(bytes);
    auto* const made = benchmark::RegisterBenchmark(name.c_str(), body);
    made->Unit(benchmark::kMicrosecond)->UseRealTime();
    const bool large = bytes >= 1024 * mib;
    made->Repetitions(by.dear && bytes >= 64 * mib ? (large ? 2 : 3) : quick ? 5 : large ? 5 : 9);
    if (bytes >= 64 * mib)
      made->Iterations(large || by.dear ? 1 : 3);
    else
      made->MinTime(bytes >= 4 * mib ? 0.02 : 0.008);
  }

  void register_all() const {
    for (const way& by : ways()) {
      if (!to_be_had(by)) continue;
      for (const std::int64_t bytes :
           {4 * kib, 16 * kib, 64 * kib, 256 * kib, mib, 4 * mib, 8 * mib, 16 * mib, 64 * mib, 1024 * mib}) {
        if (bytes > most || bytes < by.least_bytes) continue;
        for (const written how : {written::whole, written::pieces}) {
          const scratch_file& file = file_of(bytes, how);
          add("scan", by, how, bytes, [&](benchmark::State& state) { repeat(state, by, sum, file); });
          if (bytes >= 64 * mib &&
              (by.once == raw_mmap || (by.once == still && by.how.backing == backing::automatic)))
            add("halves", by, how, bytes,
                [&](benchmark::State& state) { repeat(state, by, sum_halves, file); });
        }
      }
      if (by.once != still || by.how.backing != backing::automatic) continue;
      for (const std::int64_t bytes : {16 * kib, 256 * kib}) {
        static std::map<std::int64_t, scratch_file> fresh;  // the touched one would not be at rest
        const scratch_file& file =
            fresh.try_emplace(bytes, static_cast<std::uint64_t>(bytes + 1)).first->second;
        add("fresh", by, written::whole, bytes, [&](benchmark::State& state) {
          touch(file.path());
          repeat(state, by, sum, file);
        });
        const writer one(file.path());
        if (!by.once(file.path(), sum, by.how)) continue;  // tmpfs: torn alone
        add("written", by, written::whole, bytes, [&](benchmark::State& state) {
          const writer other(file.path());
          touch(file.path());
          repeat(state, by, sum, file);
        });
      }
    }
    static const way halves{"read_recycled", read_halves};
    for (const std::int64_t bytes : {64 * mib, 1024 * mib}) {
      for (const written how : {written::whole, written::pieces}) {
        if (bytes > most) continue;
        const scratch_file& file = file_of(bytes, how);
        add("halves", halves, how, bytes,
            [&](benchmark::State& state) { repeat(state, halves, nullptr, file); });
      }
    }
  }
};

}  // namespace
}  // namespace stillmap::bench

int main(int count, char** words) {
  using namespace stillmap::bench;
  benchmark::Initialize(&count, words);
  const char* const most = std::getenv("STILLMAP_BENCH_MOST");
  const plan all{most != nullptr ? std::atoll(most) : 1024 * mib, is_set("STILLMAP_BENCH_QUICK")};
  recycled(static_cast<std::size_t>(all.most));
  all.register_all();
  rest();
  benchmark::RunSpecifiedBenchmarks();
}
