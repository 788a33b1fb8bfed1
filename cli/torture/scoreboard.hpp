// SPDX-License-Identifier: Apache-2.0
//
// What all processes of the torture know of each other, in memory that they share: it outlives a reader that
// is killed, which is one of the things counted. Zero is the start of every field.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <ctime>

namespace still::torture {

inline constexpr std::size_t kinds_max = 64, rows_max = 16;
inline constexpr std::size_t writer_processes = 2;
inline constexpr std::size_t writers_max = writer_processes + 1;  // and a thread of the reader's
inline constexpr std::uint32_t waits_max = 1 << 14;               // a row and writer; then the oldest go

inline std::int64_t now_ns() {
  timespec t;
  ::clock_gettime(CLOCK_MONOTONIC, &t);
  return std::int64_t{t.tv_sec} * 1'000'000'000 + t.tv_nsec;
}

struct row_score {
  std::atomic<std::uint64_t> snapshots, refused, changed_bytes, signals, failed_closed, mixed, killed;
  std::atomic<std::uint64_t> private_bytes_max;
  std::atomic<std::uint64_t> kinds_met;  // a bit a kind
  std::atomic<bool> not_here;
  char refusal[512];  // the last one, in words
  std::array<std::atomic<std::uint32_t>, writers_max> waits;
  std::uint32_t waits_us[writers_max][waits_max];
};

struct kind_score {
  std::atomic<std::uint64_t> strikes, failures;
  std::atomic<int> missing_error;  // not 0: the file system does not offer it
};

struct scoreboard {
  std::atomic<int> row;  // counted from 1; 0: none at this moment
  std::atomic<std::int64_t> row_end_ns;
  std::array<row_score, rows_max> rows;
  std::array<kind_score, kinds_max> kinds;

  void note_wait(std::size_t writer, int in_row, std::int64_t took_ns) {
    if (in_row == 0) return;
    row_score& score = rows[static_cast<std::size_t>(in_row) - 1];
    // One writer a column: nobody else counts in it.
    const std::uint32_t at = score.waits[writer].load(std::memory_order_relaxed);
    score.waits_us[writer][at % waits_max] =
        static_cast<std::uint32_t>(std::min<std::int64_t>(took_ns / 1000, UINT32_MAX));
    score.waits[writer].store(at + 1, std::memory_order_release);
  }
};
static_assert(std::atomic<std::uint64_t>::is_always_lock_free, "atomics are shared between processes");

}  // namespace still::torture
