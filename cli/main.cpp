// SPDX-License-Identifier: Apache-2.0
//
// The `still` command: finds out which subcommand is meant and hands it its own words. Each subcommand is a
// CLI11 App of its own: as a child of one App, a pattern that reads like a sibling's name (`still grep
// explain .`) would be taken for that sibling.
#include "cp/cp.hpp"
#include "explain/explain.hpp"
#include "grep/arguments.hpp"
#include "grep/grep.hpp"
#include "run/run.hpp"
#include "stop.hpp"
#include "torture/torture.hpp"
#include "words.hpp"

#include <stillmap/stillmap.h>

#include <CLI/CLI.hpp>

#include <algorithm>
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

namespace {

constexpr int usage_status = 2;

// Parses; 0 or more is the status to end with (help was asked for, or the words make no sense), -1: go on.
int parse(CLI::App& app, std::vector<std::string> words) {
  std::reverse(words.begin(), words.end());  // CLI11 takes them from the back
  try {
    app.parse(std::move(words));
  } catch (const CLI::Success& answered) {
    return app.exit(answered);
  } catch (const CLI::ParseError& error) {
    std::fprintf(stderr, "still: %s\nTry '%s --help'.\n", error.what(), app.get_name().c_str());
    return usage_status;
  }
  return -1;
}

int grep(std::vector<std::string> words) {
  CLI::App app("Searches files and folders for lines that match a pattern.", "still grep");
  still::grep::arguments typed;
  still::grep::declare(app, typed);
  if (const int status = parse(app, still::grep::normalized(std::move(words))); status >= 0) return status;
  try {
    return still::grep::run(still::grep::understand(typed));
  } catch (const still::grep::usage_error& error) {
    std::fprintf(stderr, "still: %s\nTry 'still grep --help'.\n", error.what());
    return usage_status;
  }
}

int explain(std::vector<std::string> words) {
  CLI::App app("Tells how files would be held still, and why.", "still explain");
  still::explain::arguments typed;
  still::explain::declare(app, typed);
  still::shield(words);
  if (const int status = parse(app, std::move(words)); status >= 0) return status;
  return still::explain::run(typed);
}

int run_command(std::vector<std::string> words) {
  CLI::App app("Runs a program whose file mappings hold still.", "still run");
  still::run::arguments typed;
  still::run::declare(app, typed);
  still::run::words split = still::run::divided(std::move(words));
  still::shield(split.ours);
  if (const int status = parse(app, std::move(split.ours)); status >= 0) return status;
  typed.command = std::move(split.command);
  return still::run::run(typed);
}

int cp(std::vector<std::string> words) {
  CLI::App app("Makes a consistent copy of a file that may be changing.", "still cp");
  still::cp::arguments typed;
  still::cp::declare(app, typed);
  still::shield(words);
  if (const int status = parse(app, std::move(words)); status >= 0) return status;
  return still::cp::run(typed);
}

int torture(std::vector<std::string> words) {
  CLI::App app("Proves on this machine that bytes hold still while writers of every kind are at work.",
               "still torture");
  still::torture::arguments typed;
  still::torture::declare(app, typed);
  still::shield(words);
  if (const int status = parse(app, std::move(words)); status >= 0) return status;
  return still::torture::run(typed);
}

int top(const std::vector<std::string>& words) {
  CLI::App app("File mappings that hold still.", "still");
  app.set_version_flag("--version", std::string("still ") + still_version());
  app.add_subcommand("grep", "Search files and folders");
  app.add_subcommand("run", "Run a program whose file mappings hold still");
  app.add_subcommand("explain", "Tell how files would be held still, and why");
  app.add_subcommand("cp", "Copy a file that may be changing");
  app.add_subcommand("torture", "Prove that bytes hold still, on this machine");
  app.require_subcommand(1);
  app.footer("still COMMAND --help tells more.");
  const int status = parse(app, words);
  return status >= 0 ? status : usage_status;
}

int run(const std::vector<std::string>& words) {
  if (words.empty()) return top({"--help"}), usage_status;
  const std::vector<std::string> rest(words.begin() + 1, words.end());
  // A program that takes our place would inherit what is blocked for this.
  if (words[0] != "run") still::leave_leases_before_stopping();
  if (words[0] == "grep") return grep(rest);
  if (words[0] == "explain") return explain(rest);
  if (words[0] == "run") return run_command(rest);
  if (words[0] == "cp") return cp(rest);
  if (words[0] == "torture") return torture(rest);
  return top(words);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(std::vector<std::string>(argv + std::min(argc, 1), argv + argc));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "still: %s\n", error.what());
    return usage_status;
  }
}
