// SPDX-License-Identifier: Apache-2.0
//
// Threads with a descriptor table of their own, for work on temporary files. A number of ours in the
// application's table is ours only as long as the application leaves it alone: one that closes every
// descriptor between our open and our write would have us write into whatever file of its own takes the
// number next. Nobody but us opens or closes anything here.
//
// One thread stands ready once it was needed, so that a clone costs two wake-ups and not the start of a
// thread.
#pragma once

#include <type_traits>

namespace stillmap::files_thread {

// Calls work(context) there and waits until it is done. False: no such thread is to be had.
bool run(void (*work)(void* context) noexcept, void* context) noexcept;

template <class Work>
bool run(Work&& work) noexcept {
  return run([](void* context) noexcept { (*static_cast<std::remove_reference_t<Work>*>(context))(); },
             &work);
}

// For `work`: a duplicate of a descriptor in the application's table, to be closed there; or -errno. `thread`
// is one that uses that table.
long descriptor_of(int fd, int thread) noexcept;

void forget_after_fork() noexcept;  // in the child: the threads are gone

}  // namespace stillmap::files_thread
