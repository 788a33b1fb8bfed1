// SPDX-License-Identifier: Apache-2.0
//
// libstillmap-preload.so: mmap(2) and its kin for programs that were not written for stillmap. A mapping that
// is to hold still is made by the library, any other by the kernel, with the same arguments; what is done to
// either later is sorted by address.
//
// All calls go to the kernel directly, never through the dynamic loader: there is nothing to look up before
// main, and the loader's own mappings, which do not come this way, are left alone. Signals are blocked while a
// snapshot is made, so that a handler never finds the library in the middle of something.
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "linux/kernel.hpp"
#include "policy.hpp"
#include "ranges/mapping.hpp"
#include "warden/warden.hpp"

using namespace stillmap;

namespace {

using still::preload::left_alone;

void* address_or_failed(long result) noexcept {
  if (!kernel::failed(result)) return reinterpret_cast<void*>(result);
  errno = static_cast<int>(-result);
  return MAP_FAILED;
}
int answer(long result) noexcept {
  if (result == 0) return 0;
  errno = static_cast<int>(-result);
  return -1;
}

long held(void* where, std::size_t length, int protection, int flags, int fd, off_t offset,
          const still::preload::settings& how, const struct statx* known) noexcept {
  ranges::terms asked;
  asked.known = known;
  asked.quiet = true;
  asked.require = how.require;
  asked.unproved = how.require == STILL_TORN;
  asked.shared = (flags & MAP_SHARED) != 0;  // MAP_SHARED_VALIDATE bears that bit too
  ranges::holding as;
  sigset_t every, before;
  sigfillset(&every);
  pthread_sigmask(SIG_SETMASK, &every, &before);
  const long result = ranges::map_snapshot(where, length, protection, flags, fd, offset, asked, as);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (how.counts != nullptr) (kernel::failed(result) ? how.counts->refused : how.counts->held[as.how][as.when]).fetch_add(1);
  return result;
}

void* map(void* where, std::size_t length, int protection, int flags, int fd, off_t offset) noexcept {
  const int saved = errno;
  const bool of_file = (flags & MAP_ANONYMOUS) == 0 && fd >= 0 && length != 0;
  long result;
  if (of_file) {
    const auto& how = still::preload::settings::instance();
    left_alone why{};
    struct statx found;
    found.stx_mask = 0;
    if (is_to_hold(how, {protection, flags, fd}, found, why)) {
      result = held(where, length, protection, flags, fd, offset, how, found.stx_mask != 0 ? &found : nullptr);
      errno = saved;
      return address_or_failed(result);
    }
    if (how.counts != nullptr) how.counts->left[static_cast<std::size_t>(why)].fetch_add(1);
  }
  result = ranges::map_plain(where, length, protection, flags, fd, offset);
  errno = saved;
  return address_or_failed(result);
}

[[gnu::constructor]] void begin() noexcept {
  const auto& how = still::preload::settings::instance();
  if (how.counts == nullptr) return;
  how.counts->processes.fetch_add(1);
  warden::count_detaches(how.counts->detached, how.counts->lost);
}

}  // namespace

extern "C" {

#define STILL_INTERPOSES [[gnu::visibility("default")]]

STILL_INTERPOSES void* mmap(void* addr, size_t length, int prot, int flags, int fd, off_t offset) noexcept {
  return map(addr, length, prot, flags, fd, offset);
}
STILL_INTERPOSES void* mmap64(void* addr, size_t length, int prot, int flags, int fd, off64_t offset) noexcept {
  return map(addr, length, prot, flags, fd, offset);
}
STILL_INTERPOSES int munmap(void* addr, size_t length) noexcept {
  return answer(ranges::unmap(addr, length));
}
STILL_INTERPOSES int mprotect(void* addr, size_t length, int prot) noexcept {
  return answer(ranges::protect(addr, length, prot));
}
STILL_INTERPOSES int madvise(void* addr, size_t length, int advice) noexcept {
  return answer(ranges::advise(addr, length, advice));
}
STILL_INTERPOSES void* mremap(void* addr, size_t old_length, size_t new_length, int flags, ...) noexcept {
  void* to = nullptr;
  if ((flags & (MREMAP_FIXED | MREMAP_DONTUNMAP)) != 0) {
    va_list more;
    va_start(more, flags);
    to = va_arg(more, void*);
    va_end(more);
  }
  return address_or_failed(ranges::remap(addr, old_length, new_length, flags, to));
}

}  // extern "C"
