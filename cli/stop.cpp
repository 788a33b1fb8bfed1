// SPDX-License-Identifier: Apache-2.0
//
// The signal is blocked in every thread and taken by one that does nothing else: no handler may wait for a
// detach. The others go on searching meanwhile.
#include "stop.hpp"

#include <signal.h>
#include <stillmap/stillmap.h>
#include <unistd.h>

#include <thread>

namespace still {

void leave_leases_before_stopping() {
  struct sigaction current;
  if (::sigaction(SIGTSTP, nullptr, &current) != 0 || current.sa_handler != SIG_DFL) return;
  sigset_t stop;
  sigemptyset(&stop);
  sigaddset(&stop, SIGTSTP);
  if (::pthread_sigmask(SIG_BLOCK, &stop, nullptr) != 0) return;
  std::thread([stop] {
    // Handlers of a subcommand's run on its own thread.
    sigset_t all;
    sigfillset(&all);
    ::pthread_sigmask(SIG_BLOCK, &all, nullptr);
    for (;;) {
      int number = 0;
      if (::sigwait(&stop, &number) != 0) continue;
      still_detach(nullptr);
      ::kill(::getpid(), SIGSTOP);
    }
  }).detach();
}

}  // namespace still
