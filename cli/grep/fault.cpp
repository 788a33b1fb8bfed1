// SPDX-License-Identifier: Apache-2.0
#include "grep/fault.hpp"

#include <signal.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <cstring>

namespace still::grep {
namespace {

struct range {
  std::atomic<bool> taken{false};
  std::atomic<std::uintptr_t> begin{0}, end{0};
  std::atomic<const char*> name{nullptr};
};
std::array<range, 256> held;

void say(const char* words) {
  [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, words, std::strlen(words));
}

void on_fault(int signal, siginfo_t* info, void*) {
  const auto at = reinterpret_cast<std::uintptr_t>(info->si_addr);
  for (const range& one : held) {
    if (at < one.begin || at >= one.end) continue;
    say("still: ");
    say(one.name);
    say(": truncated while it was searched\n");
    ::_exit(2);
  }
  ::signal(signal, SIG_DFL);  // a fault of our own: the instruction runs again, and ends us
}

}  // namespace

void tell_faults() {
  struct sigaction action {};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO;
  ::sigaction(SIGBUS, &action, nullptr);
  ::sigaction(SIGSEGV, &action, nullptr);
}

fault_guard::fault_guard(const void* data, std::size_t bytes, const std::string& name) : slot_(0) {
  while (slot_ < held.size() && held[slot_].taken.exchange(true)) ++slot_;
  if (slot_ == held.size()) return;
  range& mine = held[slot_];
  mine.name = name.c_str();
  mine.begin = reinterpret_cast<std::uintptr_t>(data);
  // A fault names the page: the last one's rest counts.
  mine.end = (reinterpret_cast<std::uintptr_t>(data) + bytes + 0xffff) & ~std::uintptr_t{0xffff};
}

fault_guard::~fault_guard() {
  if (slot_ == held.size()) return;
  held[slot_].end = 0;
  held[slot_].taken = false;
}

}  // namespace still::grep
