// SPDX-License-Identifier: Apache-2.0
#include "fault_guard.hpp"

#include <setjmp.h>
#include <signal.h>

namespace stillmap::testing_support {
namespace {
thread_local sigjmp_buf back;
void jump(int) {
  siglongjmp(back, 1);
}
}  // namespace

std::optional<std::byte> try_read(const std::byte* address) {
  struct sigaction action {};
  action.sa_handler = jump;
  struct sigaction before_segv, before_bus;
  sigaction(SIGSEGV, &action, &before_segv);
  sigaction(SIGBUS, &action, &before_bus);
  // Nothing set between the two returns of sigsetjmp is looked at after the second.
  const bool faulted = sigsetjmp(back, 1) != 0;
  const std::byte value = faulted ? std::byte{} : *static_cast<const volatile std::byte*>(address);
  sigaction(SIGSEGV, &before_segv, nullptr);
  sigaction(SIGBUS, &before_bus, nullptr);
  if (faulted) return std::nullopt;
  return value;
}

}  // namespace stillmap::testing_support
