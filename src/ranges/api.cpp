// SPDX-License-Identifier: Apache-2.0
//
// still_mmap and its kin: as mmap(2) and its kin, errno included.
#include <errno.h>
#include <stillmap/stillmap.h>
#include <sys/mman.h>

#include "ranges/mapping.hpp"

using namespace stillmap;

namespace {

constexpr int type_mask = 0x0f;  // MAP_TYPE

int answer(long result) noexcept {
  if (result == 0) return 0;
  errno = static_cast<int>(-result);
  return -1;
}
void* address_or_failed(long result) noexcept {
  if (result < 0 && result >= -4095) {
    errno = static_cast<int>(-result);
    return MAP_FAILED;
  }
  return reinterpret_cast<void*>(result);
}

}  // namespace

extern "C" {

void* still_mmap(void* addr, size_t length, int prot, int flags, int fd, off_t offset) {
  const int saved = errno;
  ranges::holding how;
  const long result = (flags & type_mask) == MAP_SNAPSHOT
                          ? ranges::map_snapshot(addr, length, prot, flags, fd, offset, {}, how)
                          : ranges::map_plain(addr, length, prot, flags, fd, offset);
  errno = saved;
  return address_or_failed(result);
}

int still_munmap(void* addr, size_t length) {
  return answer(ranges::unmap(addr, length));
}
int still_mprotect(void* addr, size_t length, int prot) {
  return answer(ranges::protect(addr, length, prot));
}
int still_madvise(void* addr, size_t length, int advice) {
  return answer(ranges::advise(addr, length, advice));
}
void* still_mremap(void* addr, size_t old_length, size_t new_length, int flags, void* new_addr) {
  return address_or_failed(ranges::remap(addr, old_length, new_length, flags, new_addr));
}

}  // extern "C"
