// SPDX-License-Identifier: Apache-2.0
//
// Reading memory that may fault. While a guard is up in a thread, SIGBUS and SIGSEGV end the guarded reading
// and are told to the caller; without a guard they are the finding itself: the process dies by them, after
// naming the address. The loops that read guarded memory are plain loads: an interceptor of memcmp that is
// left by siglongjmp would leave a sanitizer's bookkeeping half done.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace adversary {

// For the whole process; before the first guarded read.
void install_fault_handlers();

struct fault {
  int signal = 0;
  std::uintptr_t address = 0;
};

// Runs body(argument). False if a fault cut it short.
bool guarded(void (*body)(void*), void* argument, fault* what);

struct comparison {
  std::uint64_t compared_bytes = 0;
  std::uint64_t changed_bytes = 0;
  std::uint64_t first_changed = 0;  // index, where changed_bytes > 0
  std::uint64_t faulted_pages = 0;
  fault last_fault;

  void add(const comparison& other);
};

// A page's worth of observed memory can be missing where the first read faulted there.
struct observation {
  std::vector<std::byte> bytes;
  std::vector<char> page_observed;  // by page of memory, from the page that holds the first byte
};

// Reads [data, data + size) once.
observation observe(const std::byte* data, std::size_t size, comparison* result);

// Reads it again and compares what had been observed.
comparison compare(const std::byte* data, const observation& first);

// Overwrites one byte without telling a sanitizer: for canaries.
void flip_byte(std::byte* where);

}  // namespace adversary
