// SPDX-License-Identifier: Apache-2.0
//
// The handler jumps only where the faulting thread has put up a guard. SA_NODEFER keeps the signal
// deliverable after the jump, so that no mask has to be saved: a guard costs no system call.
#include "fault_guard.hpp"

#include <unistd.h>
#include <algorithm>
#include <csetjmp>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "ledger.hpp"

namespace adversary {
namespace {

struct guard {
  sigjmp_buf back;
  fault what;
};

thread_local guard* current_guard = nullptr;

void on_fault(int signal, siginfo_t* info, void*) {
  if (guard* here = current_guard) {
    here->what = {signal, reinterpret_cast<std::uintptr_t>(info->si_addr)};
    current_guard = nullptr;
    siglongjmp(here->back, 1);
  }
  char text[128];
  const int length = std::snprintf(text, sizeof text, "unguarded %s at %p in pid %d: a broken promise\n",
                                   signal == SIGBUS ? "SIGBUS" : "SIGSEGV", info->si_addr, getpid());
  if (length > 0) [[maybe_unused]]
    const ssize_t told = write(STDERR_FILENO, text, static_cast<std::size_t>(length));
  std::signal(signal, SIG_DFL);  // the access is repeated on return, and ends the process
}

using word = std::uint64_t __attribute__((may_alias, aligned(1)));

__attribute__((noinline, no_sanitize("thread", "address", "undefined"))) std::uint64_t differing_bytes(
    const std::byte* a, const std::byte* b, std::size_t size, std::size_t* first) {
  std::uint64_t count = 0;
  std::size_t at = 0;
  while (at < size) {
    const std::size_t piece = std::min<std::size_t>(size - at, page_bytes);
    const std::size_t words = piece / sizeof(word);
    const word* x = reinterpret_cast<const word*>(a + at);
    const word* y = reinterpret_cast<const word*>(b + at);
    std::uint64_t difference = 0;
    for (std::size_t i = 0; i < words; ++i) difference |= x[i] ^ y[i];
    if (difference == 0 && piece % sizeof(word) == 0) {
      at += piece;
      continue;
    }
    for (std::size_t i = difference ? 0 : words * sizeof(word); i < piece; ++i) {
      if (a[at + i] != b[at + i]) {
        if (count == 0) *first = at + i;
        ++count;
      }
    }
    at += piece;
  }
  return count;
}

__attribute__((noinline, no_sanitize("thread", "address", "undefined"))) void copy_bytes(
    std::byte* to, const std::byte* from, std::size_t size) {
  std::size_t i = 0;
  for (; i + sizeof(word) <= size; i += sizeof(word)) {
    *reinterpret_cast<word*>(to + i) = *reinterpret_cast<const volatile word*>(from + i);
  }
  for (; i < size; ++i) to[i] = static_cast<const volatile std::byte*>(from)[i];
}

struct piece {
  const std::byte* data;
  std::byte* mine;
  std::size_t size;
  std::uint64_t changed = 0;
  std::size_t first = 0;
};

void copy_piece(void* argument) {
  auto* here = static_cast<piece*>(argument);
  copy_bytes(here->mine, here->data, here->size);
}

void compare_piece(void* argument) {
  auto* here = static_cast<piece*>(argument);
  here->changed = differing_bytes(here->data, here->mine, here->size, &here->first);
}

std::size_t pages_touched(const std::byte* data, std::size_t size) {
  const auto begin = reinterpret_cast<std::uintptr_t>(data);
  return size == 0 ? 0 : static_cast<std::size_t>((begin + size - 1) / page_bytes - begin / page_bytes + 1);
}

// Where page `index` of the memory begins and ends, as indices into the range.
std::size_t page_begin(const std::byte* data, std::size_t index) {
  const std::size_t skip = reinterpret_cast<std::uintptr_t>(data) % page_bytes;
  return index == 0 ? 0 : index * page_bytes - skip;
}

// Under one guard as much as possible, page by page only where something faults.
constexpr std::size_t batch_pages = 64;

}  // namespace

void install_fault_handlers() {
  struct sigaction action = {};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO | SA_NODEFER;
  sigaction(SIGBUS, &action, nullptr);
  sigaction(SIGSEGV, &action, nullptr);
}

__attribute__((noinline)) bool guarded(void (*body)(void*), void* argument, fault* what) {
  guard here;
  if (sigsetjmp(here.back, 1) != 0) {
    *what = here.what;
    return false;
  }
  current_guard = &here;
  body(argument);
  current_guard = nullptr;
  return true;
}

void comparison::add(const comparison& other) {
  if (changed_bytes == 0) first_changed = other.first_changed;
  compared_bytes += other.compared_bytes;
  changed_bytes += other.changed_bytes;
  faulted_pages += other.faulted_pages;
  if (other.faulted_pages > 0) last_fault = other.last_fault;
}

observation observe(const std::byte* data, std::size_t size, comparison* result) {
  observation seen;
  seen.bytes.resize(size);
  const std::size_t pages = pages_touched(data, size);
  seen.page_observed.assign(pages, 0);
  for (std::size_t page = 0; page < pages;) {
    std::size_t last = std::min(pages, page + batch_pages);
    for (bool whole = true;; whole = false) {
      if (!whole) last = page + 1;
      const std::size_t begin = page_begin(data, page), end = std::min(size, page_begin(data, last));
      piece here{data + begin, seen.bytes.data() + begin, end - begin};
      fault what;
      if (guarded(copy_piece, &here, &what)) {
        std::fill(seen.page_observed.begin() + static_cast<std::ptrdiff_t>(page),
                  seen.page_observed.begin() + static_cast<std::ptrdiff_t>(last), char{1});
        result->compared_bytes += end - begin;
        break;
      }
      if (whole && last > page + 1) continue;
      ++result->faulted_pages;
      result->last_fault = what;
      break;
    }
    page = last;
  }
  return seen;
}

comparison compare(const std::byte* data, const observation& first) {
  comparison result;
  const std::size_t size = first.bytes.size();
  const std::size_t pages = first.page_observed.size();
  for (std::size_t page = 0; page < pages;) {
    if (!first.page_observed[page]) {
      ++page;
      continue;
    }
    std::size_t last = page;
    while (last < pages && last < page + batch_pages && first.page_observed[last]) ++last;
    for (bool whole = true;; whole = false) {
      if (!whole) last = page + 1;
      const std::size_t begin = page_begin(data, page), end = std::min(size, page_begin(data, last));
      piece here{data + begin, const_cast<std::byte*>(first.bytes.data()) + begin, end - begin};
      fault what;
      if (guarded(compare_piece, &here, &what)) {
        if (here.changed > 0 && result.changed_bytes == 0) result.first_changed = begin + here.first;
        result.changed_bytes += here.changed;
        result.compared_bytes += end - begin;
        break;
      }
      if (whole && last > page + 1) continue;
      ++result.faulted_pages;
      result.last_fault = what;
      break;
    }
    page = last;
  }
  return result;
}

__attribute__((noinline, no_sanitize("thread"))) void flip_byte(std::byte* where) {
  *static_cast<volatile std::byte*>(where) = *where ^ std::byte{1};
}

}  // namespace adversary
