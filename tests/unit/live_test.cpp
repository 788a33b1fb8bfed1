// SPDX-License-Identifier: Apache-2.0
//
// Live views, with a second process at the other end: what it writes is seen, what it truncates is an error
// of the copy and no signal, and orders hold between the two. tests/compile/ has what must not compile.
#include <errno.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stillmap/stillmap.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <stillmap/live.hpp>

#include <array>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <limits>
#include <string>
#include <utility>
#include <vector>

namespace {

namespace live = stillmap::live;
using stillmap::live::mode;

const std::size_t page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));

#if defined(__SANITIZE_THREAD__)
constexpr bool thread_sanitizer = true;
#elif defined(__has_feature)
constexpr bool thread_sanitizer = __has_feature(thread_sanitizer);
#else
constexpr bool thread_sanitizer = false;
#endif

// A process of ours that runs `body`, whose result is its exit status, and dies with us.
pid_t start(const std::function<int()>& body) {
  const pid_t child = ::fork();
  if (child != 0) return child;
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  ::_exit(body());
}
int status_of(pid_t child) {
  int status = -1;
  return ::waitpid(child, &status, 0) == child ? status : -1;
}
int run(const std::function<int()>& body) {
  return status_of(start(body));
}

// The code of the stillmap::error that `body` throws; 0 for none.
int thrown(const std::function<void()>& body) {
  try {
    body();
  } catch (const stillmap::error& error) {
    EXPECT_EQ(error.code().category(), std::generic_category());
    return error.code().value();
  }
  return 0;
}

class descriptor {
 public:
  explicit descriptor(int number) : number_(number) {}
  descriptor(const descriptor&) = delete;
  descriptor& operator=(const descriptor&) = delete;
  ~descriptor() { ::close(number_); }
  operator int() const { return number_; }

 private:
  int number_;
};

int memory_file(std::size_t bytes, unsigned flags = MFD_CLOEXEC) {
  const int fd = ::memfd_create("stillmap-live", flags);
  EXPECT_EQ(::ftruncate(fd, static_cast<off_t>(bytes)), 0);
  return fd;
}

bool mapped(const std::string& name) {
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);)
    if (line.find(name) != std::string::npos) return true;
  return false;
}

// Each kind of file that another process can change and truncate.
class LiveFile : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (std::string(GetParam()) == "memfd") {
      fd_ = memory_file(0);
    } else {
      const char* const folder = std::getenv(GetParam());
      if (folder == nullptr) GTEST_SKIP() << GetParam() << " is not set";
      path_ = std::string(folder) + "/live";
      fd_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    }
    ASSERT_GE(fd_, 0);
    const std::string bytes(4 * page, 'a');
    ASSERT_EQ(::pwrite(fd_, bytes.data(), bytes.size(), 0), static_cast<ssize_t>(bytes.size()));
  }
  void TearDown() override {
    if (fd_ >= 0) ::close(fd_);
    if (!path_.empty()) ::unlink(path_.c_str());
  }

  int truncate_elsewhere(std::size_t bytes) const {
    return run([&] { return ::ftruncate(fd_, static_cast<off_t>(bytes)); });
  }

  int fd_ = -1;
  std::string path_;
};

TEST_P(LiveFile, ShowsInEveryViewWhatAnotherProcessWrites) {
  const live::mapping shared = live::mapping::from_fd(fd_, mode::read);
  ASSERT_EQ(shared.size(), 4 * page);
  const live::atomic_bytes atomics = shared.as_atomic_bytes();
  const live::cell_bytes cells = shared.as_cell_bytes();
  const live::registers words = shared.as_registers();
  EXPECT_EQ(atomics.load(page), std::byte{'a'});
  ASSERT_EQ(run([&] { return ::pwrite(fd_, "bcdefghi", 8, static_cast<off_t>(page)) == 8 ? 0 : 1; }), 0);
  EXPECT_EQ(atomics.load(page), std::byte{'b'});
  EXPECT_EQ(atomics.load<char>(page + 1), 'c');
  EXPECT_EQ(atomics.load<std::uint32_t>(page + 4), 0x69686766u);
  EXPECT_EQ(cells.get(page + 2), std::byte{'d'});
  EXPECT_EQ(cells.get<std::uint16_t>(page + 1), 0x6463u) << "cells need no alignment";
  EXPECT_EQ(words.read<std::uint64_t>(page), 0x6968676665646362u);
  EXPECT_EQ(words.read<std::uint8_t>(page + 3), 'e');
  for (const auto copy : {+[](const live::mapping&m, std::span<std::byte> to, std::error_code&ec) {
                            return m.as_atomic_bytes().copy_to(page - 4, to, ec);
                          },
                          +[](const live::mapping&m, std::span<std::byte> to, std::error_code&ec) {
                            return m.as_cell_bytes().copy_to(page - 4, to, ec);
                          },
                          +[](const live::mapping&m, std::span<std::byte> to, std::error_code&ec) {
                            return m.as_registers().copy_to(page - 4, to, ec);
                          }}) {
    std::array<char, 12> copied{};
    std::error_code ec = std::make_error_code(std::errc::io_error);
    EXPECT_EQ(copy(shared, std::as_writable_bytes(std::span(copied)), ec), 12u);
    EXPECT_FALSE(ec) << ec.message();
    EXPECT_EQ(std::string(copied.data(), copied.size()), "aaaabcdefghi");
  }
}

TEST_P(LiveFile, AnotherProcessReadsWhatEveryViewWrites) {
  live::mapping shared = live::mapping::from_fd(fd_, mode::read_write);
  shared.as_writable_atomic_bytes().store(0, std::byte{'A'});
  shared.as_writable_atomic_bytes().store<std::uint16_t>(2, 0x4342);
  shared.as_writable_cell_bytes().set<std::uint16_t>(5, 0x4544);
  shared.as_writable_registers().write<std::uint32_t>(8, 0x49484746);
  std::error_code ec;
  const std::string copied = "JKLM";
  EXPECT_EQ(shared.as_writable_atomic_bytes().copy_from(12, std::as_bytes(std::span(copied)), ec), 4u);
  EXPECT_EQ(shared.as_writable_cell_bytes().copy_from(16, std::as_bytes(std::span(copied)), ec), 4u);
  EXPECT_EQ(shared.as_writable_registers().copy_from(20, std::as_bytes(std::span(copied)), ec), 4u);
  EXPECT_FALSE(ec) << ec.message();
  EXPECT_EQ(run([&] {
              char bytes[24];
              if (::pread(fd_, bytes, sizeof bytes, 0) != sizeof bytes) return 1;
              return std::memcmp(bytes, "AaBCaDEaFGHIJKLMJKLMJKLM", sizeof bytes) == 0 ? 0 : 2;
            }),
            0);
}

TEST_P(LiveFile, ACopyFromATruncatedFileIsAnErrorAndNoSignal) {
  live::mapping shared = live::mapping::from_fd(fd_, mode::read_write);
  const live::writable_atomic_bytes atomics = shared.as_writable_atomic_bytes();
  ASSERT_EQ(truncate_elsewhere(page + 100), 0);

  std::vector<std::byte> copied(4 * page, std::byte{'?'});
  std::error_code ec;
  EXPECT_EQ(atomics.copy_to(0, copied, ec), 2 * page) << "up to the end of the last page";
  EXPECT_EQ(ec, std::errc::bad_address);
  for (std::size_t i = 0; i < copied.size(); ++i)
    ASSERT_EQ(copied[i], std::byte(i < page + 100 ? 'a' : i < 2 * page ? 0 : '?')) << i;

  EXPECT_EQ(atomics.copy_to(3 * page, std::span(copied).first(10), ec), 0u);
  EXPECT_EQ(ec, std::errc::bad_address);
  EXPECT_EQ(shared.as_cell_bytes().copy_to(page, std::span(copied).first(2 * page), ec), page);
  EXPECT_EQ(ec, std::errc::bad_address);
  EXPECT_EQ(shared.as_registers().copy_to(page, std::span(copied).first(2 * page), ec), page);
  EXPECT_EQ(ec, std::errc::bad_address);

  EXPECT_EQ(atomics.copy_from(page, std::span(copied).first(2 * page), ec), page);
  EXPECT_EQ(ec, std::errc::bad_address);
  EXPECT_EQ(shared.as_writable_cell_bytes().copy_from(3 * page, std::span(copied).first(1), ec), 0u);
  EXPECT_EQ(ec, std::errc::bad_address);
  EXPECT_EQ(shared.as_writable_registers().copy_from(3 * page, std::span(copied).first(4), ec), 0u);
  EXPECT_EQ(ec, std::errc::bad_address);

  ASSERT_EQ(truncate_elsewhere(4 * page), 0);
  EXPECT_EQ(atomics.copy_to(0, copied, ec), 4 * page) << "grown again, all of it is there";
  EXPECT_FALSE(ec);
}

TEST_P(LiveFile, CopiesBearAFileThatIsTruncatedAndGrownAllTheTime) {
  live::mapping shared = live::mapping::from_fd(fd_, mode::read_write);
  const pid_t truncater = start([&] {
    for (;;)
      if (::ftruncate(fd_, static_cast<off_t>(page)) != 0 ||
          ::ftruncate(fd_, static_cast<off_t>(4 * page)) != 0)
        return 1;
  });
  std::vector<std::byte> copied(4 * page);
  bool whole = false, cut = false;
  // As many copies as it takes to meet both, which tests/CMakeLists.txt bounds.
  for (int i = 0; i < 2000 || !whole || !cut; ++i) {
    std::error_code ec;
    const std::size_t count = i % 2 == 0 ? shared.as_atomic_bytes().copy_to(0, copied, ec)
                                         : shared.as_writable_atomic_bytes().copy_from(0, copied, ec);
    ASSERT_EQ(count < copied.size(), static_cast<bool>(ec));
    if (ec) {
      ASSERT_EQ(ec, std::errc::bad_address);
      ASSERT_GE(count, page) << "the first page is never gone";
    }
    (ec ? cut : whole) = true;
  }
  ::kill(truncater, SIGKILL);
  EXPECT_TRUE(WIFSIGNALED(status_of(truncater)));
}

TEST_P(LiveFile, ASingleAccessBehindTheEndIsASignalAsDocumented) {
  const live::mapping shared = live::mapping::from_fd(fd_, mode::read);
  ASSERT_EQ(truncate_elsewhere(page), 0);
  const int status = run([&] {
    ::signal(SIGBUS, SIG_DFL);
    return static_cast<int>(shared.as_atomic_bytes().load(page));
  });
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS) << status;
}

INSTANTIATE_TEST_SUITE_P(, LiveFile, testing::Values("memfd", "STILLMAP_TEST_EXT4", "STILLMAP_TEST_TMPFS"),
                         [](const auto& one) {
                           const std::string name = one.param;
                           return name.substr(name.rfind('_') + 1);
                         });

TEST(LiveOrders, AReleaseIsAcquiredByAnotherProcess) {
  const descriptor fd(memory_file(2 * page));
  constexpr std::uint32_t rounds = 2'000;
  constexpr std::size_t words = 8;
  // Word 0 is whose turn it is, the message stands in the second page.
  const auto wait_for = [](const live::atomic_bytes& bytes, std::uint32_t turn) {
    while (bytes.load<std::uint32_t>(0, std::memory_order_acquire) != turn) ::sched_yield();
  };
  const pid_t child = start([&] {
    live::mapping shared = live::mapping::from_fd(fd, mode::read_write);
    const live::writable_atomic_bytes bytes = shared.as_writable_atomic_bytes();
    for (std::uint32_t i = 1; i <= rounds; ++i) {
      for (std::size_t w = 0; w < words; ++w) bytes.store<std::uint64_t>(page + 8 * w, i * (w + 1));
      bytes.store<std::uint32_t>(0, 2 * i - 1, std::memory_order_release);
      wait_for(bytes, 2 * i);
    }
    return 0;
  });
  live::mapping shared = live::mapping::from_fd(fd, mode::read_write);
  const live::writable_atomic_bytes bytes = shared.as_writable_atomic_bytes();
  std::size_t wrong = 0;
  for (std::uint32_t i = 1; i <= rounds; ++i) {
    wait_for(bytes, 2 * i - 1);
    for (std::size_t w = 0; w < words; ++w) wrong += bytes.load<std::uint64_t>(page + 8 * w) != i * (w + 1);
    bytes.store<std::uint32_t>(0, 2 * i, std::memory_order_release);
  }
  EXPECT_EQ(wrong, 0u);
  EXPECT_EQ(status_of(child), 0);
}

TEST(LiveOrders, NoSumAndNoExchangeIsLostBetweenProcesses) {
  const descriptor fd(memory_file(page));
  constexpr std::uint64_t rounds = 20'000;
  const auto count = [&] {
    live::mapping shared = live::mapping::from_fd(fd, mode::read_write);
    const live::writable_atomic_bytes bytes = shared.as_writable_atomic_bytes();
    for (std::uint64_t i = 0; i < rounds; ++i) {
      bytes.fetch_add<std::int64_t>(0, -3);
      std::uint16_t seen = bytes.load<std::uint16_t>(8);
      while (
          !bytes.compare_exchange(8, seen, static_cast<std::uint16_t>(seen + 1), std::memory_order_acq_rel)) {
      }
    }
    return 0;
  };
  const pid_t child = start(count);
  count();
  EXPECT_EQ(status_of(child), 0);
  const live::mapping shared = live::mapping::from_fd(fd, mode::read);
  EXPECT_EQ(shared.as_atomic_bytes().load<std::int64_t>(0), -6 * std::int64_t{rounds});
  EXPECT_EQ(shared.as_atomic_bytes().load<std::uint16_t>(8), static_cast<std::uint16_t>(2 * rounds));
}

TEST(LiveOrders, AnOrderThatTheOperationCannotHaveIsRefused) {
  const descriptor fd(memory_file(page));
  live::mapping shared = live::mapping::from_fd(fd, mode::read_write);
  const live::writable_atomic_bytes bytes = shared.as_writable_atomic_bytes();
  std::error_code ec;
  for (const auto order : {std::memory_order_release, std::memory_order_acq_rel}) {
    bytes.load(0, order, ec);
    EXPECT_EQ(ec, std::errc::invalid_argument);
    EXPECT_EQ(thrown([&] { bytes.load(0, order); }), EINVAL);
  }
  for (const auto order : {std::memory_order_acquire, std::memory_order_consume, std::memory_order_acq_rel}) {
    bytes.store(0, std::byte{1}, order, ec);
    EXPECT_EQ(ec, std::errc::invalid_argument);
    EXPECT_EQ(thrown([&] { bytes.store(0, std::byte{1}, order); }), EINVAL);
  }
  EXPECT_EQ(bytes.load(0), std::byte{0});
  for (const auto order : {std::memory_order_relaxed, std::memory_order_consume, std::memory_order_acquire,
                           std::memory_order_release, std::memory_order_acq_rel, std::memory_order_seq_cst}) {
    std::uint8_t expected = 9;
    EXPECT_FALSE(bytes.compare_exchange<std::uint8_t>(0, expected, 1, order, ec));
    EXPECT_FALSE(ec);
    EXPECT_EQ(expected, 0) << "what was there";
    EXPECT_EQ(bytes.fetch_add<std::uint8_t>(0, 0, order, ec), 0);
    EXPECT_FALSE(ec);
  }
  bytes.fetch_add<std::uint8_t>(0, 1, static_cast<std::memory_order>(77), ec);
  EXPECT_EQ(ec, std::errc::invalid_argument);
}

TEST(LiveRange, WhatIsBeyondTheViewIsRefusedAndChangesNothing) {
  const descriptor fd(memory_file(page));
  live::mapping shared = live::mapping::from_fd(fd, mode::read_write, 0, 16);
  const live::writable_atomic_bytes atomics = shared.as_writable_atomic_bytes();
  const live::writable_cell_bytes cells = shared.as_writable_cell_bytes();
  const live::writable_registers words = shared.as_writable_registers();
  constexpr std::size_t last = std::numeric_limits<std::size_t>::max();
  constexpr auto relaxed = std::memory_order_relaxed;
  std::uint64_t expected = 0;
  std::array<std::byte, 8> eight{};
  for (const std::size_t offset :
       {std::size_t{9}, std::size_t{12}, std::size_t{16}, std::size_t{24}, last - 7, last}) {
    SCOPED_TRACE(offset);
    const std::vector<std::function<void(std::error_code&)>> twins = {
        [&](std::error_code& ec) { EXPECT_EQ(atomics.load<std::uint64_t>(offset, relaxed, ec), 0u); },
        [&](std::error_code& ec) { atomics.store<std::uint64_t>(offset, 1, relaxed, ec); },
        [&](std::error_code& ec) { atomics.fetch_add<std::uint64_t>(offset, 1, relaxed, ec); },
        [&](std::error_code& ec) {
          atomics.compare_exchange<std::uint64_t>(offset, expected, 1, relaxed, ec);
        },
        [&](std::error_code& ec) { EXPECT_EQ(cells.get<std::uint64_t>(offset, ec), 0u); },
        [&](std::error_code& ec) { cells.set<std::uint64_t>(offset, 1, ec); },
        [&](std::error_code& ec) { EXPECT_EQ(words.read<std::uint64_t>(offset, ec), 0u); },
        [&](std::error_code& ec) { words.write<std::uint64_t>(offset, 1, ec); },
        [&](std::error_code& ec) { EXPECT_EQ(atomics.copy_to(offset, eight, ec), 0u); },
        [&](std::error_code& ec) { EXPECT_EQ(cells.copy_to(offset, eight, ec), 0u); },
        [&](std::error_code& ec) { EXPECT_EQ(words.copy_to(offset, eight, ec), 0u); },
        [&](std::error_code& ec) { EXPECT_EQ(atomics.copy_from(offset, eight, ec), 0u); },
        [&](std::error_code& ec) { EXPECT_EQ(cells.copy_from(offset, eight, ec), 0u); },
        [&](std::error_code& ec) { EXPECT_EQ(words.copy_from(offset, eight, ec), 0u); },
    };
    for (std::size_t i = 0; i < twins.size(); ++i) {
      std::error_code ec;
      twins[i](ec);
      EXPECT_EQ(ec, std::errc::result_out_of_range) << i;
    }
    const std::vector<std::function<void()>> throwing = {
        [&] { atomics.load<std::uint64_t>(offset); },
        [&] { atomics.store<std::uint64_t>(offset, 1); },
        [&] { atomics.fetch_add<std::uint64_t>(offset, 1); },
        [&] { atomics.compare_exchange<std::uint64_t>(offset, expected, 1); },
        [&] { cells.get<std::uint64_t>(offset); },
        [&] { cells.set<std::uint64_t>(offset, 1); },
        [&] { words.read<std::uint64_t>(offset); },
        [&] { words.write<std::uint64_t>(offset, 1); },
    };
    for (std::size_t i = 0; i < throwing.size(); ++i) EXPECT_EQ(thrown(throwing[i]), ERANGE) << i;
  }
  std::array<std::byte, 32> bytes{};
  EXPECT_EQ(::pread(fd, bytes.data(), bytes.size(), 0), 32);
  EXPECT_EQ(bytes, (std::array<std::byte, 32>{}));
  std::error_code ec;
  EXPECT_EQ(atomics.copy_to(16, {}, ec), 0u);
  EXPECT_FALSE(ec) << "nothing, at the end";
}

TEST(LiveRange, WhatIsMisalignedIsRefusedAsCountedFromTheStartOfTheFile) {
  const descriptor fd(memory_file(2 * page));
  // The view begins at an odd place, and not on the first page.
  live::mapping shared = live::mapping::from_fd(fd, mode::read_write, page + 3, 61);
  ASSERT_EQ(shared.size(), 61u);
  const live::writable_atomic_bytes atomics = shared.as_writable_atomic_bytes();
  const live::writable_registers words = shared.as_writable_registers();
  std::error_code ec;
  std::uint32_t expected = 0;
  for (std::size_t offset = 0; offset + 8 <= 61; ++offset) {
    const int number = (offset + 3) % 4 == 0 ? 0 : EINVAL;
    atomics.load<std::uint32_t>(offset, std::memory_order_relaxed, ec);
    EXPECT_EQ(ec.value(), number) << offset;
    atomics.store<std::uint32_t>(offset, 0, std::memory_order_relaxed, ec);
    EXPECT_EQ(ec.value(), number) << offset;
    atomics.fetch_add<std::uint32_t>(offset, 0, std::memory_order_relaxed, ec);
    EXPECT_EQ(ec.value(), number) << offset;
    atomics.compare_exchange<std::uint32_t>(offset, expected, 0, std::memory_order_relaxed, ec);
    EXPECT_EQ(ec.value(), number) << offset;
    words.read<std::uint32_t>(offset, ec);
    EXPECT_EQ(ec.value(), number) << offset;
    words.write<std::uint32_t>(offset, 0, ec);
    EXPECT_EQ(ec.value(), number) << offset;
    EXPECT_EQ(thrown([&] { atomics.load<std::uint32_t>(offset); }), number);
    EXPECT_EQ(thrown([&] { words.read<std::uint32_t>(offset); }), number);
    EXPECT_EQ(thrown([&] { words.write<std::uint64_t>(offset, 0); }), (offset + 3) % 8 == 0 ? 0 : EINVAL);
    EXPECT_EQ(thrown([&] { shared.as_cell_bytes().get<std::uint64_t>(offset); }), 0);
  }
  std::array<std::byte, 6> six{};
  EXPECT_EQ(words.copy_to(1, six, ec), 0u);
  EXPECT_EQ(ec, std::errc::invalid_argument) << "no whole words";
  EXPECT_EQ(words.copy_from(0, std::span(six).first(4), ec), 0u);
  EXPECT_EQ(ec, std::errc::invalid_argument) << "no word begins there";
  EXPECT_EQ(words.copy_from(1, std::span(six).first(4), ec), 4u);
  EXPECT_FALSE(ec);

  ASSERT_EQ(::pwrite(fd, "x", 1, static_cast<off_t>(page + 3)), 1);
  EXPECT_EQ(atomics.load<char>(0), 'x');
}

TEST(LiveValues, OfEveryWidthComeBackAsTheyWere) {
  enum class colour : std::uint16_t { red = 0xabcd };
  struct pair {
    std::int32_t left;
    std::uint32_t right;
  };
  const descriptor fd(memory_file(page));
  live::mapping shared = live::mapping::from_fd(fd, mode::read_write);
  const live::writable_atomic_bytes atomics = shared.as_writable_atomic_bytes();
  const live::writable_cell_bytes cells = shared.as_writable_cell_bytes();
  atomics.store<double>(0, -1.5);
  atomics.store<colour>(8, colour::red);
  atomics.store<pair>(16, {-7, 8});
  cells.set<float>(33, 2.25f);
  EXPECT_EQ(atomics.load<double>(0), -1.5);
  EXPECT_EQ(cells.get<double>(0), -1.5);
  EXPECT_EQ(atomics.load<colour>(8), colour::red);
  EXPECT_EQ(atomics.load<pair>(16).left, -7);
  EXPECT_EQ(atomics.load<pair>(16).right, 8u);
  EXPECT_EQ(cells.get<float>(33), 2.25f);
  std::int8_t expected = 0;
  EXPECT_EQ(atomics.fetch_add<std::int8_t>(40, -128), 0);
  EXPECT_EQ(atomics.fetch_add<std::int8_t>(40, -1), -128);
  EXPECT_FALSE(atomics.compare_exchange<std::int8_t>(40, expected, 1));
  EXPECT_EQ(expected, 127) << "wrapped around";
  EXPECT_TRUE(atomics.compare_exchange<std::int8_t>(40, expected, 1));
  EXPECT_EQ(atomics.load<std::int8_t>(40), 1);
}

TEST(LiveMapping, ThatIsReadOnlyRefusesToBeWritten) {
  const descriptor fd(memory_file(page));
  live::mapping shared = live::mapping::from_fd(fd, mode::read);
  EXPECT_FALSE(shared.writable());
  std::error_code ec;
  EXPECT_TRUE(shared.as_writable_atomic_bytes(ec).empty());
  EXPECT_EQ(ec, std::errc::permission_denied);
  ec.clear();
  EXPECT_TRUE(shared.as_writable_cell_bytes(ec).empty());
  EXPECT_EQ(ec, std::errc::permission_denied);
  ec.clear();
  EXPECT_TRUE(shared.as_writable_registers(ec).empty());
  EXPECT_EQ(ec, std::errc::permission_denied);
  EXPECT_EQ(thrown([&] { shared.as_writable_atomic_bytes(); }), EACCES);
  EXPECT_EQ(thrown([&] { shared.as_writable_cell_bytes(); }), EACCES);
  EXPECT_EQ(thrown([&] { shared.as_writable_registers(); }), EACCES);

  const descriptor reading(::open(("/proc/self/fd/" + std::to_string(fd)).c_str(), O_RDONLY | O_CLOEXEC));
  EXPECT_EQ(live::mapping::from_fd(reading, mode::read_write, 0, 0, ec).size(), 0u);
  EXPECT_EQ(ec, std::errc::permission_denied);

  const descriptor sealed(memory_file(page, MFD_CLOEXEC | MFD_ALLOW_SEALING));
  ASSERT_EQ(::fcntl(sealed, F_ADD_SEALS, F_SEAL_WRITE), 0);
  live::mapping::from_fd(sealed, mode::read_write, 0, 0, ec);
  EXPECT_EQ(ec, std::errc::operation_not_permitted);
}

TEST(LiveMapping, SaysWhyItCannotBeMade) {
  const descriptor fd(memory_file(page));
  std::error_code ec;
  constexpr std::uint64_t huge = std::numeric_limits<std::uint64_t>::max();
  const auto refusal = [&](int from, std::uint64_t offset, std::uint64_t length) {
    const live::mapping none = live::mapping::from_fd(from, mode::read, offset, length, ec);
    EXPECT_EQ(none.size(), 0u);
    EXPECT_EQ(thrown([&] { live::mapping::from_fd(from, mode::read, offset, length); }), ec.value());
    return ec.value();
  };
  EXPECT_EQ(refusal(-1, 0, 0), EBADF);
  EXPECT_EQ(refusal(fd, page + 1, 0), ERANGE);
  EXPECT_EQ(refusal(fd, 1, page), ERANGE);
  EXPECT_EQ(refusal(fd, 1, huge), EOVERFLOW);
  EXPECT_EQ(refusal(fd, huge, 0), EOVERFLOW);
  EXPECT_EQ(refusal(fd, page, 0), 0) << "nothing, at the end";

  live::mapping::open("/there is no such file", mode::read, ec);
  EXPECT_EQ(ec, std::errc::no_such_file_or_directory);
  live::mapping::open(std::string("/"), mode::read, ec);
  EXPECT_EQ(ec, std::errc::is_a_directory);
  try {
    live::mapping::open(std::string("/there is no such file"), mode::read);
    ADD_FAILURE();
  } catch (const stillmap::error& error) {
    EXPECT_STREQ(error.what(), "stillmap: cannot map /there is no such file live: No such file or directory");
  }
  live::mapping::open("/dev/null", mode::read, ec);
  EXPECT_EQ(ec, std::errc::invalid_argument) << "a device has no end to map to";
  const descriptor null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  EXPECT_EQ(refusal(null, 0, page), ENODEV);
}

TEST(LiveMapping, OfAnEmptyFileIsEmpty) {
  const descriptor fd(memory_file(0));
  live::mapping shared = live::mapping::from_fd(fd, mode::read_write);
  EXPECT_TRUE(shared.writable());
  const live::writable_atomic_bytes bytes = shared.as_writable_atomic_bytes();
  EXPECT_TRUE(bytes.empty());
  EXPECT_EQ(thrown([&] { bytes.load(0); }), ERANGE);
}

TEST(LiveMapping, IsUnmappedByItsLastOwnerAlone) {
  const descriptor fd(memory_file(3 * page));
  ASSERT_EQ(::pwrite(fd, "m", 1, static_cast<off_t>(page + 1)), 1);
  {
    live::mapping first = live::mapping::from_fd(fd, mode::read_write, page + 1, page);
    const live::atomic_bytes bytes = first.as_atomic_bytes();
    live::mapping second = std::move(first);
    EXPECT_EQ(first.size(), 0u);
    EXPECT_FALSE(first.writable());
    EXPECT_TRUE(first.as_atomic_bytes().empty());
    EXPECT_TRUE(first.as_cell_bytes().empty());
    EXPECT_TRUE(first.as_registers().empty());
    std::error_code ec;
    EXPECT_TRUE(first.as_writable_atomic_bytes(ec).empty());
    EXPECT_EQ(ec, std::errc::permission_denied);
    EXPECT_EQ(bytes.load<char>(0), 'm') << "views stay valid";

    live::mapping& self = second;
    second = std::move(self);
    EXPECT_EQ(second.size(), page);
    EXPECT_TRUE(second.writable());
    EXPECT_EQ(bytes.load<char>(0), 'm');

    second = live::mapping();
    EXPECT_FALSE(mapped("stillmap-live")) << "what was assigned over is unmapped";
    second = live::mapping::from_fd(fd, mode::read);
    EXPECT_TRUE(mapped("stillmap-live"));
  }
  EXPECT_FALSE(mapped("stillmap-live"));
}

TEST(LiveMapping, ThatIsWritableCountsAsAWriterOfItsFile) {
  const char* const folder = std::getenv("STILLMAP_TEST_EXT4");
  if (folder == nullptr) GTEST_SKIP() << "STILLMAP_TEST_EXT4 is not set";
  const std::string path = std::string(folder) + "/live-writer";
  std::ofstream(path) << std::string(10'000, 'a');
  still_options leased{};
  leased.size = sizeof leased;
  leased.backing = STILL_LEASED;
  still_snapshot* one = nullptr;
  {
    const live::mapping reading = live::mapping::open(path, mode::read);
    ASSERT_EQ(still_open(path.c_str(), &leased, &one), 0) << still_message();
    still_close(one);
  }
  {
    const live::mapping writing = live::mapping::open(path, mode::read_write);
    EXPECT_EQ(still_open(path.c_str(), &leased, &one), STILL_ERROR_BUSY_WRITER);
  }
  ASSERT_EQ(still_open(path.c_str(), &leased, &one), 0) << still_message();
  still_close(one);
  ::unlink(path.c_str());
}

// hugetlbfs maps and unmaps in huge pages.
TEST(LiveMapping, OfHugePagesIsUnmappedToo) {
  const descriptor fd(::memfd_create("stillmap-huge", MFD_CLOEXEC | MFD_HUGETLB));
  if (fd < 0 || ::ftruncate(fd, 2 << 20) != 0) GTEST_SKIP() << "no huge pages: " << std::strerror(errno);
  {
    std::error_code ec;
    live::mapping shared = live::mapping::from_fd(fd, mode::read_write, page + 8, 100, ec);
    if (ec) GTEST_SKIP() << "no huge pages: " << ec.message();
    shared.as_writable_atomic_bytes().store<std::uint64_t>(0, 7);
    EXPECT_TRUE(mapped("stillmap-huge"));
    std::uint64_t seen = 0;
    EXPECT_EQ(shared.as_atomic_bytes().copy_to(0, std::as_writable_bytes(std::span(&seen, 1)), ec), 8u);
    EXPECT_EQ(seen, 7u);
  }
  EXPECT_FALSE(mapped("stillmap-huge"));
}

// /dev/zero stands for a device whose memory is to be had on every machine.
TEST(LiveDevice, IsCopiedInWholeWords) {
  const descriptor fd(::open("/dev/zero", O_RDWR | O_CLOEXEC));
  ASSERT_GE(fd, 0);
  live::mapping device = live::mapping::from_fd(fd, mode::read_write, 0, 64);
  const live::writable_registers words = device.as_writable_registers();
  words.write<std::uint8_t>(0, 1);
  words.write<std::uint16_t>(2, 0x0302);
  words.write<std::uint32_t>(4, 0x07060504);
  words.write<std::uint64_t>(8, 0x0f0e0d0c0b0a0908);
  EXPECT_EQ(words.read<std::uint64_t>(0), 0x0706050403020001u);
  std::array<std::uint32_t, 3> copied{};
  std::error_code ec;
  EXPECT_EQ(words.copy_to(4, std::as_writable_bytes(std::span(copied)), ec), 12u);
  EXPECT_FALSE(ec) << ec.message();
  EXPECT_EQ(copied, (std::array<std::uint32_t, 3>{0x07060504, 0x0b0a0908, 0x0f0e0d0c}));
  EXPECT_EQ(words.copy_from(32, std::as_bytes(std::span(copied)), ec), 12u);
  EXPECT_EQ(words.read<std::uint32_t>(40), 0x0f0e0d0cu);
  EXPECT_EQ(words.copy_to(2, std::as_writable_bytes(std::span(copied)), ec), 0u);
  EXPECT_EQ(ec, std::errc::invalid_argument);
  EXPECT_EQ(words.copy_to(56, std::as_writable_bytes(std::span(copied)), ec), 0u);
  EXPECT_EQ(ec, std::errc::result_out_of_range);
}

TEST(LiveCopy, WorksAfterTheMainThreadHasLeft) {
  if (thread_sanitizer) GTEST_SKIP() << "the thread sanitizer cannot join a main thread";
  const int status = run([] {
    static const int fd = memory_file(page);
    // The process's exit status is that of the thread that stays.
    static const pthread_t first = ::pthread_self();
    pthread_t other;
    ::pthread_create(
        &other, nullptr,
        +[](void*) -> void* {
          ::pthread_join(first, nullptr);
          std::error_code ec;
          const live::mapping shared = live::mapping::from_fd(fd, mode::read, 0, 0, ec);
          std::array<std::byte, 8> copied{};
          const std::size_t count = shared.as_atomic_bytes().copy_to(0, copied, ec);
          ::_exit(count == copied.size() && !ec ? 0 : 1);
        },
        nullptr);
    return static_cast<int>(::syscall(SYS_exit, 0));  // this thread alone
  });
  EXPECT_EQ(status, 0);
}

TEST(LiveCopy, GivesTheErrorBackWhereTheSystemCallIsForbidden) {
  for (const int number : {EPERM, ENOSYS}) {
    const int status = run([&] {
      const int fd = memory_file(page);
      live::mapping shared = live::mapping::from_fd(fd, mode::read_write);
      sock_filter rules[] = {
          BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
          BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_process_vm_readv, 1, 0),
          BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_process_vm_writev, 0, 1),
          BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | static_cast<unsigned>(number)),
          BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
      };
      const sock_fprog program{std::size(rules), rules};
      if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || ::prctl(PR_SET_SECCOMP, 2, &program) != 0)
        return 1;
      std::array<std::byte, 8> bytes{};
      std::error_code ec;
      if (shared.as_atomic_bytes().copy_to(0, bytes, ec) != 0 || ec.value() != number) return 2;
      if (shared.as_writable_cell_bytes().copy_from(0, bytes, ec) != 0 || ec.value() != number) return 3;
      return shared.as_atomic_bytes().load(0) == std::byte{0} ? 0 : 4;
    });
    EXPECT_EQ(status, 0);
  }
}

}  // namespace
