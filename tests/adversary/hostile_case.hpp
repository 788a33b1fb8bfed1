// SPDX-License-Identifier: Apache-2.0
//
// A case of what can go wrong inside the process that holds leases: a sentence, and a function that runs in a
// process of its own (this program executed anew), so that closed descriptors, other users and full signal
// queues stay with it. Machine-wide settings are changed and restored by the parent, which outlives any crash
// of the case.
#pragma once

#include <stillmap/stillmap.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "fault_guard.hpp"
#include "striker.hpp"

namespace adversary {

struct hostile_case {
  const char* sentence;
  void (*run)();
  int lease_break_time = 8;  // seconds: what polling alone must find is then found within one
  bool leases_enabled = true;
};

const std::vector<hostile_case>& hostile_cases();

struct registration {
  registration(const char* sentence, void (*run)(), int lease_break_time = 8, bool leases_enabled = true);
};

// Notes a failure and goes on; true if good.
bool check(bool good, const std::string& otherwise);
[[noreturn]] void skip_case(const std::string& reason);
int case_result();  // 0 or 1

// A file with generation 0 in a folder of the first file system at hand that has leases; removed at exit.
std::string fresh_file(std::uint64_t size);
std::string case_folder();

still_options leased_options();

// A snapshot whose bytes have been looked at once.
class watched {
 public:
  explicit watched(const std::string& path, const still_options& options = leased_options());
  watched(const watched&) = delete;
  watched& operator=(const watched&) = delete;
  ~watched() { close(); }

  explicit operator bool() const { return snapshot != nullptr; }
  const std::byte* data() const { return static_cast<const std::byte*>(still_data(snapshot)); }
  comparison look() const { return compare(data(), first); }
  // Every byte as at first, and none that faults.
  void expect_still(const char* when) const;
  // Every byte as at first, or a fault.
  void expect_still_or_fault(const char* when) const;
  void close();

  still_snapshot* snapshot = nullptr;
  observation first;
};

// A writer process of kind `name` at path.
class foreign_writer {
 public:
  explicit foreign_writer(const std::string& path, std::uint64_t size, const char* name = "write");
  // One generation, which must get through within the deadline.
  void strike_gets_through(const char* when);
  striker& process() { return process_; }

 private:
  striker process_{striker::place::process};
  std::uint64_t generation_ = 0;
};

std::size_t writer_named(const char* name);

}  // namespace adversary
