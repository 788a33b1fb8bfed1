// SPDX-License-Identifier: Apache-2.0
//
// `still cp`: a consistent copy of a file that may be changing. The source is held still, whatever its
// writers do, and written into a file without a name beside the target; only when all of it is on the disk
// does it take the target's place, in one step. Where no way of holding gives a whole copy, a torn one is
// made and said to be one.
#pragma once

#include <CLI/CLI.hpp>

#include <string>

namespace still::cp {

struct arguments {
  std::string source, target;
  std::string require;  // empty: verified, and torn where that is not to be had
  bool quiet = false;
};

void declare(CLI::App& app, arguments& into);

// 0: whole; 3: copied, but torn; 1: failed, and the target is untouched.
int run(const arguments& what);

}  // namespace still::cp
