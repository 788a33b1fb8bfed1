// SPDX-License-Identifier: Apache-2.0
#include "memory.hpp"

#include <unistd.h>

#include <atomic>

#include "linux/kernel.hpp"
#include "settings.hpp"

namespace stillmap::memory {
namespace {

constexpr std::size_t huge_bytes = std::size_t{2} << 20;

std::atomic<std::uint64_t> taken{0};

alignas(4096) const std::byte zero_page[zeros_bytes] = {};

}  // namespace

std::size_t page_bytes() noexcept {
  static const auto bytes = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  return bytes;
}

bool charge(std::uint64_t bytes, std::uint64_t snapshot_budget) noexcept {
  if (bytes > snapshot_budget) return false;
  const std::uint64_t limit = settings::instance().memory_budget;
  std::uint64_t before = taken.load(std::memory_order_relaxed);  // a sum, ordering nothing
  do {
    if (bytes > limit || before > limit - bytes) return false;
  } while (!taken.compare_exchange_weak(before, before + bytes, std::memory_order_relaxed));
  return true;
}

void charge_always(std::uint64_t bytes) noexcept {
  taken.fetch_add(bytes, std::memory_order_relaxed);
}

void discharge(std::uint64_t bytes) noexcept {
  taken.fetch_sub(bytes, std::memory_order_relaxed);
}

std::uint64_t charged() noexcept {
  return taken.load(std::memory_order_relaxed);
}

std::byte* map_congruent(std::size_t bytes, const std::byte* like) noexcept {
  constexpr int protection = PROT_READ | PROT_WRITE;
  constexpr int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  const bool huge = bytes >= huge_bytes;
  const std::size_t room = bytes + (huge ? huge_bytes : 0);
  const long address = kernel::map(nullptr, room, protection, flags, -1, 0);
  if (kernel::failed(address)) return nullptr;
  std::byte* begin = reinterpret_cast<std::byte*>(address);
  if (!huge) return begin;
  const std::size_t skip =
      (reinterpret_cast<std::uintptr_t>(like) - static_cast<std::uintptr_t>(address)) & (huge_bytes - 1);
  if (skip > 0) kernel::unmap(begin, skip);
  begin += skip;
  if (skip < huge_bytes) kernel::unmap(begin + bytes, huge_bytes - skip);
  kernel::advise(begin, bytes, MADV_HUGEPAGE);
  return begin;
}

std::byte* map_private(std::size_t bytes) noexcept {
  return map_congruent(bytes, nullptr);
}

const std::byte* zeros() noexcept {
  return zero_page;
}

}  // namespace stillmap::memory
