// SPDX-License-Identifier: Apache-2.0
//
// Runs the tests in a child and stays behind as their supervisor: lease-break-time belongs to the whole
// machine, and must come back to what it was also when a test dies of a signal. Exits with 77 where every
// test was skipped, which ctest counts as skipped and not as passed.
//
// SIGIO is blocked from the start: a lease without F_SETSIG sends it, and its default is to kill.
#include <sys/mman.h>

#include "fixture.hpp"

namespace {

constexpr const char* break_time_path = "/proc/sys/fs/lease-break-time";

/* Shared by the supervisor and the tests. */
struct break_time_record {
  int original;
  bool changed;
};
break_time_record* record = nullptr;

int read_break_time() {
  int value = -1;
  std::ifstream(break_time_path) >> value;
  return value;
}

bool write_break_time(int value) {
  return !(std::ofstream(break_time_path) << value << std::flush).fail();
}

void restore_break_time() {
  if (!record->changed) return;
  if (!write_break_time(record->original)) std::perror(break_time_path);
  record->changed = false;
}

int run_tests() {
  const int code = RUN_ALL_TESTS();
  const auto& unit = *testing::UnitTest::GetInstance();
  if (code == 0 && unit.successful_test_count() == 0 && unit.skipped_test_count() > 0) return 77;
  return code;
}

}  // namespace

namespace facts {

break_time::break_time(int value) {
  if (!record->changed) {
    record->original = read_break_time();
    record->changed = true;
  }
  if (!write_break_time(value)) {
    record->changed = false;
    fail(break_time_path);
  }
}

break_time::~break_time() {
  restore_break_time();
}

}  // namespace facts

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  void* const shared =
      mmap(nullptr, sizeof(break_time_record), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (shared == MAP_FAILED) return 1;
  record = new (shared) break_time_record{};

  const sigset_t io = facts::only(SIGIO);
  sigprocmask(SIG_BLOCK, &io, nullptr);

  const pid_t tests = fork();
  if (tests < 0) return 1;
  if (tests == 0) {
    const int code = run_tests();
    std::fflush(nullptr);
    _exit(code);
  }
  // An interrupted run ends through its child, so that the supervisor always comes to the line that restores.
  signal(SIGINT, SIG_IGN);
  signal(SIGTERM, SIG_IGN);
  int status = 0;
  while (waitpid(tests, &status, 0) < 0 && errno == EINTR) {
  }
  restore_break_time();
  if (WIFEXITED(status)) return WEXITSTATUS(status);
  std::fprintf(stderr, "the tests were killed by signal %d\n", WTERMSIG(status));
  return 128 + WTERMSIG(status);
}
