// SPDX-License-Identifier: Apache-2.0
//
// One combination: a file, a way of holding it, a writer. Two kinds of round:
//
//   quiet    the file is at rest while the snapshot is taken, so its content is known exactly; then the
//   writer
//            strikes, and after each strike every byte is read again
//   at work  the writer never stops; snapshots are taken in the middle of it and judged by the ledger
//
// A round tells what it saw; what that means is up to the test (a canary wants harm).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "holders.hpp"
#include "readers.hpp"
#include "striker.hpp"
#include "tally.hpp"

namespace adversary {

// A folder to make files in; a file may be read under one name and written under another.
struct arena {
  std::string name;
  std::string reader_folder, writer_folder;
  bool leases = true;    // a lease protects here
  bool verifies = true;  // VERIFIED is to be had without a lease
  bool clones = false;   // blocks can be shared between files
};

std::vector<arena> arenas();

struct outcome {
  comparison found;
  std::vector<std::string> failures;
  bool skipped = false;
  bool writer_stuck = false;
};

struct stage {
  const arena* where;
  striker* writer;
  readers* watch;
  tally* count;
  bool paged = false;  // userfaultfd is to be had
};

outcome quiet_round(const stage& on, std::size_t kind, way how, const request& what, std::uint64_t size,
                    std::uint64_t strikes);

// Opens snapshots for about milliseconds.
outcome at_work_round(const stage& on, std::size_t kind, std::uint64_t size, int milliseconds);

}  // namespace adversary
