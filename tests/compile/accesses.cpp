// SPDX-License-Identifier: Apache-2.0
//
// Compiled alone and disassembled by accesses.py, which reads from each name how many loads or stores of
// which width it must find. The canary reads plain memory twice, which the compiler makes one load.
#include <stillmap/live.hpp>

#include <cstddef>
#include <cstdint>

namespace live = stillmap::live;

#define WIDTH(bits)                                                                                     \
  extern "C" std::uint##bits##_t registers_1_load_of_##bits(live::registers r, std::size_t offset) {    \
    return r.read<std::uint##bits##_t>(offset);                                                         \
  }                                                                                                     \
  extern "C" std::uint##bits##_t registers_twin_1_load_of_##bits(live::registers r, std::size_t offset, \
                                                                 std::error_code& ec) {                 \
    return r.read<std::uint##bits##_t>(offset, ec);                                                     \
  }                                                                                                     \
  extern "C" std::uint64_t registers_sum_2_loads_of_##bits(live::registers r, std::size_t offset) {     \
    const std::uint64_t first = r.read<std::uint##bits##_t>(offset);                                    \
    return first + r.read<std::uint##bits##_t>(offset);                                                 \
  }                                                                                                     \
  extern "C" void registers_unused_2_loads_of_##bits(live::registers r, std::size_t offset) {           \
    (void)r.read<std::uint##bits##_t>(offset);                                                          \
    (void)r.read<std::uint##bits##_t>(offset);                                                          \
  }                                                                                                     \
  extern "C" void registers_1_store_of_##bits(live::writable_registers r, std::size_t offset,           \
                                              std::uint##bits##_t value) {                              \
    r.write<std::uint##bits##_t>(offset, value);                                                        \
  }                                                                                                     \
  extern "C" void registers_again_2_stores_of_##bits(live::writable_registers r, std::size_t offset,    \
                                                     std::uint##bits##_t value) {                       \
    r.write<std::uint##bits##_t>(offset, value);                                                        \
    r.write<std::uint##bits##_t>(offset, value);                                                        \
  }                                                                                                     \
  extern "C" std::uint64_t atomics_sum_2_loads_of_##bits(live::atomic_bytes b, std::size_t offset) {    \
    const std::uint64_t first = b.load<std::uint##bits##_t>(offset);                                    \
    return first + b.load<std::uint##bits##_t>(offset);                                                 \
  }                                                                                                     \
  extern "C" void atomics_again_2_stores_of_##bits(live::writable_atomic_bytes b, std::size_t offset,   \
                                                   std::uint##bits##_t value) {                         \
    b.store<std::uint##bits##_t>(offset, value);                                                        \
    b.store<std::uint##bits##_t>(offset, value);                                                        \
  }                                                                                                     \
  extern "C" std::uint64_t canary_1_load_of_##bits(const std::uint##bits##_t* plain) {                  \
    const std::uint64_t first = *plain;                                                                 \
    return first + *plain;                                                                              \
  }
WIDTH(8)
WIDTH(16)
WIDTH(32)
WIDTH(64)

extern "C" int cells_sum_2_loads_of_8(live::cell_bytes c, std::size_t offset) {
  const int first = c.get<unsigned char>(offset);
  return first + c.get<unsigned char>(offset);
}
