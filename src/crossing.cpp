// SPDX-License-Identifier: Apache-2.0
#include "crossing.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstddef>

#include "files_thread.hpp"
#include "linux/descriptor.hpp"
#include "linux/kernel.hpp"
#include "memory.hpp"
#include "settings.hpp"

namespace stillmap::crossing {
namespace {

constexpr std::size_t mib = std::size_t{1} << 20;
constexpr std::uint32_t opens_before = 32;  // of sizes where it matters, until it is worth measuring
constexpr int rounds = 5;                   // the best counts: what disturbs makes dearer
// What a leased open takes beyond a mapping, less what a copy takes beyond a read (docs/benchmarks.md: 4 KiB,
// leased - raw mmap - (copied - read)).
constexpr std::int64_t lease_ns = 4'000;

constexpr thresholds defaults;

enum class progress : std::uint8_t { none, under_way, done };

// Never destroyed: all trivially so.
std::atomic<progress> how_far{progress::none};
std::atomic<std::uint32_t> opens{0};
std::atomic<const thresholds*> chosen{&defaults};
thresholds found_limits;  // written before `chosen` and `how_far` say so
costs found;
bool worked = false;

void look_at(const std::byte* data, std::size_t bytes) noexcept {
  constexpr std::size_t line_bytes = 64;
  for (std::size_t at = 0; at < bytes; at += line_bytes) static_cast<void>(*static_cast<const volatile std::byte*>(data + at));
}

template <class Step>
bool time(const Step& step, std::int64_t& best) noexcept {
  const std::int64_t begin = kernel::now_ns();
  const bool done = step();
  const std::int64_t took = kernel::now_ns() - begin;
  if (best == 0 || took < best) best = took;
  return done;
}

// With a memory file, which lies in small folios unless shared memory is configured otherwise. In a thread whose
// descriptors nobody else touches.
bool measure_into(costs& into) noexcept {
  const descriptor file(static_cast<int>(kernel::memory_file(mib)));
  if (!file) return false;
  const auto map = [&](std::size_t bytes, int protection) {
    return kernel::map(nullptr, bytes, protection, MAP_SHARED, file.get(), 0);
  };
  const long filled = map(mib, PROT_READ | PROT_WRITE);
  if (kernel::failed(filled)) return false;
  bool all = kernel::advise(reinterpret_cast<void*>(filled), mib, MADV_POPULATE_WRITE) == 0;
  kernel::unmap(reinterpret_cast<void*>(filled), mib);
  std::byte* const memory = memory::map_private(mib);
  if (memory == nullptr) return false;
  const auto look_mapped = [&](std::size_t bytes) {
    const long at = map(bytes, PROT_READ);
    if (kernel::failed(at)) return false;
    look_at(reinterpret_cast<const std::byte*>(at), bytes);
    kernel::unmap(reinterpret_cast<void*>(at), bytes);
    return true;
  };
  const auto look_copied = [&] {
    std::size_t done = 0;
    if (kernel::pread(file.get(), memory, mib, 0, done) != 0 || done != mib) return false;
    look_at(memory, mib);
    return true;
  };
  for (int i = 0; i < rounds && all; ++i) {
    all = time([&] { return look_mapped(memory::page_bytes()); }, into.map_page) &&
          time([&] { return look_mapped(mib); }, into.map_mib) && time(look_copied, into.copy_mib);
  }
  kernel::unmap(memory, mib);
  into.map_page += lease_ns;
  into.map_mib += lease_ns;
  return all;
}

}  // namespace

thresholds limits_for(const costs& measured) noexcept {
  thresholds result;
  const std::int64_t excess = measured.copy_mib - (measured.map_mib - measured.map_page);
  if (excess <= 0) return result;
  const auto most = static_cast<std::uint64_t>(measured.map_page * static_cast<std::int64_t>(mib) / excess);
  for (std::uint64_t* each : {&result.copy_max, &result.copy_warm_max, &result.copy_small_folios_max,
                              &result.copy_random_max})
    *each = std::min(*each, most);
  return result;
}

const costs* measure() noexcept {
  if (settings::instance().copy_max != 0) return nullptr;
  progress seen = progress::none;
  if (how_far.compare_exchange_strong(seen, progress::under_way, std::memory_order_acq_rel)) {
    files_thread::run([]() noexcept { worked = measure_into(found); });
    if (worked) found_limits = limits_for(found);
    chosen.store(&found_limits, std::memory_order_release);
    how_far.store(progress::done, std::memory_order_release);
  }
  return how_far.load(std::memory_order_acquire) == progress::done && worked ? &found : nullptr;
}

const thresholds& limits(std::uint64_t length) noexcept {
  if (const std::uint64_t most = settings::instance().copy_max; most != 0) {
    static const thresholds told = [&] {
      thresholds result;
      result.copy_max = result.copy_warm_max = result.copy_small_folios_max = most;
      result.copy_random_max = std::min(result.copy_random_max, most);
      return result;
    }();
    return told;
  }
  const bool matters = length > defaults.copy_random_max && length <= defaults.copy_small_folios_max;
  if (matters && how_far.load(std::memory_order_relaxed) == progress::none &&
      opens.fetch_add(1, std::memory_order_relaxed) == opens_before)
    measure();
  return *chosen.load(std::memory_order_acquire);
}

}  // namespace stillmap::crossing
