// SPDX-License-Identifier: Apache-2.0
//
// What `still run` and the preload say to each other: settings in the environment, and counts in a file that
// every process of the command maps, so that those count that are killed or end by _exit.
#pragma once

#include <stillmap/stillmap.h>

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace still::preload {

// Environment variables. ONLY and EXCEPT: patterns (fnmatch(3)), one a line.
inline constexpr const char* mappings_variable = "STILLMAP_RUN_MAPPINGS";
inline constexpr const char* require_variable = "STILLMAP_RUN_REQUIRE";
inline constexpr const char* only_variable = "STILLMAP_RUN_ONLY";
inline constexpr const char* except_variable = "STILLMAP_RUN_EXCEPT";
inline constexpr const char* report_variable = "STILLMAP_RUN_REPORT";

// Why a mapping of a file was left as it is.
enum class left_alone : std::uint8_t {
  not_asked,         // of a type that --mappings leaves out
  executable,        // code
  writable_shared,   // to write the file through
  open_for_writing,  // shared, by a descriptor that may write: to see changes
  no_name,           // a memfd, or an unlinked file
  shared_memory,     // in /dev/shm
  no_regular_file,
  known_watcher,     // a database or the like that is mapped to see changes
  excluded,          // by --only or --except
  count
};

inline const char* words_for(left_alone reason) {
  switch (reason) {
    case left_alone::not_asked:
      return "of a type that --mappings leaves out";
    case left_alone::executable:
      return "code";
    case left_alone::writable_shared:
      return "shared and writable";
    case left_alone::open_for_writing:
      return "shared, by a descriptor open for writing";
    case left_alone::no_name:
      return "memfd, or unlinked";
    case left_alone::shared_memory:
      return "in /dev/shm";
    case left_alone::no_regular_file:
      return "no regular file";
    case left_alone::known_watcher:
      return "known to be mapped to see changes (SQLite, LMDB, dconf, journal)";
    case left_alone::excluded:
      return "by --only or --except";
    case left_alone::count:
      break;
  }
  return "";
}

struct report {
  static constexpr std::size_t ways = STILL_TRUSTED + 1, levels = STILL_POINT_IN_TIME + 1;
  std::atomic<std::uint64_t> processes, held[ways][levels], refused, detached, lost;
  std::atomic<std::uint64_t> left[static_cast<std::size_t>(left_alone::count)];
};

}  // namespace still::preload
