// SPDX-License-Identifier: Apache-2.0
//
// What live views must not allow, one mistake a number; without MISTAKE this file compiles. `mistakes`
// compiles it both ways, once a mistake: each stands on a line of its own, which the compiler must name.
#include <stillmap/live.hpp>

#include <cstddef>
#include <cstdint>
#include <ranges>
#include <span>
#include <utility>

#ifndef MISTAKE
#define MISTAKE 0
#endif

namespace live = stillmap::live;

using readable = std::span<const std::byte>;
using writable = std::span<std::byte>;
struct holder {
  std::uint32_t number;
  std::uint16_t half;  // and two bytes of padding
};

void mistakes(live::mapping& mapping, live::atomic_bytes atomics,
              live::writable_atomic_bytes writable_atomics, live::cell_bytes cells,
              live::writable_cell_bytes writable_cells, live::registers words,
              live::writable_registers writable_words, std::byte (&owned)[4]) {
  std::error_code ec;
  // What is right, next to the wrong ways below.
  atomics.copy_to(0, owned, ec);
  writable_atomics.copy_from(0, owned, ec);
  cells.copy_to(0, owned, ec);
  writable_cells.copy_from(0, owned, ec);
  words.copy_to(0, owned, ec);
  writable_words.copy_from(0, owned, ec);
  writable_atomics.store(0, std::byte{1});
  writable_cells.set(0, std::byte{1});
  writable_words.write<std::uint8_t>(0, 1);
  (void)atomics.load<std::uint64_t>(0);
  (void)words.read<std::uint32_t>(0);
  atomics = writable_atomics;
  cells = writable_cells;
  words = writable_words;
  live::mapping moved = std::move(mapping);

#if MISTAKE == 1
  readable wrong = atomics;
#elif MISTAKE == 2
  readable wrong = writable_atomics;
#elif MISTAKE == 3
  readable wrong = cells;
#elif MISTAKE == 4
  readable wrong = writable_cells;
#elif MISTAKE == 5
  readable wrong = words;
#elif MISTAKE == 6
  readable wrong = writable_words;
#elif MISTAKE == 7
  writable wrong = atomics;
#elif MISTAKE == 8
  writable wrong = writable_atomics;
#elif MISTAKE == 9
  writable wrong = cells;
#elif MISTAKE == 10
  writable wrong = writable_cells;
#elif MISTAKE == 11
  writable wrong = words;
#elif MISTAKE == 12
  writable wrong = writable_words;
#elif MISTAKE == 13
  readable wrong(writable_atomics);
#elif MISTAKE == 14
  readable wrong(writable_cells);
#elif MISTAKE == 15
  readable wrong(writable_words);
#elif MISTAKE == 16
  (void)writable_atomics.data();
#elif MISTAKE == 17
  (void)writable_cells.data();
#elif MISTAKE == 18
  (void)writable_words.data();
#elif MISTAKE == 19
  (void)moved.data();
#elif MISTAKE == 20
  readable wrong = moved;
#elif MISTAKE == 21
  atomics.store(0, std::byte{1});
#elif MISTAKE == 22
  atomics.fetch_add<std::uint32_t>(0, 1);
#elif MISTAKE == 23
  atomics.copy_from(0, owned, ec);
#elif MISTAKE == 24
  cells.set(0, std::byte{1});
#elif MISTAKE == 25
  cells.copy_from(0, owned, ec);
#elif MISTAKE == 26
  words.write<std::uint8_t>(0, 1);
#elif MISTAKE == 27
  words.copy_from(0, owned, ec);
#elif MISTAKE == 28
  live::writable_atomic_bytes wrong = atomics;
#elif MISTAKE == 29
  live::writable_cell_bytes wrong = cells;
#elif MISTAKE == 30
  live::writable_registers wrong = words;
#elif MISTAKE == 31
  (void)atomics.load<bool>(0);
#elif MISTAKE == 32
  (void)atomics.load<const char*>(0);
#elif MISTAKE == 33
  (void)atomics.load<holder>(0);
#elif MISTAKE == 34
  (void)atomics.load<long double>(0);
#elif MISTAKE == 35
  (void)words.read<float>(0);
#elif MISTAKE == 36
  (void)writable_atomics.fetch_add<double>(0, 1);
#elif MISTAKE == 37
  live::mapping wrong = moved;
#elif MISTAKE == 38
  live::atomic_bytes wrong(owned, sizeof owned, false);
#elif MISTAKE == 39
  (void)writable_atomics[0];
#elif MISTAKE == 40
  (void)std::ranges::begin(writable_cells);
#endif
}
