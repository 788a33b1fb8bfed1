// SPDX-License-Identifier: Apache-2.0
//
// Every kind of change that one process can do to a file, each on a scratch file of its own.
#pragma once

#include "torture/descriptor.hpp"
#include "torture/scoreboard.hpp"

#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <memory>
#include <span>
#include <string>

namespace still::torture {

// More than the 512 KiB up to which a file is always copied rather than leased, and no whole number of pages.
inline constexpr std::size_t victim_bytes = 576 * 1024 + 123;
inline constexpr std::size_t page_bytes = 4096;

// The file that one kind of writer works on, with what that writer keeps between two changes.
struct victim {
  explicit victim(std::string at);

  std::string path, spare;
  std::unique_ptr<std::byte, void (*)(void*)> memory;
  descriptor kept;
  std::byte* mapping = nullptr;  // goes with the process
  unsigned appended = 0;

  std::span<std::byte> filled(unsigned char value, std::size_t bytes = victim_bytes);
};

// 0 or an error number. value: what to write; never 0, and another one each time.
using change = int (*)(victim&, unsigned char value);

struct kind {
  const char* name;
  change strike;
  change before = nullptr;         // not timed
  int (*once)(victim&) = nullptr;  // at the start
  bool whole = false;              // one call replaces all bytes: two values in a snapshot are two instants
  bool in_the_reader = false;      // by a thread of the process that reads
};

std::span<const kind> kinds();
std::string victim_path(const std::string& folder, std::size_t kind);
int make_victim(const victim& one);

// A process's life: strikes its share of the kinds in turn, until it is killed.
[[noreturn]] void storm(scoreboard& board, const std::string& folder, std::size_t writer);

// The reader's own thread: strikes until told to stop.
void storm_inside(scoreboard& board, const std::string& folder, const std::atomic<bool>& stop);

}  // namespace still::torture
