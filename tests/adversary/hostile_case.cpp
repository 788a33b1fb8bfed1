// SPDX-License-Identifier: Apache-2.0
//
// What the cases share. A failed check is told at once and the case goes on: one run shows all that is wrong.
#include "hostile_case.hpp"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace adversary {
namespace {

std::vector<hostile_case>& list() {
  static std::vector<hostile_case> cases;
  return cases;
}

bool any_failed = false;

// Removed by name at exit: a case may end anywhere.
std::vector<std::string>& made_files() {
  static std::vector<std::string> names;
  return names;
}

pid_t maker = 0;

void remove_made() {
  if (getpid() != maker) return;
  for (const std::string& one : made_files()) unlink(one.c_str());
}

}  // namespace

const std::vector<hostile_case>& hostile_cases() {
  return list();
}

registration::registration(const char* sentence, void (*run)(), int lease_break_time, bool leases_enabled) {
  list().push_back({sentence, run, lease_break_time, leases_enabled});
}

bool check(bool good, const std::string& otherwise) {
  if (!good) {
    any_failed = true;
    std::fprintf(stderr, "  FAILED: %s\n", otherwise.c_str());
  }
  return good;
}

void skip_case(const std::string& reason) {
  std::fprintf(stderr, "  skip: %s\n", reason.c_str());
  std::exit(any_failed ? 1 : 77);
}

int case_result() {
  return any_failed ? 1 : 0;
}

std::string case_folder() {
  for (const char* name :
       {"STILLMAP_TEST_EXT4", "STILLMAP_TEST_XFS", "STILLMAP_TEST_BTRFS", "STILLMAP_TEST_TMPFS"}) {
    if (const char* folder = std::getenv(name)) return folder;
  }
  skip_case("no file system with leases: start this under with-filesystems");
}

std::string fresh_file(std::uint64_t size) {
  if (maker == 0) {
    maker = getpid();
    made_files();
    std::atexit(remove_made);
  }
  const std::string path =
      case_folder() + "/hostile-" + std::to_string(getpid()) + "-" + std::to_string(made_files().size());
  create_stamped(path, size);
  made_files().push_back(path);
  return path;
}

still_options leased_options() {
  still_options options = {};
  options.size = sizeof options;
  options.backing = STILL_LEASED;
  return options;
}

watched::watched(const std::string& path, const still_options& options) {
  const int error = still_open(path.c_str(), &options, &snapshot);
  if (!check(error == 0, "open: " + std::to_string(error) + ": " + still_message())) {
    snapshot = nullptr;
    return;
  }
  comparison seen;
  first = observe(data(), still_size(snapshot), &seen);
  check(seen.faulted_pages == 0, "a fault at the first look");
}

void watched::expect_still(const char* when) const {
  const comparison found = look();
  check(found.changed_bytes == 0,
        std::string(when) + ": CHANGED BYTES: " + std::to_string(found.changed_bytes));
  check(found.faulted_pages == 0, std::string(when) +
                                      ": pages that fault: " + std::to_string(found.faulted_pages) +
                                      ", state " + still_state_name(still_current(snapshot)));
}

void watched::expect_still_or_fault(const char* when) const {
  const comparison found = look();
  check(found.changed_bytes == 0,
        std::string(when) + ": CHANGED BYTES: " + std::to_string(found.changed_bytes));
  if (found.faulted_pages > 0) {
    check(still_current(snapshot) == STILL_LOST,
          std::string(when) + ": pages fault, yet the state is not LOST");
  }
}

void watched::close() {
  still_close(snapshot);
  snapshot = nullptr;
}

std::size_t writer_named(const char* name) {
  for (std::size_t i = 0; i < writer_kinds().size(); ++i) {
    if (std::strcmp(writer_kinds()[i].name, name) == 0) return i;
  }
  std::abort();
}

foreign_writer::foreign_writer(const std::string& path, std::uint64_t size, const char* name) {
  layout where;
  where.size = size;
  const answer told = process_.prepare(writer_named(name), {path, path + ".spare", where});
  check(told.result.error == 0, std::string("the writer cannot begin: ") + told.result.call);
}

void foreign_writer::strike_gets_through(const char* when) {
  const answer told = process_.strike(++generation_);
  check(!told.timed_out, std::string(when) + ": the writer waits longer than 5 s");
  if (!told.timed_out) {
    check(told.result.error == 0, std::string(when) + ": the writer failed: " + told.result.call + ": " +
                                      std::strerror(told.result.error));
  }
}

}  // namespace adversary
