// SPDX-License-Identifier: Apache-2.0
//
// The last failure of each thread, in words: which file, what is in the way, what would help. Kept as its
// parts; the sentence, and the walk through /proc for whoever has the file open, are made when somebody asks.
#pragma once

#include <cstdint>

namespace stillmap {

struct failure {
  int error = 0;
  const char* path = "";                // copied
  const char* cause = "";               // static
  const char* remedy = "";              // static, or ""
  std::uint64_t device = 0, inode = 0;  // of a file whose writers are worth naming; inode 0: none
};

int fail(const failure& what) noexcept;  // returns what.error
const char* message_of_last_failure() noexcept;
const char* words_for(int error) noexcept;

}  // namespace stillmap
