// SPDX-License-Identifier: Apache-2.0
//
// One thing takes bytes away from a snapshot under a lease: open(O_RDONLY|O_TRUNC), which no lease stops.
// Reading on then faults, for bytes are never made up. A library must not own signal handlers; a program may:
// this one says which file it was and ends with the status for trouble, instead of dying of the signal.
#pragma once

#include <cstddef>
#include <string>

namespace still::grep {

void tell_faults();  // once, before the first guard

// While it lives, a fault within [data, data + bytes) is told as `name`'s. Taken and given back without
// locks; where very many are held at once the rest goes untold.
class fault_guard {
 public:
  fault_guard(const void* data, std::size_t bytes, const std::string& name);
  fault_guard(const fault_guard&) = delete;
  fault_guard& operator=(const fault_guard&) = delete;
  ~fault_guard();

 private:
  std::size_t slot_;
};

}  // namespace still::grep
