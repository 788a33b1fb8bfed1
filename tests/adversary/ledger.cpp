// SPDX-License-Identifier: Apache-2.0
//
// Stamps, their recognition, and the rules of legality. Nothing here touches a file: the rules are tested on
// forged content by the canaries.
#include "ledger.hpp"

#include <algorithm>
#include <cstring>
#include <optional>
#include <sstream>

namespace adversary {
namespace {

constexpr std::uint64_t word_bytes = sizeof(std::uint64_t);

std::uint64_t mix(std::uint64_t value) {
  value ^= value >> 32;
  value *= 0x9E3779B97F4A7C15u;
  value ^= value >> 29;
  return value;
}

std::uint64_t load(const std::byte* from) {
  std::uint64_t value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

std::uint64_t generation_in(std::uint64_t word) {
  return (word & 0xFFFFu) - 1;
}

bool carries(std::uint64_t word, std::uint64_t offset) {
  return (word & 0xFFFFu) != 0 && word == stamp(generation_in(word), offset);
}

// Bytes [from, from + piece.size()) of a word cut by the edge of the range.
bool part_matches(std::span<const std::byte> piece, std::uint64_t offset, std::uint64_t generation) {
  const std::uint64_t base = offset / word_bytes * word_bytes;
  const std::uint64_t word = stamp(generation, base);
  return std::memcmp(reinterpret_cast<const std::byte*>(&word) + (offset - base), piece.data(),
                     piece.size()) == 0;
}

void extend(std::vector<run>& runs, run::kind what, std::uint64_t generation, std::uint64_t begin,
            std::uint64_t end) {
  if (!runs.empty() && runs.back().what == what && runs.back().generation == generation) {
    runs.back().end = end;
  } else {
    runs.push_back({what, generation, begin, end});
  }
}

// A cut word proves little: it belongs to its neighbour's run where it can, else to any generation that fits.
run cut_word(std::span<const std::byte> piece, std::uint64_t offset, std::optional<run> neighbour,
             window when, std::uint64_t distance) {
  const std::uint64_t end = offset + piece.size();
  const bool zero = std::all_of(piece.begin(), piece.end(), [](std::byte b) { return b == std::byte{0}; });
  if (neighbour && neighbour->what == run::kind::stamped &&
      part_matches(piece, offset, neighbour->generation)) {
    return {run::kind::stamped, neighbour->generation, offset, end};
  }
  // A step between two generations may lie at the cut: those beside the neighbour's come before any that
  // happens to have the same byte there.
  if (neighbour && neighbour->what == run::kind::stamped) {
    for (const std::uint64_t g : {neighbour->generation - 1, neighbour->generation + 1}) {
      if (g >= when.first && g <= when.last && part_matches(piece, offset, g))
        return {run::kind::stamped, g, offset, end};
    }
  }
  const auto is_moved = [&] {
    return distance != 0 && (part_matches(piece, offset + distance, 0) ||
                             (offset >= distance && part_matches(piece, offset - distance, 0)));
  };
  if (neighbour && neighbour->what == run::kind::moved && is_moved())
    return {run::kind::moved, 0, offset, end};
  if (neighbour && neighbour->what == run::kind::zero && zero) return {run::kind::zero, 0, offset, end};
  for (std::uint64_t g = when.first; g <= when.last; ++g) {
    if (part_matches(piece, offset, g)) return {run::kind::stamped, g, offset, end};
  }
  if (part_matches(piece, offset, 0)) return {run::kind::stamped, 0, offset, end};
  if (zero) return {run::kind::zero, 0, offset, end};
  if (is_moved()) return {run::kind::moved, 0, offset, end};
  return {run::kind::alien, 0, offset, end};
}

std::string describe(const std::vector<run>& runs) {
  std::ostringstream out;
  std::size_t shown = 0;
  for (const run& one : runs) {
    if (shown++ == 12) {
      out << " ... (" << runs.size() << " runs)";
      break;
    }
    static constexpr const char* names[] = {"generation ", "zeros", "moved generation ", "alien"};
    out << " [" << one.begin << "," << one.end << ") " << names[static_cast<int>(one.what)];
    if (one.what == run::kind::stamped || one.what == run::kind::moved) out << one.generation;
  }
  return out.str();
}

// Runs cut to [begin, end).
std::vector<run> between(const std::vector<run>& runs, std::uint64_t begin, std::uint64_t end) {
  std::vector<run> result;
  for (run one : runs) {
    one.begin = std::max(one.begin, begin);
    one.end = std::min(one.end, end);
    if (one.begin < one.end) result.push_back(one);
  }
  return result;
}

bool is(const run& one, std::uint64_t generation) {
  return one.what == run::kind::stamped && one.generation == generation;
}

bool within(const run& one, window when) {
  return one.what == run::kind::stamped && one.generation >= when.first && one.generation <= when.last;
}

bool all_are(const std::vector<run>& runs, std::uint64_t generation) {
  return std::all_of(runs.begin(), runs.end(), [&](const run& one) { return is(one, generation); });
}

// Nothing, or one generation of the window.
bool one_generation(const std::vector<run>& runs, window when) {
  return runs.empty() || (runs.size() == 1 && within(runs[0], when));
}

// Newer words, then words of the generation just before; at most one such step.
bool newer_before_older(const std::vector<run>& runs, window when) {
  if (runs.size() <= 1) return one_generation(runs, when);
  return runs.size() == 2 && within(runs[0], when) && within(runs[1], when) &&
         runs[0].generation == runs[1].generation + 1;
}

// One generation of the window and zeros, in either order; or only one of the two.
bool generation_and_zeros(const std::vector<run>& runs, window when) {
  if (runs.size() > 2) return false;
  int stamped = 0, zero = 0;
  for (const run& one : runs) {
    if (one.what == run::kind::zero) ++zero;
    if (within(one, when)) ++stamped;
  }
  return stamped <= 1 && zero <= 1 && static_cast<std::size_t>(stamped + zero) == runs.size();
}

}  // namespace

std::uint64_t middle_of(std::uint64_t size) {
  return size / 2 / word_bytes * word_bytes;
}

std::uint64_t stamp(std::uint64_t generation, std::uint64_t offset) {
  const std::uint64_t tag = (generation + 1) & 0xFFFFu;
  return (mix(offset * 0xD1342543DE82EF95u + tag * 0xA0761D6478BD642Fu) << 16) | tag;
}

void write_stamps(std::span<std::byte> out, std::uint64_t offset, std::uint64_t generation) {
  std::size_t at = 0;
  while (at < out.size()) {
    const std::uint64_t base = (offset + at) / word_bytes * word_bytes;
    const std::size_t skip = static_cast<std::size_t>(offset + at - base);
    const std::size_t take = std::min<std::size_t>(word_bytes - skip, out.size() - at);
    const std::uint64_t word = stamp(generation, base);
    std::memcpy(out.data() + at, reinterpret_cast<const std::byte*>(&word) + skip, take);
    at += take;
  }
}

std::vector<run> classify(std::span<const std::byte> bytes, std::uint64_t offset, window when,
                          std::uint64_t distance) {
  std::vector<run> runs;
  const std::uint64_t end = offset + bytes.size();
  const std::uint64_t first_whole = (offset + word_bytes - 1) / word_bytes * word_bytes;
  const std::uint64_t whole_end = std::max(first_whole, end / word_bytes * word_bytes);
  for (std::uint64_t at = first_whole; at + word_bytes <= end; at += word_bytes) {
    const std::uint64_t word = load(bytes.data() + (at - offset));
    if (carries(word, at)) {
      extend(runs, run::kind::stamped, generation_in(word), at, at + word_bytes);
    } else if (word == 0) {
      extend(runs, run::kind::zero, 0, at, at + word_bytes);
    } else if (distance != 0 &&
               (carries(word, at + distance) || (at >= distance && carries(word, at - distance)))) {
      extend(runs, run::kind::moved, generation_in(word), at, at + word_bytes);
    } else {
      extend(runs, run::kind::alien, 0, at, at + word_bytes);
    }
  }
  const auto slice = [&](std::uint64_t from, std::uint64_t to) {
    return bytes.subspan(static_cast<std::size_t>(from - offset), static_cast<std::size_t>(to - from));
  };
  if (first_whole > offset && offset < end) {
    const std::uint64_t cut = std::min(first_whole, end);
    const run head = cut_word(slice(offset, cut), offset,
                              runs.empty() ? std::nullopt : std::optional(runs.front()), when, distance);
    if (!runs.empty() && runs.front().what == head.what && runs.front().generation == head.generation) {
      runs.front().begin = head.begin;
    } else {
      runs.insert(runs.begin(), head);
    }
  }
  if (whole_end < end && whole_end >= offset && first_whole <= whole_end && first_whole < end) {
    const run tail = cut_word(slice(whole_end, end), whole_end,
                              runs.empty() ? std::nullopt : std::optional(runs.back()), when, distance);
    extend(runs, tail.what, tail.generation, tail.begin, tail.end);
  }
  return runs;
}

std::string illegal(shape how, const layout& where, window when, std::span<const std::byte> bytes,
                    std::uint64_t offset) {
  if (how == shape::still) when = {0, 0};
  const std::uint64_t end = offset + bytes.size();
  const std::uint64_t distance = how == shape::shifted ? where.hole_end - where.hole_begin : 0;
  const std::vector<run> runs = classify(bytes, offset, when, distance);
  const std::uint64_t half = middle_of(where.size);
  bool legal = false;
  switch (how) {
    case shape::still:
      legal = all_are(runs, 0);
      break;
    case shape::whole:
      legal = one_generation(runs, when);
      break;
    case shape::ascending:
      legal = newer_before_older(runs, when);
      break;
    case shape::fresh:
      legal = one_generation(runs, when);
      break;
    case shape::tail:
      legal = all_are(between(runs, 0, half), 0) && one_generation(between(runs, half, end), when);
      break;
    case shape::sparse:
      legal = generation_and_zeros(runs, when) && (runs.size() < 2 || runs[1].what == run::kind::zero);
      break;
    case shape::hole:
      legal = all_are(between(runs, 0, where.hole_begin), 0) &&
              all_are(between(runs, where.hole_end, end), 0) &&
              generation_and_zeros(between(runs, where.hole_begin, where.hole_end), when);
      break;
    case shape::shifted: {
      // The range was taken out (all behind it has moved up); or it is there, with what had stood behind it
      // either in its place or moved down to make room.
      const auto all_moved = [](const std::vector<run>& some) {
        return std::all_of(some.begin(), some.end(), [](const run& one) {
          return one.what == run::kind::moved && one.generation == 0;
        });
      };
      const std::vector<run> behind = between(runs, where.hole_end, end);
      legal = all_are(between(runs, 0, where.hole_begin), 0) &&
              (all_moved(between(runs, where.hole_begin, end)) ||
               ((all_are(behind, 0) || all_moved(behind)) &&
                (all_are(between(runs, where.hole_begin, where.hole_end), 0) ||
                 generation_and_zeros(between(runs, where.hole_begin, where.hole_end), when))));
      break;
    }
    case shape::appended: {
      // Where an appended piece does not begin at a whole word, the word there is of two generations.
      const std::uint64_t even = where.size / word_bytes * word_bytes;
      std::vector<run> behind = between(runs, even, end);
      std::erase_if(behind, [&](const run& one) {
        const std::uint64_t past = one.begin - even;
        return where.size != even && one.end - one.begin <= word_bytes && past % append_bytes == 0;
      });
      legal = all_are(between(runs, 0, even), 0) &&
              std::all_of(behind.begin(), behind.end(),
                          [&](const run& one) {
                            return one.what == run::kind::stamped && one.generation <= when.last;
                          }) &&
              std::is_sorted(behind.begin(), behind.end(),
                             [](const run& a, const run& b) { return a.generation < b.generation; });
      break;
    }
    case shape::unordered:
      legal = std::all_of(runs.begin(), runs.end(), [&](const run& one) { return within(one, when); });
      break;
  }
  if (legal) return {};
  std::ostringstream out;
  out << "no state that the file had between generations " << when.first << " and " << when.last << ":"
      << describe(runs);
  return out.str();
}

}  // namespace adversary
