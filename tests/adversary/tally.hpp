// SPDX-License-Identifier: Apache-2.0
//
// What was done and seen, by file system, and every skip and refusal with its reason: printed at the end, so
// that a green run can be read for what it covered.
#pragma once

#include <cstdint>
#include <map>
#include <string>

namespace adversary {

struct tally {
  std::uint64_t combinations = 0, generations = 0, compared_bytes = 0, changed_bytes = 0;
  std::uint64_t faults_allowed = 0, faults_forbidden = 0, refused = 0, lost = 0;
  std::uint64_t slowest_writer_ns = 0;
  std::uint64_t opened_at_work = 0, verified_at_work = 0, torn_at_work = 0, refused_at_work = 0;
};

class tallies {
 public:
  tally& of(const std::string& arena) { return rows_[arena]; }
  void skip(const std::string& reason) { ++skips_[reason]; }
  void refusal(const std::string& reason) { ++refusals_[reason]; }
  void print() const;

 private:
  std::map<std::string, tally> rows_;
  std::map<std::string, std::uint64_t> skips_, refusals_;
};

tallies& all_tallies();

}  // namespace adversary
