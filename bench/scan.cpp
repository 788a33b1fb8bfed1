// SPDX-License-Identifier: Apache-2.0
//
// One iteration: open a file, add up every byte, close it. Raw mmap is what stillmap stands in for; read into
// a recycled buffer is the cheapest safe copy. tools/bench runs them in random order and makes ratios of
// medians.
#include <benchmark/benchmark.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <stillmap/snapshot.hpp>

#include "scratch.hpp"

namespace stillmap::bench {
namespace {

void raw_mmap(benchmark::State& state) {
  const scratch_file& file = file_of(state.range(0));
  for (auto _ : state) {
    const int fd = ::open(file.path(), O_RDONLY | O_CLOEXEC);
    struct stat found;
    ::fstat(fd, &found);
    const auto bytes = static_cast<std::size_t>(found.st_size);
    void* const data = ::mmap(nullptr, bytes, PROT_READ, MAP_SHARED, fd, 0);
    ::close(fd);
    benchmark::DoNotOptimize(sum(data, bytes));
    ::munmap(data, bytes);
  }
}

void read_recycled(benchmark::State& state) {
  const scratch_file& file = file_of(state.range(0));
  std::vector<char> buffer(static_cast<std::size_t>(state.range(0)));
  for (auto _ : state) {
    const int fd = ::open(file.path(), O_RDONLY | O_CLOEXEC);
    struct stat found;
    ::fstat(fd, &found);
    std::size_t done = 0;
    while (done < buffer.size()) {
      const ssize_t got = ::read(fd, buffer.data() + done, buffer.size() - done);
      if (got <= 0) break;
      done += static_cast<std::size_t>(got);
    }
    ::close(fd);
    benchmark::DoNotOptimize(sum(buffer.data(), done));
  }
}

void still(benchmark::State& state, const options& how) {
  const scratch_file& file = file_of(state.range(0));
  for (auto _ : state) {
    std::error_code ec;
    const snapshot one = snapshot::open(file.path(), how, ec);
    if (ec) {
      state.SkipWithError(still_message());
      break;
    }
    benchmark::DoNotOptimize(sum(one.data(), one.size()));
  }
}

void still_auto(benchmark::State& state) {
  still(state, {});
}
void still_torn(benchmark::State& state) {
  still(state, {.require = consistency::torn});
}
void still_leased(benchmark::State& state) {
  still(state, {.backing = backing::leased});
}
void still_copied(benchmark::State& state) {
  still(state, {.backing = backing::copied});
}

void sizes(benchmark::internal::Benchmark* all) {
  for (const std::int64_t kib : {4, 16, 64, 128, 256, 512, 1024, 4096, 65536, 1048576}) all->Arg(kib * 1024);
  all->Unit(benchmark::kMicrosecond)->UseRealTime();
}
BENCHMARK(raw_mmap)->Apply(sizes);
BENCHMARK(read_recycled)->Apply(sizes);
BENCHMARK(still_auto)->Apply(sizes);
BENCHMARK(still_torn)->Apply(sizes);
BENCHMARK(still_leased)->Apply(sizes);
BENCHMARK(still_copied)->Apply(sizes);

}  // namespace
}  // namespace stillmap::bench

BENCHMARK_MAIN();
