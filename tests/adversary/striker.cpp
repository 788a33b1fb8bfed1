// SPDX-License-Identifier: Apache-2.0
//
// Orders and answers are fixed-size messages on a SOCK_SEQPACKET pair; generations under way are counted in
// shared memory, so that an opener can say which ones a snapshot may show without stopping the writer.
#include "striker.hpp"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

namespace adversary {
namespace {

constexpr const char* process_word = "--adversary-writer-process";
constexpr std::uint64_t generations_max = 60'000;  // a stamp counts to 65,534

struct order {
  enum class what { prepare, strike, work, finish, quit } action = what::quit;
  std::uint64_t kind = 0, generation = 0;
  layout where;
  char path[512] = {}, spare[512] = {};
};

struct reply {
  int error = 0;
  bool unsupported = false;
  std::uint64_t took_ns = 0;
  char call[64] = {};
};

std::uint64_t now_ns() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<std::uint64_t>(t.tv_sec) * 1'000'000'000u + static_cast<std::uint64_t>(t.tv_nsec);
}

[[noreturn]] void broken(const char* what) {
  std::fprintf(stderr, "adversary: %s: %s\n", what, std::strerror(errno));
  std::exit(2);
}

strike_result work(session& s, const writer_kind& kind, std::uint64_t first, progress& at) {
  for (std::uint64_t g = first; g < generations_max && !at.stop.load(); ++g) {
    at.begun = g;
    const std::uint64_t begin = now_ns();
    const strike_result result = kind.strike(s, g);
    const std::uint64_t took = now_ns() - begin;
    if (took > at.slowest_ns.load()) at.slowest_ns = took;
    if (result.error) return result;
    at.finished = g;
  }
  return {};
}

void serve(int socket, progress* at) {
  std::unique_ptr<session> here;
  const writer_kind* kind = nullptr;
  order next;
  while (recv(socket, &next, sizeof next, 0) == static_cast<ssize_t>(sizeof next)) {
    strike_result result;
    const std::uint64_t begin = now_ns();
    switch (next.action) {
      case order::what::prepare:
        here = std::make_unique<session>(target{next.path, next.spare, next.where});
        kind = &writer_kinds()[next.kind];
        if (kind->prepare) result = kind->prepare(*here);
        break;
      case order::what::strike:
        at->begun = next.generation;
        result = kind->strike(*here, next.generation);
        if (!result.error) at->finished = next.generation;
        break;
      case order::what::work:
        result = work(*here, *kind, next.generation, *at);
        break;
      case order::what::finish:
        here.reset();
        break;
      case order::what::quit:
        return;
    }
    reply told;
    told.error = result.error;
    told.unsupported = result.unsupported;
    told.took_ns = now_ns() - begin;
    std::snprintf(told.call, sizeof told.call, "%s", result.call);
    if (send(socket, &told, sizeof told, MSG_NOSIGNAL) != static_cast<ssize_t>(sizeof told)) return;
  }
}

}  // namespace

striker::striker(place where) : where_(where) {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) broken("socketpair");
  const int memory = memfd_create("adversary-progress", MFD_CLOEXEC);
  if (memory < 0 || ftruncate(memory, page_bytes) != 0) broken("memfd_create");
  void* map = mmap(nullptr, page_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
  if (map == MAP_FAILED) broken("mmap");
  progress_ = new (map) progress;
  socket_ = ends[0];
  if (where == place::thread) {
    close(memory);
    thread_ = std::thread([end = ends[1], at = progress_] {
      serve(end, at);
      close(end);
    });
    return;
  }
  char socket_text[16], memory_text[16];
  std::snprintf(socket_text, sizeof socket_text, "%d", ends[1]);
  std::snprintf(memory_text, sizeof memory_text, "%d", memory);
  char self[] = "/proc/self/exe";
  char* const arguments[] = {self, const_cast<char*>(process_word), socket_text, memory_text, nullptr};
  pid_ = fork();
  if (pid_ < 0) broken("fork");
  if (pid_ == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    fcntl(ends[1], F_SETFD, 0);
    fcntl(memory, F_SETFD, 0);
    execv(self, arguments);
    _exit(127);
  }
  close(ends[1]);
  close(memory);
}

striker::~striker() {
  progress_->stop = true;
  order last;
  send(socket_, &last, sizeof last, MSG_NOSIGNAL);
  if (pid_ > 0) {
    kill(pid_, SIGKILL);
    while (waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
    }
  }
  if (thread_.joinable()) thread_.join();
  close(socket_);
  munmap(progress_, page_bytes);
}

answer striker::await(int deadline_ms) {
  answer result;
  pollfd ready{socket_, POLLIN, 0};
  int got;
  do got = poll(&ready, 1, deadline_ms);
  while (got < 0 && errno == EINTR);
  if (got == 0) {
    result.timed_out = true;
    result.result = {ETIMEDOUT, "the writer got no answer from the kernel", false};
    return result;
  }
  static thread_local reply told;  // `call` points into it
  if (recv(socket_, &told, sizeof told, 0) != static_cast<ssize_t>(sizeof told)) {
    result.result = {EPIPE, "the writer is gone", false};
    return result;
  }
  result.result = {told.error, told.call, told.unsupported};
  result.took_ns = told.took_ns;
  return result;
}

answer striker::ask(const void* what, int deadline_ms) {
  if (send(socket_, what, sizeof(order), MSG_NOSIGNAL) != static_cast<ssize_t>(sizeof(order))) {
    answer gone;
    gone.result = {errno, "send to the writer", false};
    return gone;
  }
  return await(deadline_ms);
}

answer striker::prepare(std::size_t kind, const target& at) {
  progress_->begun = 0;
  progress_->finished = 0;
  progress_->slowest_ns = 0;
  progress_->stop = false;
  order next;
  next.action = order::what::prepare;
  next.kind = kind;
  next.where = at.where;
  std::snprintf(next.path, sizeof next.path, "%s", at.path.c_str());
  std::snprintf(next.spare, sizeof next.spare, "%s", at.spare.c_str());
  return ask(&next, 20'000);
}

answer striker::strike(std::uint64_t generation) {
  order next;
  next.action = order::what::strike;
  next.generation = generation;
  return ask(&next, strike_deadline_ms);
}

answer striker::finish() {
  order next;
  next.action = order::what::finish;
  return ask(&next, 20'000);
}

void striker::begin_work(std::uint64_t first) {
  order next;
  next.action = order::what::work;
  next.generation = first;
  if (send(socket_, &next, sizeof next, MSG_NOSIGNAL) != static_cast<ssize_t>(sizeof next)) broken("send");
}

answer striker::end_work() {
  progress_->stop = true;
  return await(strike_deadline_ms);
}

void serve_if_writer_process(int argc, char** argv) {
  if (argc != 4 || std::strcmp(argv[1], process_word) != 0) return;
  const int socket = std::atoi(argv[2]), memory = std::atoi(argv[3]);
  void* map = mmap(nullptr, page_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
  if (map == MAP_FAILED) broken("mmap");
  close(memory);
  fcntl(socket, F_SETFD, FD_CLOEXEC);
  serve(socket, static_cast<progress*>(map));
  _exit(0);
}

}  // namespace adversary
