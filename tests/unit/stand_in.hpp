// SPDX-License-Identifier: Apache-2.0
//
// Answers system calls in the kernel's place, so that what hardly ever happens happens in a test.
#pragma once

#include <errno.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <deque>
#include <functional>
#include <utility>

#include "linux/kernel.hpp"

namespace stillmap::testing_support {

inline long real(long number, const long (&a)[6]) {
  const long result = ::syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
  return result == -1 ? -static_cast<long>(errno) : result;
}

// True where it answered. Never freed: a thread of the library may be in it still.
using stand_in = std::function<bool(long number, const long (&arguments)[6], long& answer)>;
inline std::atomic<const stand_in*> standing_in{nullptr};

inline long interposed(long number, const long (&arguments)[6]) {
  long answer = 0;
  const stand_in* const answers = standing_in.load();
  return answers != nullptr && (*answers)(number, arguments, answer) ? answer : real(number, arguments);
}

// From now on calls meet `answers` first.
inline void answer(stand_in answers) {
  static auto& all_of_them = *new std::deque<stand_in>;  // reachable, so no leak
  standing_in.store(&all_of_them.emplace_back(std::move(answers)));
  kernel::interpose(interposed);
}

inline void answer_no_more() {
  standing_in.store(nullptr);
  kernel::interpose(nullptr);
}

}  // namespace stillmap::testing_support
