// SPDX-License-Identifier: Apache-2.0
//
// Who has a file open for writing, or locked, in words: for error messages alone. Walks /proc, so it costs
// milliseconds and sees only what this user may see.
#pragma once

#include <cstdint>
#include <string>

namespace stillmap {

// "rustc (1234)", "this process", "cp (99), a mapping of python3 (7)", or "" where nobody was found in time.
std::string writers_of(std::uint64_t device, std::uint64_t inode);

// The same of those who hold an exclusive advisory lock on it: flock(2), POSIX or open file description.
std::string lockers_of(std::uint64_t device, std::uint64_t inode);

}  // namespace stillmap
