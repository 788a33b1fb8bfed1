// SPDX-License-Identifier: Apache-2.0
//
// Reads memory that may not be there: for tests of what fails closed.
#pragma once

#include <cstddef>
#include <optional>

namespace stillmap::testing_support {

// The byte at `address`, or nothing where reading it faults (SIGSEGV or SIGBUS).
std::optional<std::byte> try_read(const std::byte* address);

}  // namespace stillmap::testing_support
