// SPDX-License-Identifier: Apache-2.0
//
// `still run`: starts an unmodified program with the preload, so that its file mappings hold still.
#ifndef STILL_RUN_RUN_HPP
#define STILL_RUN_RUN_HPP

#include <CLI/CLI.hpp>

#include <string>
#include <vector>

namespace still::run {

struct arguments {
  std::vector<std::string> only, except, command;
  std::string mappings = "readonly", require = "torn";
  bool report = false;
};

void declare(CLI::App& app, arguments& into);

// The words of the command are not ours to read: everything from the first that is no option on.
struct words {
  std::vector<std::string> ours, command;
};
words divided(std::vector<std::string> all);

// The command's exit status, or as a shell's: 126 it cannot be run, 127 it is not there. Without a report the
// command takes this process's place, and nothing comes back.
int run(const arguments& what);

}  // namespace still::run

#endif
