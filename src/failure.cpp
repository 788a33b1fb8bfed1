// SPDX-License-Identifier: Apache-2.0
#include "failure.hpp"

#include <stillmap/stillmap.h>

#include <cstdio>
#include <cstring>
#include <new>
#include <string>

#include "linux/writers.hpp"

namespace stillmap {
namespace {

struct kept_failure {
  failure what;
  char path[1024];
  char message[1536];
  bool composed;
};
thread_local kept_failure last{};

}  // namespace

int fail(const failure& what) noexcept {
  last.what = what;
  last.composed = false;
  // The end of a long path says more than its beginning.
  const std::size_t length = std::strlen(what.path);
  const std::size_t skipped = length < sizeof last.path ? 0 : length - (sizeof last.path - 1);
  std::memcpy(last.path, what.path + skipped, length - skipped + 1);
  last.what.path = last.path;
  return what.error;
}

const char* message_of_last_failure() noexcept {
  if (last.what.error == 0) return "";
  if (last.composed) return last.message;
  last.composed = true;
  const bool locked = last.what.named == culprits::lockers;
  std::string names;
  try {
    if (locked) names = lockers_of(last.what.device, last.what.inode);
    if (last.what.named == culprits::writers) names = writers_of(last.what.device, last.what.inode);
  } catch (const std::bad_alloc&) {
  }
  const failure& what = last.what;
  const bool caused = what.cause[0] != '\0';
  const char* const by = names.empty() ? "" : locked ? " by " : ", opened for writing by ";
  std::snprintf(last.message, sizeof last.message, "%s: %s%s%s%s%s", what.path, words_for(what.error),
                caused ? ": " : "", what.cause, by, names.c_str());
  if (what.remedy[0] != '\0') {
    const std::size_t used = std::strlen(last.message);
    std::snprintf(last.message + used, sizeof last.message - used, " (%s)", what.remedy);
  }
  return last.message;
}

const char* words_for(int error) noexcept {
  switch (error) {
    case 0:
      return "success";
    case STILL_ERROR_BUSY_WRITER:
      return "the file is open for writing";
    case STILL_ERROR_UNSUPPORTED:
      return "not to be had for this file";
    case STILL_ERROR_OVER_BUDGET:
      return "over the memory budget";
    case STILL_ERROR_CHANGING:
      return "the file keeps changing";
    case STILL_ERROR_LOST:
      return "the bytes could not be kept";
    default:
      break;
  }
  const char* const text = error > 0 && error < STILL_ERROR_BASE ? ::strerrordesc_np(error) : nullptr;
  return text != nullptr ? text : "unknown error";
}

}  // namespace stillmap
