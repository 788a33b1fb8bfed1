// SPDX-License-Identifier: Apache-2.0
//
// What a lease costs a writer: the time from its open(O_WRONLY) to its return, while a snapshot of the whole
// file (touched, or never touched) stands in the way and is detached. Beside it, the yardstick: one memcpy of
// that size into fresh huge pages.
#include <benchmark/benchmark.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <stillmap/snapshot.hpp>

#include "scratch.hpp"

namespace stillmap::bench {
namespace {

double seconds() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

void memcpy_to_fresh_huge_pages(benchmark::State& state) {
  const auto bytes = static_cast<std::size_t>(state.range(0));
  const scratch_file& file = file_of(state.range(0));
  const int fd = ::open(file.path(), O_RDONLY | O_CLOEXEC);
  const void* const source = ::mmap(nullptr, bytes, PROT_READ, MAP_SHARED, fd, 0);
  ::close(fd);
  benchmark::DoNotOptimize(sum(source, bytes));  // faulted in
  constexpr std::size_t huge = std::size_t{2} << 20;
  for (auto _ : state) {
    char* const room = static_cast<char*>(
        ::mmap(nullptr, bytes + huge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    char* const target =
        reinterpret_cast<char*>((reinterpret_cast<std::uintptr_t>(room) + huge - 1) & ~(huge - 1));
    ::madvise(target, bytes, MADV_HUGEPAGE);
    const double begin = seconds();
    std::memcpy(target, source, bytes);
    benchmark::ClobberMemory();
    state.SetIterationTime(seconds() - begin);
    ::munmap(room, bytes + huge);
  }
  ::munmap(const_cast<void*>(source), bytes);
}

// The writer is another thread of this process: the kernel makes it wait all the same.
void writer_wait(benchmark::State& state, bool touched) {
  const scratch_file& file = file_of(state.range(0));
  for (auto _ : state) {
    std::error_code ec;
    const snapshot one = snapshot::open(file.path(), {.backing = backing::leased}, ec);
    if (ec) {
      state.SkipWithError(still_message());
      break;
    }
    if (touched) benchmark::DoNotOptimize(sum(one.data(), one.size()));
    const double begin = seconds();
    const int fd = ::open(file.path(), O_WRONLY | O_CLOEXEC);
    state.SetIterationTime(seconds() - begin);
    ::close(fd);
    if (one.current() != stillmap::state::private_memory) state.SkipWithError("the bytes were not kept");
  }
}
void writer_wait_touched(benchmark::State& state) {
  writer_wait(state, true);
}
void writer_wait_untouched(benchmark::State& state) {
  writer_wait(state, false);
}

void sizes(benchmark::internal::Benchmark* all) {
  const char* const given = std::getenv("STILLMAP_BENCH_MOST");  // bytes
  const std::int64_t most = given != nullptr ? std::atoll(given) : std::int64_t{1} << 30;
  for (std::int64_t bytes = 4096; bytes <= most; bytes *= bytes < (std::int64_t{1} << 24) ? 16 : 4) all->Arg(bytes);
  all->Unit(benchmark::kMillisecond)->UseManualTime();
}
BENCHMARK(memcpy_to_fresh_huge_pages)->Apply(sizes);
BENCHMARK(writer_wait_touched)->Apply(sizes);
BENCHMARK(writer_wait_untouched)->Apply(sizes);

}  // namespace
}  // namespace stillmap::bench

BENCHMARK_MAIN();
