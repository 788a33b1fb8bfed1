// SPDX-License-Identifier: Apache-2.0
//
// One table to standard output. The rows named canary are plain mappings: theirs are the numbers that must
// not be 0.
#include "tally.hpp"

#include <cinttypes>
#include <cstdio>

namespace adversary {

tallies& all_tallies() {
  static tallies instance;
  return instance;
}

void tallies::print() const {
  std::printf("\n%-24s %7s %8s %9s %9s %8s %8s %7s %5s %9s | %7s %8s %6s %7s\n", "where", "combin.",
              "strikes", "MiB read", "changed", "faults", "promised", "refused", "lost", "writer ms",
              "at work", "verified", "torn", "refused");
  for (const auto& [name, row] : rows_) {
    std::printf("%-24s %7" PRIu64 " %8" PRIu64 " %9" PRIu64 " %9" PRIu64 " %8" PRIu64 " %8" PRIu64
                " %7" PRIu64 " %5" PRIu64 " %9.1f | %7" PRIu64 " %8" PRIu64 " %6" PRIu64 " %7" PRIu64 "\n",
                name.c_str(), row.combinations, row.generations, row.compared_bytes >> 20, row.changed_bytes,
                row.faults_forbidden, row.faults_allowed, row.refused, row.lost,
                static_cast<double>(row.slowest_writer_ns) / 1e6, row.opened_at_work, row.verified_at_work,
                row.torn_at_work, row.refused_at_work);
  }
  std::printf(
      "changed: bytes; faults: pages, where none may fault; promised: pages that faulted after a read-only "
      "truncation\n");
  for (const auto& [reason, count] : refusals_)
    std::printf("refused %5" PRIu64 ": %s\n", count, reason.c_str());
  for (const auto& [reason, count] : skips_) std::printf("skipped %5" PRIu64 ": %s\n", count, reason.c_str());
  std::fflush(stdout);
}

}  // namespace adversary
