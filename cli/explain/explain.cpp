// SPDX-License-Identifier: Apache-2.0
//
// One record a file, read from the still_explanation into plain values, then written as text or as JSON.
// The JSON is an array with one object a file, also for one file, so that a script need not tell them apart.
#include "explain/explain.hpp"

#include "words.hpp"

#include <stillmap/stillmap.h>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <utility>

namespace still::explain {
namespace {

struct explanation_free {
  void operator()(still_explanation* explanation) const noexcept { still_explanation_free(explanation); }
};

const std::vector<std::string>& level_names() {
  static const std::vector<std::string> names = {"torn", "verified", "point_in_time"};
  return names;
}
const std::vector<std::string>& backing_names() {
  static const std::vector<std::string> names = {"auto",  "sealed",  "leased",      "cloned", "copied",
                                                 "paged", "spilled", "cooperative", "trusted"};
  return names;
}

int index_of(const std::vector<std::string>& names, const std::string& name) {
  return static_cast<int>(std::find(names.begin(), names.end(), name) - names.begin());
}

still_options options_of(const arguments& what) {
  still_options options{};
  options.size = sizeof options;
  options.require = static_cast<still_consistency>(index_of(level_names(), what.require) + STILL_TORN);
  options.backing = static_cast<still_backing>(index_of(backing_names(), what.backing));
  options.offset = what.offset;
  options.length = what.length;
  options.padding = what.padding;
  options.flags = what.strict ? unsigned{STILL_STRICT} : 0u;
  return options;
}

const char* verdict(const still_step& step) {
  if (step.taken) return "taken";
  return step.tried ? "tried" : "passed over";
}

nlohmann::ordered_json record(const std::string& path, const still_explanation* explanation) {
  nlohmann::ordered_json result;
  result["path"] = path;
  auto& facts = result["facts"] = nlohmann::ordered_json::object();
  for (std::size_t i = 0; i < still_explanation_facts(explanation); ++i)
    facts[still_explanation_fact_name(explanation, i)] = still_explanation_fact_value(explanation, i);
  auto& plan = result["plan"] = nlohmann::ordered_json::array();
  for (std::size_t i = 0; i < still_explanation_steps(explanation); ++i) {
    still_step step{};
    if (still_explanation_step(explanation, i, &step) != 0) continue;
    nlohmann::ordered_json entry;
    entry["backing"] = still_backing_name(step.backing);
    entry["verdict"] = verdict(step);
    entry["reason"] = step.reason ? step.reason : "";
    if (step.error) {
      entry["error"] = step.error;
      entry["error_text"] = still_strerror(step.error);
    }
    plan.push_back(std::move(entry));
  }
  const int error = still_explanation_error(explanation);
  if (const still_snapshot* const snapshot = still_explanation_snapshot(explanation);
      error == 0 && snapshot) {
    auto& outcome = result["result"];
    outcome["backing"] = still_backing_name(still_how(snapshot));
    outcome["consistency"] = still_consistency_name(still_when(snapshot));
    outcome["state"] = still_state_name(still_current(snapshot));
    outcome["size"] = still_size(snapshot);
    outcome["private_bytes"] = still_private_bytes(snapshot);
  } else {
    result["error"] = error;
    result["message"] = still_explanation_message(explanation);
  }
  return result;
}

std::string text_of(const nlohmann::ordered_json& value) {
  return value.is_string() ? value.get<std::string>() : value.dump();
}

void print_text(const nlohmann::ordered_json& file) {
  std::string out = file["path"].get<std::string>() + "\n";
  std::size_t width = 13;  // private_bytes
  for (const auto& [name, value] : file["facts"].items()) width = std::max(width, name.size());
  const auto row = [&](const std::string& name, const std::string& value) {
    out += "  " + name + std::string(width - std::min(width, name.size()) + 2, ' ') + value + "\n";
  };
  for (const auto& [name, value] : file["facts"].items()) row(name, text_of(value));
  out += "plan\n";
  int number = 0;
  for (const auto& step : file["plan"]) {
    out += "  " + std::to_string(++number) + ". " + step["backing"].get<std::string>() + ", " +
           step["verdict"].get<std::string>();
    if (const std::string reason = step["reason"]; !reason.empty()) out += ": " + reason;
    if (step.contains("error")) out += " (" + step["error_text"].get<std::string>() + ")";
    out += "\n";
  }
  if (file.contains("result")) {
    out += "result\n";
    for (const auto& [name, value] : file["result"].items()) row(name, text_of(value));
  } else {
    out += "failed: " + file["message"].get<std::string>() + "\n";
  }
  std::fputs(out.c_str(), stdout);
}

}  // namespace

void declare(CLI::App& app, arguments& into) {
  app.set_help_flag("-h,--help", "Print this help and exit");
  app.add_option("FILE", into.paths, "Files to explain")->required()->expected(-1);
  app.add_flag("--json", into.json, "An array with one object a file");
  app.add_option("--require", into.require, "Weakest consistency accepted")
      ->capture_default_str()
      ->check(CLI::IsMember(level_names()));
  app.add_option("--backing", into.backing, "Insist on one way of holding still")
      ->capture_default_str()
      ->check(CLI::IsMember(backing_names()));
  app.add_flag("--strict", into.strict, "No lease outlives the open");
  app.add_option("--offset", into.offset, "First byte");
  app.add_option("--length", into.length, "Number of bytes; 0: to the end");
  app.add_option("--padding", into.padding, "Zero bytes wanted behind the last byte");
  app.footer(
      "Exit status: 0, or 2 if a file could not be opened as asked; what is known of it is printed all the "
      "same.");
}

int run(const arguments& what) {
  const still_options options = options_of(what);
  nlohmann::ordered_json files = nlohmann::ordered_json::array();
  int status = 0;
  for (const std::string& path : unshielded(what.paths)) {
    still_explanation* made = nullptr;
    const int error = still_explain(path.c_str(), &options, &made);
    const std::unique_ptr<still_explanation, explanation_free> explanation(made);
    if (error != 0) {
      std::fprintf(stderr, "still: %s: %s\n", path.c_str(), still_strerror(error));
      status = 2;
      continue;
    }
    files.push_back(record(path, explanation.get()));
    if (still_explanation_error(explanation.get()) != 0) status = 2;
    if (!what.json) {
      if (files.size() > 1) std::fputs("\n", stdout);
      print_text(files.back());
    }
  }
  // A path need not be UTF-8: what is not is replaced, for JSON has no other way.
  if (what.json)
    std::puts(files.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace).c_str());
  return status;
}

}  // namespace still::explain
