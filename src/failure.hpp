// SPDX-License-Identifier: Apache-2.0
//
// The last failure of each thread, in words: which file, what is in the way, what would help. Kept as its
// parts; the sentence, and the walk through /proc for whoever has the file open, are made when somebody asks.
#pragma once

#include <cstdint>

namespace stillmap {

// Whom a message names, where they can be found: those who have the file open for writing, or who hold an
// exclusive advisory lock on it.
enum class culprits : std::uint8_t { none, writers, lockers };

struct failure {
  int error = 0;
  const char* path = "";                // copied
  const char* cause = "";               // static
  const char* remedy = "";              // static, or ""
  culprits named = culprits::none;
  std::uint64_t device = 0, inode = 0;  // of the file
};

int fail(const failure& what) noexcept;  // returns what.error
const char* message_of_last_failure() noexcept;
const char* words_for(int error) noexcept;

}  // namespace stillmap
