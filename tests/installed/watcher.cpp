// SPDX-License-Identifier: Apache-2.0
//
// A user of both families: a snapshot of a file, mapped as mmap(2) would, beside a live view of the same
// file. A store through the view shows in the view and not in the snapshot. Prints what the snapshot holds.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <stillmap/stillmap.h>
#include <cstdio>
#include <cstring>
#include <stillmap/live.hpp>
#include <string_view>

namespace live = stillmap::live;

int main(int count, char** arguments) {
  if (count != 2) return 1;
  const int fd = ::open(arguments[1], O_RDONLY | O_CLOEXEC);
  const off_t size = ::lseek(fd, 0, SEEK_END);
  if (fd < 0 || size <= 0) return 2;
  const auto length = static_cast<std::size_t>(size);
  void* const place = still_mmap(nullptr, length, PROT_READ, MAP_SNAPSHOT, fd, 0);
  ::close(fd);
  if (place == MAP_FAILED) return std::fprintf(stderr, "%s\n", still_message()), 3;
  const std::string_view held(static_cast<const char*>(place), length);

  std::error_code ec;
  auto shared = live::mapping::open(arguments[1], live::mode::read_write, ec);
  if (ec || shared.size() != length) return 4;
  const char before = held[0];
  const live::writable_atomic_bytes bytes = shared.as_writable_atomic_bytes(ec);
  bytes.store<char>(0, '!', std::memory_order_release, ec);
  if (ec || bytes.load<char>(0, std::memory_order_acquire, ec) != '!' || held[0] != before) return 5;
#if defined(__cpp_exceptions)
  bytes.store<char>(0, before);
  try {
    bytes.load(length);
    return 6;
  } catch (const stillmap::error& error) {
    if (error.code() != std::errc::result_out_of_range) return 7;
  }
#else
  bytes.store<char>(0, before, std::memory_order_relaxed, ec);
#endif
  std::fwrite(held.data(), 1, held.size(), stdout);
  return still_munmap(place, length) == 0 ? 0 : 8;
}
