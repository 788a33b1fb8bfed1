// SPDX-License-Identifier: Apache-2.0
//
// Bytes here and there in one file of 4 GiB, all of it holes, in the page cache.
//
//   kept/WAY     20,000 random pages, mapped before and faulted in: what an access costs
//   opened/WAY   the same with open, faults and close
//   sparse/WAY   one byte of every MiB, with open and close
//
// $STILLMAP_BENCH_MOST: a smaller file, in bytes.
#include <benchmark/benchmark.h>

#include <random>
#include <string>

#include "ways.hpp"

namespace stillmap::bench {
namespace {

constexpr int pages_read = 20'000;
constexpr std::size_t stride = std::size_t{1} << 20;

// Each process and way reads the same pages in the same order.
std::mt19937_64& places() {
  static std::mt19937_64 generator;
  return generator;
}

std::uint64_t random_pages(const void* data, std::size_t bytes) {
  std::uint64_t total = 0;
  for (int i = 0; i < pages_read; ++i)
    total += sum(static_cast<const char*>(data) + places()() % (bytes / page_bytes) * page_bytes, page_bytes);
  return total;
}

std::uint64_t one_in_a_stride(const void* data, std::size_t bytes) {
  std::uint64_t total = 0;
  for (std::size_t at = 0; at < bytes; at += stride)
    total += static_cast<std::uint64_t>(static_cast<const unsigned char*>(data)[at]);
  return total;
}

std::string path;
std::size_t file_bytes;

// In the page cache, and in its folios as a mapping finds them.
void warm_by_mapping() {
  const opened file(path.c_str());
  void* const data = ::mmap(nullptr, file.bytes, PROT_READ, MAP_SHARED | MAP_POPULATE, file.fd, 0);
  if (data == MAP_FAILED) fail(path, "mmap");
  ::munmap(data, file.bytes);
  places().seed(1);
}

void kept_raw_mmap(benchmark::State& state) {
  places().seed(1);
  const opened file(path.c_str());
  void* const data = ::mmap(nullptr, file.bytes, PROT_READ, MAP_SHARED | MAP_POPULATE, file.fd, 0);
  for (auto _ : state) keep(random_pages(data, file.bytes));
  ::munmap(data, file.bytes);
}

void kept_still(benchmark::State& state, consistency require) {
  places().seed(1);
  std::error_code ec;
  snapshot one =
      snapshot::open(path.c_str(), {.require = require, .access = access::random, .populate = true}, ec);
  if (ec) return state.SkipWithError(still_message());
  for (auto _ : state) keep(random_pages(one.data(), one.size()));
}

void read_at(benchmark::State& state, bool opens, bool random) {
  warm_by_mapping();
  const opened kept(path.c_str());
  char page[page_bytes];
  const auto go = [&](int fd) {
    std::uint64_t total = 0;
    if (random) {
      for (int i = 0; i < pages_read; ++i) {
        const off_t at = static_cast<off_t>(places()() % (file_bytes / page_bytes) * page_bytes);
        if (::pread(fd, page, sizeof page, at) == sizeof page) total += sum(page, sizeof page);
      }
    } else {
      for (std::size_t at = 0; at < file_bytes; at += stride) {
        if (::pread(fd, page, 1, static_cast<off_t>(at)) == 1) total += static_cast<unsigned char>(page[0]);
      }
    }
    keep(total);
  };
  for (auto _ : state) {
    if (!opens) {
      go(kept.fd);
    } else {
      const opened file(path.c_str());
      go(file.fd);
    }
  }
}

void opened_way(benchmark::State& state, const way& by, look at) {
  warm_by_mapping();
  for (auto _ : state) {
    if (!by.once(path.c_str(), at, by.how)) {
      state.SkipWithError(still_message());
      break;
    }
  }
}

void add(const char* name, void (*body)(benchmark::State&)) {
  benchmark::RegisterBenchmark(name, body)
      ->Unit(benchmark::kMicrosecond)
      ->UseRealTime()
      ->Iterations(2)
      ->Repetitions(7);
}

}  // namespace
}  // namespace stillmap::bench

int main(int count, char** words) {
  using namespace stillmap::bench;
  using stillmap::access;
  using stillmap::consistency;
  benchmark::Initialize(&count, words);
  const char* const most = std::getenv("STILLMAP_BENCH_MOST");
  file_bytes = most != nullptr ? static_cast<std::size_t>(std::atoll(most)) : std::size_t{4} << 30;
  path = folder() + "/stillmap-bench-holes";
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0 || ::ftruncate(fd, static_cast<off_t>(file_bytes)) != 0 || ::fsync(fd) != 0) fail(path, "make");
  ::close(fd);

  static const way raw{"raw_mmap", raw_mmap};
  static const way verified{"still_auto", still, {.access = access::random}};
  static const way torn{"still_torn", still, {.require = consistency::torn, .access = access::random}};
  add("kept/raw_mmap", kept_raw_mmap);
  add("kept/read_recycled", [](benchmark::State& s) { read_at(s, false, true); });
  add("kept/still_auto", [](benchmark::State& s) { kept_still(s, consistency::verified); });
  add("kept/still_torn", [](benchmark::State& s) { kept_still(s, consistency::torn); });
  add("opened/raw_mmap", [](benchmark::State& s) { opened_way(s, raw, random_pages); });
  add("opened/read_recycled", [](benchmark::State& s) { read_at(s, true, true); });
  add("opened/still_auto", [](benchmark::State& s) { opened_way(s, verified, random_pages); });
  add("opened/still_torn", [](benchmark::State& s) { opened_way(s, torn, random_pages); });
  add("sparse/raw_mmap", [](benchmark::State& s) { opened_way(s, raw, one_in_a_stride); });
  add("sparse/read_recycled", [](benchmark::State& s) { read_at(s, true, false); });
  add("sparse/still_auto", [](benchmark::State& s) { opened_way(s, verified, one_in_a_stride); });
  add("sparse/still_torn", [](benchmark::State& s) { opened_way(s, torn, one_in_a_stride); });
  warm_by_mapping();
  rest();
  benchmark::RunSpecifiedBenchmarks();
  ::unlink(path.c_str());
}
