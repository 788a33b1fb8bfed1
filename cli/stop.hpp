// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace still {

// From now on Ctrl-Z (SIGTSTP) first makes private what is leased, then stops the process: one that is stopped
// for longer than the lease's break time could not keep its bytes from a writer. Before any other thread is
// started, and not where the signal is ignored already.
void leave_leases_before_stopping();

}  // namespace still
