// SPDX-License-Identifier: Apache-2.0
//
// What this process holds of the kernel's: descriptors, leases, mappings, threads. Taken before and after, so
// that whatever a snapshot leaves behind is found.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace adversary {

struct footprint {
  std::size_t descriptors = 0;
  std::size_t inheritable = 0;  // descriptors without close-on-exec, above 2
  std::size_t mappings = 0;
  std::size_t threads = 0;
};

footprint take_footprint();

// Lines of /proc/locks that are leases of this process.
std::size_t leases_held();

// What each descriptor is, for the message of a failure.
std::string describe_descriptors();

// Waits until ready() or a deadline; false if it never came true. For things that end on another thread's
// time, such as a task's exit.
bool settles(bool (*ready)(const void*), const void* argument, int deadline_ms);

}  // namespace adversary
