// SPDX-License-Identifier: Apache-2.0
//
// The ledger: what a file's bytes say about themselves.
//
// Writers stamp whole generations. Every aligned 8-byte word carries its generation and a check of generation
// and file offset, so that a reader can tell, for any range however cut, which write each word came from,
// whether it stands where it was written, and whether it is whole. From that follows legality: a snapshot
// that claims VERIFIED or better must show a state that the file really had. Which states those are depends
// on how the writer goes to work (its shape): an overwrite in ascending order, even in one call, has "newer
// before older" on disk at an instant, but never older before newer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace adversary {

inline constexpr std::uint64_t page_bytes = 4096;

// The word that generation writes at offset (a multiple of 8). Never zero, so that a hole is no generation.
std::uint64_t stamp(std::uint64_t generation, std::uint64_t offset);

// Fills out with what generation writes at [offset, offset + out.size()).
void write_stamps(std::span<std::byte> out, std::uint64_t offset, std::uint64_t generation);

// The states that a writer takes a file through. Generations count up by one a strike, from 0 (as created).
enum class shape {
  still,      // the content never changes
  whole,      // one generation, complete (a rename over the path)
  ascending,  // overwritten front to back: newer words, then words of the generation before
  fresh,      // emptied, then written front to back: one generation, any length
  tail,       // the second half cut off and written anew; the first half is generation 0
  sparse,     // cut to 0, made long again (zeros), overwritten front to back
  hole,       // a range in the middle emptied and filled again; all else is generation 0
  shifted,    // a range in the middle taken out, and room made for it again
  appended,   // generation 0, then what was appended: generations never falling
  unordered   // any mixture of words (direct writes complete in any order)
};

struct layout {
  std::uint64_t size = 0;  // of the whole file, as created
  std::uint64_t hole_begin = 0, hole_end = 0;
};

// Where the second half begins, for writers that cut it off.
std::uint64_t middle_of(std::uint64_t size);

inline constexpr std::uint64_t append_bytes = 4096;  // of one piece that is appended

// Generations that the bytes may come from: the last one finished before the open, the last one begun when it
// returned.
struct window {
  std::uint64_t first = 0, last = 0;
};

struct run {
  enum class kind { stamped, zero, moved, alien } what;
  std::uint64_t generation;
  std::uint64_t begin, end;  // file offsets
};

// Splits bytes that were read at file offset into runs. moved: stamped, but as of distance bytes further on
// or back.
std::vector<run> classify(std::span<const std::byte> bytes, std::uint64_t offset, window when,
                          std::uint64_t distance);

// Empty if the bytes are a state that the file had within the window; else the reason why not.
std::string illegal(shape how, const layout& where, window when, std::span<const std::byte> bytes,
                    std::uint64_t offset);

}  // namespace adversary
