// SPDX-License-Identifier: Apache-2.0
//
// A detached thread of the library's own: every signal blocked from birth, so that no handler of the
// application runs on it, and a small stack.
#pragma once

#include <pthread.h>
#include <signal.h>

#include <cstddef>

namespace stillmap::warden {

inline bool start_thread(void* (*body)(void*), const char* name) noexcept {
  constexpr std::size_t stack_bytes = 256 * 1024;  // mostly untouched; room for a large static TLS block
  pthread_attr_t attributes;
  if (pthread_attr_init(&attributes) != 0) return false;
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  pthread_attr_setstacksize(&attributes, stack_bytes);
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  pthread_t thread;
  const bool started = pthread_create(&thread, &attributes, body, nullptr) == 0;
  if (started) pthread_setname_np(thread, name);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  pthread_attr_destroy(&attributes);
  return started;
}

}  // namespace stillmap::warden
