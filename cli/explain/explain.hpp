// SPDX-License-Identifier: Apache-2.0
//
// `still explain`: what the library found out about a file, what it meant to do, and what happened, as the
// library recorded it while it opened the file. Nothing is decided here, and nothing is guessed.
#ifndef STILL_EXPLAIN_EXPLAIN_HPP
#define STILL_EXPLAIN_EXPLAIN_HPP

#include <CLI/CLI.hpp>

#include <cstdint>
#include <string>
#include <vector>

namespace still::explain {

struct arguments {
  std::vector<std::string> paths;
  std::string require = "verified", backing = "auto";
  std::uint64_t offset = 0, length = 0;
  std::uint32_t padding = 0;
  bool strict = false, json = false;
};

void declare(CLI::App& app, arguments& into);

// 0, or 2 if a file could not be opened as asked.
int run(const arguments& what);

}  // namespace still::explain

#endif
