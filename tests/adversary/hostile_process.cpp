// SPDX-License-Identifier: Apache-2.0
//
// Things that go wrong inside the process that holds leases. Each case is a test whose name is its sentence;
// it runs in a process of its own. The cases stand in hostile_signals.cpp, hostile_forks.cpp,
// hostile_limits.cpp and hostile_interface.cpp; here is what starts them and what restores the machine's
// settings after them.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <fstream>

#include "hostile_case.hpp"

namespace adversary {
namespace {

constexpr const char* case_word = "--hostile-case";
constexpr int case_deadline_s = 60;

// A number under /proc/sys, set for a while.
class machine_setting {
 public:
  machine_setting(const char* path, int value) : path_(path) {
    std::ifstream(path_) >> before_;
    if (value == before_) return;
    changed_ = true;
    write_number(value);
  }
  machine_setting(const machine_setting&) = delete;
  machine_setting& operator=(const machine_setting&) = delete;
  ~machine_setting() {
    if (changed_) write_number(before_);
  }

 private:
  void write_number(int value) {
    std::ofstream out(path_);
    out << value << std::endl;
    if (!out) ADD_FAILURE() << path_ << " cannot be set to " << value;
  }

  const char* path_;
  int before_ = -1;
  bool changed_ = false;
};

// Waits for the case's process; kills it, by its own number, when it does not end.
int result_of(pid_t child) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(case_deadline_s);
  for (;;) {
    int status = 0;
    const pid_t ended = waitpid(child, &status, WNOHANG);
    if (ended == child) return status;
    if (std::chrono::steady_clock::now() > deadline) {
      kill(child, SIGCONT);
      kill(child, SIGKILL);
      waitpid(child, &status, 0);
      return -1;
    }
    poll(nullptr, 0, 2);
  }
}

class hostile : public testing::Test {
 public:
  explicit hostile(std::size_t index) : index_(index) {}

  void TestBody() override {
    const hostile_case& one = hostile_cases()[index_];
    if (getuid() != 0) GTEST_SKIP() << "not root";
    const machine_setting time("/proc/sys/fs/lease-break-time", one.lease_break_time);
    const machine_setting leases("/proc/sys/fs/leases-enable", one.leases_enabled ? 1 : 0);
    std::fflush(nullptr);
    const std::string number = std::to_string(index_);
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      execl("/proc/self/exe", "hostile_process", case_word, number.c_str(), nullptr);
      _exit(127);
    }
    const int status = result_of(child);
    if (status == -1) {
      FAIL() << "did not end within " << case_deadline_s << " s";
    } else if (WIFSIGNALED(status)) {
      FAIL() << "killed by signal " << WTERMSIG(status) << " (" << strsignal(WTERMSIG(status)) << ")";
    } else if (WEXITSTATUS(status) == 77) {
      ++skipped;
      GTEST_SKIP() << "for the reason above";
    } else {
      EXPECT_EQ(WEXITSTATUS(status), 0) << one.sentence;
    }
  }

  static int skipped;

 private:
  std::size_t index_;
};

int hostile::skipped = 0;

std::string as_test_name(std::string sentence) {
  for (char& c : sentence) {
    if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
  }
  return sentence;
}

}  // namespace
}  // namespace adversary

int main(int argc, char** argv) {
  using namespace adversary;
  serve_if_writer_process(argc, argv);
  if (argc == 3 && std::strcmp(argv[1], case_word) == 0) {
    install_fault_handlers();
    hostile_cases()[static_cast<std::size_t>(std::atoi(argv[2]))].run();
    std::exit(case_result());
  }
  if (getuid() != 0) {
    std::printf("skip: not root: users, limits and settings cannot be changed\n");
    return 77;
  }
  testing::InitGoogleTest(&argc, argv);
  for (std::size_t i = 0; i < hostile_cases().size(); ++i) {
    testing::RegisterTest("hostile_process", as_test_name(hostile_cases()[i].sentence).c_str(), nullptr,
                          nullptr, __FILE__, __LINE__, [i]() -> testing::Test* { return new hostile(i); });
  }
  const int result = RUN_ALL_TESTS();
  std::printf("%zu cases, %d skipped\n", hostile_cases().size(), hostile::skipped);
  return result;
}
