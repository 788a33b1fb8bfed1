// SPDX-License-Identifier: Apache-2.0
//
// The search of one file's bytes, which hold still: so they may be cut into pieces at line ends, looked at by
// several threads, and gone back to for context, without a copy.
//
// What is binary is decided as GNU grep decides it, step by step, and so that the answer depends on the file
// alone: a step is 96 KiB; the first step with a NUL makes the file binary from there on. Lines that end
// before are text. In the binary part a NUL ends a line as a newline does, and the first match there ends the
// search.
#ifndef STILL_GREP_SEARCH_HPP
#define STILL_GREP_SEARCH_HPP

#include "grep/outlet.hpp"
#include "grep/pattern.hpp"
#include "grep/request.hpp"

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace still::grep {

struct outcome {
  std::uint64_t selected = 0;  // lines; where one is enough, not more than one
  bool binary_match = false;   // a line of the binary part was selected, and not written
  std::size_t read_bytes = 0;  // up to where the search got: all of it, or behind the last line wanted
  std::string failure;         // why some line could not be decided, or ""
};

// Searches text and writes to `to`. helpers: threads that may be started for a large text.
outcome search(const request& what, const pattern& compiled, matcher& own, std::string_view text,
               std::string_view name, bool named, unsigned helpers, page& to);

}  // namespace still::grep

#endif
