// SPDX-License-Identifier: Apache-2.0
#include "settings.hpp"

#include <errno.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>

#include "options.hpp"

namespace stillmap {
namespace {

std::mutex mutex;
bool fixed = false;
settings* chosen() noexcept {
  alignas(settings) static std::byte place[sizeof(settings)];
  static settings* const one = new (place) settings;  // never destroyed
  return one;
}
std::atomic<const settings*> ready{nullptr};

std::uint64_t from_environment(const char* name, std::uint64_t otherwise) noexcept {
  const char* const text = std::getenv(name);
  if (text == nullptr || *text == '\0') return otherwise;
  char* end = nullptr;
  errno = 0;
  const unsigned long long value = std::strtoull(text, &end, 10);
  return errno == 0 && *end == '\0' ? value : otherwise;
}

std::uint64_t machine_memory_bytes() noexcept {
  const long pages = ::sysconf(_SC_PHYS_PAGES), page_bytes = ::sysconf(_SC_PAGESIZE);
  return pages > 0 && page_bytes > 0
             ? static_cast<std::uint64_t>(pages) * static_cast<std::uint64_t>(page_bytes)
             : std::uint64_t{4} << 30;
}

}  // namespace

const settings& settings::instance() noexcept {
  if (const settings* const one = ready.load(std::memory_order_acquire)) return *one;
  const int saved = errno;
  const std::lock_guard lock(mutex);
  settings& one = *chosen();
  if (!fixed) {
    fixed = true;
    if (one.pool_bytes == 0)
      one.pool_bytes = from_environment("STILLMAP_POOL_BYTES", std::uint64_t{64} << 20);
    if (one.reserve_bytes == 0) one.reserve_bytes = from_environment("STILLMAP_RESERVE_BYTES", 0);
    if (one.memory_budget == 0)
      one.memory_budget = from_environment("STILLMAP_MEMORY_BUDGET", machine_memory_bytes() / 2);
    if (one.copy_max == 0) one.copy_max = from_environment("STILLMAP_COPY_MAX", 0);
    if (one.signal == 0) {
      const std::uint64_t number = from_environment("STILLMAP_SIGNAL", 0);
      if (number >= static_cast<std::uint64_t>(SIGRTMIN) && number <= static_cast<std::uint64_t>(SIGRTMAX))
        one.signal = static_cast<int>(number);
    }
    if (one.temporary_folder.empty()) {
      if (const char* const folder = std::getenv("STILLMAP_TMPDIR")) try {
          one.temporary_folder = folder;
        } catch (const std::bad_alloc&) {
        }
    }
    ready.store(&one, std::memory_order_release);
  }
  errno = saved;
  return one;
}

void lock_settings_for_fork() noexcept {
  mutex.lock();
}
void unlock_settings_after_fork() noexcept {
  mutex.unlock();
}

int configure(const still_settings& wanted) noexcept try {
  still_settings known{};
  if (const int error = copy_versioned(known, wanted)) return error;
  if (known.signal != 0 && (known.signal < SIGRTMIN || known.signal > SIGRTMAX)) return EINVAL;
  const std::lock_guard lock(mutex);
  if (fixed) return EBUSY;
  settings& one = *chosen();
  one.temporary_folder = known.temporary_folder != nullptr ? known.temporary_folder : "";
  one.pool_bytes = known.pool_bytes;
  one.reserve_bytes = known.reserve_bytes;
  one.memory_budget = known.memory_budget;
  one.signal = known.signal;
  one.copy_max = known.copy_max;
  return 0;
} catch (const std::bad_alloc&) {
  return ENOMEM;
}

}  // namespace stillmap
