// SPDX-License-Identifier: Apache-2.0
//
// Writers whose work can be judged from a copy. Two processes change one file without pause, the one by
// stores through a shared mapping, the other by pwrite(2). Each counts up and puts its number first into an
// early page, then into a late one. So at any instant
//
//     late <= early <= late + 1,
//
// and a copy that shows late > early, or early > late + 1, shows no state that the file was ever in.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstring>
#include <string>

#include "fixture.hpp"

namespace facts {

inline constexpr std::size_t pair_file_size = 256 * 1024;

struct pair_place {
  std::size_t early, late;
};
inline constexpr pair_place mapped_pair{0, pair_file_size - page};
inline constexpr pair_place written_pair{2 * page, pair_file_size - 3 * page};

inline std::uint64_t number_at(const std::string& bytes, std::size_t at) {
  std::uint64_t number;
  std::memcpy(&number, bytes.data() + at, sizeof number);
  return number;
}
inline std::uint64_t first_number(const std::string& bytes) {
  return number_at(bytes, mapped_pair.early);
}

inline bool possible(const std::string& bytes) {
  for (const pair_place& pair : {mapped_pair, written_pair}) {
    const auto early = number_at(bytes, pair.early), late = number_at(bytes, pair.late);
    if (late > early || early > late + 1) return false;
  }
  return true;
}

inline std::string describe(const std::string& bytes) {
  std::string text;
  for (const pair_place& pair : {mapped_pair, written_pair})
    text += std::to_string(number_at(bytes, pair.early)) + "/" + std::to_string(number_at(bytes, pair.late)) +
            " ";
  return text;
}

/* Every so often a writer pauses for a moment, or a reader that accepts only quiet moments would find none:
 * for 0 to 511 us after 1 to 64 pairs. */
class pacing {
 public:
  pacing(std::uint32_t seed, int pairs_max) : state_(seed), pairs_max_(pairs_max) {}
  void after_pair() {
    if (left_-- > 0) return;
    const timespec pause{0, static_cast<long>(next() % 512) * 1000};
    nanosleep(&pause, nullptr);
    left_ = static_cast<int>(next() % static_cast<std::uint32_t>(pairs_max_));
  }

 private:
  std::uint32_t next() {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 17;
    state_ ^= state_ << 5;
    return state_;
  }
  std::uint32_t state_;
  int pairs_max_;
  int left_ = 0;
};

/* Reads the file front to back. Slowly: with a nap half way, which gives the writers all the chance that a
 * busy machine otherwise denies them. */
inline void copy_pairs(int fd, bool slowly, std::string* bytes) {
  constexpr std::size_t half = pair_file_size / 2;
  for (std::size_t at = 0; at < pair_file_size; at += half) {
    if (slowly && at > 0) {
      const timespec nap{0, 100'000};
      nanosleep(&nap, nullptr);
    }
    const ssize_t got = pread(fd, bytes->data() + at, half, static_cast<off_t>(at));
    if (got != static_cast<ssize_t>(half)) fail("pread");
  }
}

class pair_writers {
 public:
  explicit pair_writers(const std::string& path)
      : mapped_([&] {
          const descriptor out = opened(path, O_RDWR);
          const mapping view(out, pair_file_size, PROT_READ | PROT_WRITE, MAP_SHARED);
          auto& early = *reinterpret_cast<std::atomic<std::uint64_t>*>(view.data() + mapped_pair.early);
          auto& late = *reinterpret_cast<std::atomic<std::uint64_t>*>(view.data() + mapped_pair.late);
          pacing pace(2463534242, 16384);
          for (std::uint64_t number = 1;; ++number) {
            early.store(number);
            late.store(number);
            pace.after_pair();
          }
          return 0;
        }),
        written_([&] {
          const descriptor out = opened(path, O_RDWR);
          pacing pace(88675123, 128);
          for (std::uint64_t number = 1;; ++number) {
            NEED(pwrite(out, &number, sizeof number, written_pair.early) == sizeof number);
            NEED(pwrite(out, &number, sizeof number, written_pair.late) == sizeof number);
            pace.after_pair();
          }
          return 0;
        }) {}

 private:
  child mapped_, written_;
};

}  // namespace facts
