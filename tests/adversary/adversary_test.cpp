// SPDX-License-Identifier: Apache-2.0
//
// Writers of every kind, from another process and from this one, against every way of holding a file still,
// on every file system at hand, while several threads read every byte.
//
// One test for each pair of writer and file system. It does a fixed set of combinations (ways x places x a
// small and a large size), then more, in an order that rotates through sizes and variants, until its share of
// the time is used: $STILLMAP_ADVERSARY_SECONDS for the whole run, $STILLMAP_ADVERSARY_TURN to begin
// elsewhere in the rotation. The canaries hold files by plain mmap and must see harm: a harness that finds
// nothing proves nothing.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <malloc.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>

#include "combination.hpp"
#include "leaks.hpp"

namespace adversary {
namespace {

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr bool sanitized = true;
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer) || __has_feature(address_sanitizer)
constexpr bool sanitized = true;
#else
constexpr bool sanitized = false;
#endif
#else
constexpr bool sanitized = false;
#endif

constexpr std::uint64_t small_sizes[] = {4097, 0, 65537, 1, 4096, 4095};
constexpr std::uint64_t large_sizes[] = {1 << 20, (3 << 20) + 5, 1 << 20, 17 << 20, (3 << 20) + 5};
constexpr std::uint64_t sanitized_large_sizes[] = {600'000, 1 << 20, 600'000, (3 << 20) + 5};
constexpr std::size_t descriptors_max = 8;  // the library's own, with no snapshot alive
constexpr std::size_t threads_max = 13;

using clock = std::chrono::steady_clock;

std::uint64_t number_from(const char* name, std::uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text ? std::strtoull(text, nullptr, 10) : otherwise;
}

// What all tests share: the writers, the readers, and what this process held before the library was first
// called.
struct ground {
  std::vector<arena> where = arenas();
  std::unique_ptr<striker> writers[2];
  std::unique_ptr<readers> watch;
  std::vector<way> ways = {way::automatic, way::leased, way::copied};
  bool paged = false;
  footprint before;
  clock::time_point begin = clock::now();
  int done = 0;  // tests that have a share of the time
  std::uint64_t turn = number_from("STILLMAP_ADVERSARY_TURN", 0);

  striker& writer(striker::place place) {
    auto& slot = writers[place == striker::place::thread];
    if (!slot) slot = std::make_unique<striker>(place);
    return *slot;
  }
  // A writer that the kernel keeps waiting: its process can be replaced, a thread cannot.
  void replace(striker::place place) {
    if (place == striker::place::thread) {
      std::fprintf(stderr, "a writer thread of this process is stuck in the kernel: giving up\n");
      all_tallies().print();
      _exit(1);
    }
    writers[0].reset();
  }
};

ground* here = nullptr;

// Many a container refuses userfaultfd.
bool paged_is_to_be_had() {
  if (sanitized) {
    all_tallies().skip("paged: left out under a sanitizer, whose run is at its limit of time");
    return false;
  }
  char path[] = "/tmp/adversary.XXXXXX";
  const int fd = mkstemp(path);
  const bool written = fd >= 0 && ftruncate(fd, 2 * static_cast<off_t>(page_bytes)) == 0;
  holding held;
  refusal why;
  const bool had = written && hold(way::paged, path, fit(way::paged, {}), &held, &why);
  if (had) held.let_go();
  if (!had) all_tallies().skip("paged: " + why.message);
  unlink(path);
  close(fd);
  return had;
}

class environment : public testing::Environment {
 public:
  void SetUp() override {
    here->watch = std::make_unique<readers>(3);
    here->writer(striker::place::process);
    here->writer(striker::place::thread);
    here->before = take_footprint();
    here->paged = paged_is_to_be_had();
    if (here->paged) here->ways.push_back(way::paged);
    if (!sanitized) here->ways.push_back(way::spilled);
  }
  void TearDown() override {
    all_tallies().print();
    here->writers[0].reset();
    here->writers[1].reset();
    here->watch.reset();
  }
};

struct pairing {
  std::size_t kind, where;
};

std::vector<pairing> pairings() {
  std::vector<pairing> all;
  for (std::size_t a = 0; a < here->where.size(); ++a) {
    for (std::size_t k = 0; k < writer_kinds().size(); ++k) all.push_back({k, a});
  }
  return all;
}

std::uint64_t run_seconds() {
  return number_from("STILLMAP_ADVERSARY_SECONDS", sanitized ? 110 : 70);
}

std::uint64_t small_size(const writer_kind& kind, std::uint64_t turn) {
  if (kind.size_min > 4097) return 65537;
  for (;; ++turn) {
    const std::uint64_t size = small_sizes[turn % std::size(small_sizes)];
    if (size >= kind.size_min) return size;
  }
}

std::uint64_t large_size(std::uint64_t turn) {
  return sanitized ? sanitized_large_sizes[turn % std::size(sanitized_large_sizes)]
                   : large_sizes[turn % std::size(large_sizes)];
}

void report(const outcome& seen, striker::place place) {
  for (const std::string& one : seen.failures) ADD_FAILURE() << one;
  if (seen.writer_stuck) here->replace(place);
}

void expect_nothing_left() {
  EXPECT_EQ(leases_held(), 0u);
  // The kernel's own workers of an io_uring end a little after their ring.
  const auto few_enough = [](const void*) {
    const footprint now = take_footprint();
    return now.threads <= here->before.threads + threads_max &&
           now.descriptors <= here->before.descriptors + descriptors_max;
  };
  if (!settles(few_enough, nullptr, 3000)) {
    const footprint now = take_footprint();
    ADD_FAILURE() << "left behind: threads " << here->before.threads << " -> " << now.threads
                  << ", descriptors " << here->before.descriptors << " -> " << now.descriptors << "\n"
                  << describe_descriptors();
  }
  EXPECT_LE(take_footprint().inheritable, here->before.inheritable)
      << "descriptors that a new program inherits";
}

class every_writer : public testing::TestWithParam<pairing> {
 protected:
  void SetUp() override {
    where_ = &here->where[GetParam().where];
    if (where_->reader_folder.empty() || where_->writer_folder.empty()) {
      all_tallies().skip(where_->name + ": not there");
      GTEST_SKIP() << where_->name << " is not there";
    }
  }
  stage on(striker::place place, tally* count) {
    return {where_, &here->writer(place), here->watch.get(), count, here->paged};
  }

  const arena* where_ = nullptr;
};

TEST_P(every_writer, finds_bytes_that_hold_still) {
  const std::size_t index = GetParam().kind;
  const writer_kind& kind = writer_kinds()[index];
  tally& count = all_tallies().of(where_->name);
  const auto share = std::chrono::duration<double>(static_cast<double>(run_seconds()) * 0.9 /
                                                   static_cast<double>(pairings().size()));
  const auto begin = clock::now();
  const auto used = [&] { return clock::now() - begin; };
  bool missing = false;
  const auto one = [&](way how, striker::place place, std::uint64_t size) {
    const std::vector<request> all = variants(size);
    const std::uint64_t turn = here->turn++;
    const outcome seen = quiet_round(on(place, &count), index, how, all[turn % all.size()], size, 2);
    missing |= seen.skipped;
    report(seen, place);
  };
  // On a machine that is too slow for the schedule (a sanitizer, other work), threads of this process strike
  // once.
  const auto late = begin - here->begin - share * here->done++;
  const bool behind = late > std::chrono::seconds(10);
  if (late > std::chrono::seconds(40) && (index + GetParam().where) % 2 == 1) {
    all_tallies().skip(where_->name + ": far behind the schedule: every other writer left out");
    GTEST_SKIP() << "far behind the schedule";
  }
  if (behind)
    all_tallies().skip(where_->name + ": behind the schedule: fewer combinations with a thread as writer");
  // Leases by another process with both sizes, the rest with one of them in turn.
  std::uint64_t sizes = here->turn / 5 + index;
  std::vector<way> ways = here->ways;
  if (where_->clones && !sanitized) ways.push_back(way::cloned);
  for (const striker::place place : {striker::place::process, striker::place::thread}) {
    for (const way how : ways) {
      const bool large = sizes % 2 == 1;
      if (behind && place == striker::place::thread && how != ways[sizes % ways.size()]) {
        ++sizes;
        continue;
      }
      const bool both = how == way::leased && place == striker::place::process;
      if (both || !large) one(how, place, small_size(kind, sizes / 2));
      if (missing) GTEST_SKIP() << kind.name << " is not to be had on " << where_->name;
      if (both || large) one(how, place, large_size(sizes / 2));
      if (missing) GTEST_SKIP() << kind.name << " is not to be had on " << where_->name;
      ++sizes;
      if (HasFailure()) return;
    }
  }
  for (const striker::place place : {striker::place::process, striker::place::thread}) {
    const std::uint64_t size =
        place == striker::place::process ? large_size(sizes % 2) : small_size(kind, sizes);
    report(at_work_round(on(place, &count), index, size, sanitized ? 100 : 60), place);
  }
  while (!HasFailure() && used() < share) {
    const std::uint64_t turn = here->turn;
    const auto place = turn % 2 ? striker::place::process : striker::place::thread;
    one(ways[turn % ways.size()], place, turn % 4 == 3 ? large_size(turn / 4) : small_size(kind, turn));
  }
  expect_nothing_left();
}

TEST_P(every_writer, harms_a_plain_mapping) {
  const std::size_t index = GetParam().kind;
  const writer_kind& kind = writer_kinds()[index];
  if (where_->reader_folder != where_->writer_folder)
    GTEST_SKIP() << "the canary looks at plain file systems";
  tally& count = all_tallies().of("canary " + where_->name);
  for (const way how : {way::plain_shared, way::plain_private}) {
    const outcome seen =
        quiet_round(on(striker::place::process, &count), index, how, {}, sanitized ? 200'000 : 1'000'005, 2);
    report(seen, striker::place::process);
    if (seen.skipped) GTEST_SKIP() << kind.name << " is not to be had on " << where_->name;
    if (kind.changes_mapping) {
      EXPECT_GT(seen.found.changed_bytes, 0u) << name_of(how) << ": this writer should have changed bytes";
    }
    if (kind.faults_mapping) {
      EXPECT_GT(seen.found.faulted_pages, 0u) << name_of(how) << ": this writer should have caused faults";
    }
  }
}

std::string pairing_name(const testing::TestParamInfo<pairing>& info) {
  return std::string(writer_kinds()[info.param.kind].name) + "_on_" + here->where[info.param.where].name;
}

// Asked for in InitGoogleTest, when `here` is set.
INSTANTIATE_TEST_SUITE_P(, every_writer, testing::ValuesIn(pairings()), pairing_name);

const arena* any_arena() {
  for (const arena& one : here->where) {
    if (!one.reader_folder.empty()) return &one;
  }
  return nullptr;
}

TEST(canary, a_fake_snapshot_whose_byte_is_flipped_is_noticed) {
  const arena* where = any_arena();
  if (!where) GTEST_SKIP() << "no file system";
  tally& count = all_tallies().of("canary flipped byte");
  const stage on{where, &here->writer(striker::place::process), here->watch.get(), &count};
  const outcome seen = quiet_round(on, 0, way::flipped, {}, 100'000, 2);
  EXPECT_GE(seen.found.changed_bytes, 1u);
}

TEST(canary, the_ledger_refuses_what_no_file_ever_was) {
  const layout where{64 * 1024, 16 * 1024, 32 * 1024};
  const auto forged = [&](std::initializer_list<std::uint64_t> quarters) {
    std::vector<std::byte> bytes(where.size);
    std::uint64_t at = 0;
    for (const std::uint64_t g : quarters) {
      write_stamps(std::span(bytes).subspan(at, 16 * 1024), at, g);
      at += 16 * 1024;
    }
    return bytes;
  };
  const window when{4, 6};
  EXPECT_EQ(illegal(shape::ascending, where, when, forged({5, 5, 4, 4}), 0), "");
  EXPECT_EQ(illegal(shape::ascending, where, when, forged({6, 6, 6, 6}), 0), "");
  EXPECT_NE(illegal(shape::ascending, where, when, forged({4, 5, 5, 5}), 0), "") << "older before newer";
  EXPECT_NE(illegal(shape::ascending, where, when, forged({6, 5, 4, 4}), 0), "") << "three generations";
  EXPECT_NE(illegal(shape::ascending, where, when, forged({6, 6, 4, 4}), 0), "") << "a generation left out";
  EXPECT_NE(illegal(shape::ascending, where, when, forged({3, 3, 3, 3}), 0), "") << "before the open";
  EXPECT_NE(illegal(shape::ascending, where, when, forged({7, 7, 7, 7}), 0), "") << "after the open";
  EXPECT_NE(illegal(shape::still, where, {0, 0}, forged({0, 0, 0, 1}), 0), "");
  EXPECT_EQ(illegal(shape::hole, where, when, forged({0, 5, 0, 0}), 0), "");
  EXPECT_NE(illegal(shape::hole, where, when, forged({0, 5, 5, 0}), 0), "") << "outside the hole";
  EXPECT_EQ(illegal(shape::tail, where, when, forged({0, 0, 5, 5}), 0), "");
  EXPECT_NE(illegal(shape::tail, where, when, forged({0, 0, 5, 4}), 0), "");
  std::vector<std::byte> misplaced = forged({5, 5, 5, 5});
  std::memcpy(misplaced.data() + 4096, misplaced.data(), 64);
  EXPECT_NE(illegal(shape::ascending, where, when, misplaced, 0), "")
      << "words that stand in the wrong place";
  std::vector<std::byte> zeros = forged({5, 5, 5, 5});
  std::memset(zeros.data() + 40'000, 0, 4096);
  EXPECT_NE(illegal(shape::ascending, where, when, zeros, 0), "") << "zeros in place of bytes";
  const auto whole = forged({5, 5, 4, 4});
  EXPECT_EQ(illegal(shape::ascending, where, when, std::span(whole).subspan(4097, 50'001), 4097), "")
      << "a cut range";
}

TEST(canary, a_leaked_descriptor_and_mapping_are_noticed) {
  const footprint before = take_footprint();
  const int fd = memfd_create("leak", 0);
  ASSERT_GE(fd, 0);
  void* map = mmap(nullptr, page_bytes, PROT_READ, MAP_SHARED, fd, 0);
  const footprint after = take_footprint();
  EXPECT_EQ(after.descriptors, before.descriptors + 1);
  EXPECT_EQ(after.inheritable, before.inheritable + 1);
  EXPECT_GT(after.mappings, before.mappings);
  munmap(map, page_bytes);
  close(fd);
}

// A memfd with the first generation in it.
int stamped_memfd(std::uint64_t size) {
  const int fd = memfd_create("stamped", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  std::vector<std::byte> bytes(size);
  write_stamps(bytes, 0, 0);
  if (fd < 0 || pwrite(fd, bytes.data(), size, 0) != static_cast<ssize_t>(size)) {
    ADD_FAILURE() << "memfd: " << std::strerror(errno);
  }
  return fd;
}

class sealed_memfd : public testing::TestWithParam<std::uint64_t> {};

TEST_P(sealed_memfd, holds_still_under_every_writer) {
  const std::uint64_t size = GetParam();
  tally& count = all_tallies().of("sealed memfd");
  const int fd = stamped_memfd(size);
  ASSERT_EQ(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW), 0);
  const std::string name = "/proc/" + std::to_string(getpid()) + "/fd/" + std::to_string(fd);
  const std::string spare =
      std::string(std::getenv("STILLMAP_TEST_SCRATCH") ? std::getenv("STILLMAP_TEST_SCRATCH") : "/tmp") +
      "/sealed-spare";
  for (const way how : {way::sealed, way::automatic}) {
    request what;
    what.require = STILL_POINT_IN_TIME;
    what.by_descriptor = how == way::sealed;
    holding held;
    refusal why;
    ASSERT_TRUE(hold(how, name, what, &held, &why)) << why.error << ": " << why.message;
    if (how == way::sealed) {
      EXPECT_EQ(still_how(held.snapshot), STILL_SEALED);
    }
    EXPECT_EQ(held.size, size);
    comparison first;
    const observation seen = observe(held.data, held.size, &first);
    EXPECT_EQ(illegal(shape::still, {size, 0, 0}, {0, 0}, seen.bytes, 0), "");
    here->watch->begin({{held.data, &seen}});
    for (const auto place : {striker::place::process, striker::place::thread}) {
      striker& writer = here->writer(place);
      for (std::size_t kind = 0; kind < writer_kinds().size(); ++kind) {
        ++count.combinations;
        const layout where{size, size / 4 / page_bytes * page_bytes, size / 2 / page_bytes * page_bytes};
        if (size < writer_kinds()[kind].size_min) continue;
        if (writer.prepare(kind, {name, spare, where}).result.error == 0) {
          for (std::uint64_t g = 1; g <= 2; ++g) {
            const answer told = writer.strike(g);
            ASSERT_FALSE(told.timed_out) << writer_kinds()[kind].name;
            count.slowest_writer_ns = std::max(count.slowest_writer_ns, told.took_ns);
          }
        }
        writer.finish();
        EXPECT_TRUE(here->watch->pass());
      }
    }
    const comparison found = here->watch->end();
    EXPECT_EQ(found.changed_bytes, 0u);
    EXPECT_EQ(found.faulted_pages, 0u);
    count.compared_bytes += found.compared_bytes;
    EXPECT_EQ(still_changed(held.snapshot), 0) << "sealed: it cannot have changed";
    held.let_go();
  }
  close(fd);
}

std::string size_name(const testing::TestParamInfo<std::uint64_t>& one) {
  return std::to_string(one.param) + "_bytes";
}
INSTANTIATE_TEST_SUITE_P(sizes, sealed_memfd, testing::Values(1u, 4096u, 65537u, (1u << 20)), size_name);

TEST(half_sealed_memfd, is_not_taken_for_sealed_and_holds_still_all_the_same) {
  constexpr std::uint64_t size = 300'000;
  for (const int seals :
       {F_SEAL_FUTURE_WRITE | F_SEAL_SHRINK, F_SEAL_WRITE, F_SEAL_SHRINK | F_SEAL_GROW, 0}) {
    SCOPED_TRACE(seals);
    const int fd = stamped_memfd(size);
    void* map = MAP_FAILED;
    if (!(seals & F_SEAL_WRITE)) {
      map = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
      ASSERT_NE(map, MAP_FAILED);
    }
    ASSERT_EQ(fcntl(fd, F_ADD_SEALS, seals), 0);
    still_options options = {};
    options.size = sizeof options;
    options.require = STILL_TORN;
    still_snapshot* snapshot = nullptr;
    ASSERT_EQ(still_open_fd(fd, &options, &snapshot), 0) << still_message();
    EXPECT_NE(still_how(snapshot), STILL_SEALED);
    EXPECT_NE(still_how(snapshot), STILL_LEASED) << "a memfd's own writers do not break leases";
    comparison first;
    const observation seen =
        observe(static_cast<const std::byte*>(still_data(snapshot)), still_size(snapshot), &first);
    if (map != MAP_FAILED) {
      write_stamps({static_cast<std::byte*>(map), size}, 0, 1);
      munmap(map, size);
    }
    [[maybe_unused]] int ignored = ftruncate(fd, 0);  // refused where sealed
    const comparison found = compare(static_cast<const std::byte*>(still_data(snapshot)), seen);
    EXPECT_EQ(found.changed_bytes, 0u);
    EXPECT_EQ(found.faulted_pages, 0u);
    still_close(snapshot);
    close(fd);
  }
}

TEST(rounds_without_end, leave_no_descriptor_lease_mapping_or_thread_behind) {
  const arena* where = any_arena();
  if (!where) GTEST_SKIP() << "no file system";
  tally& count = all_tallies().of("rounds without end");
  const int rounds = sanitized ? 60 : 150;
  footprint middle;
  for (int i = 0; i < 2 * rounds; ++i) {
    const auto place = i % 2 ? striker::place::process : striker::place::thread;
    const stage on{where, &here->writer(place), here->watch.get(), &count};
    const std::uint64_t size = i % 5 == 4 ? large_size(static_cast<std::uint64_t>(i) % 2)
                                          : small_sizes[static_cast<std::size_t>(i) % 6];
    const std::size_t kind = static_cast<std::size_t>(i) % 2;  // write, pwrite
    const std::vector<request> all = variants(size);
    const way how = here->ways[static_cast<std::size_t>(i) % here->ways.size()];
    report(quiet_round(on, kind, how, all[static_cast<std::size_t>(i) % all.size()], size, 1), place);
    if (HasFailure()) return;
    if (i == rounds) middle = take_footprint();
  }
  const footprint after = take_footprint();
  EXPECT_LE(after.descriptors, middle.descriptors + 1) << describe_descriptors();
  // A sanitizer maps memory of its own as it goes.
  EXPECT_LE(after.mappings, middle.mappings + (sanitized ? 40 : 8));
  EXPECT_LE(after.threads, middle.threads);
  expect_nothing_left();
}

}  // namespace
}  // namespace adversary

int main(int argc, char** argv) {
  using namespace adversary;
  // Freed memory stays: touching fresh pages would cost more than all the rest.
  mallopt(M_MMAP_THRESHOLD, 32 << 20);  // the most that it takes
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
  serve_if_writer_process(argc, argv);
  install_fault_handlers();
  ground all;
  here = &all;
  if (!any_arena()) {
    std::printf("skip: no file system to run on: start this under with-filesystems\n");
    return 77;
  }
  testing::InitGoogleTest(&argc, argv);
  testing::AddGlobalTestEnvironment(new environment);
  return RUN_ALL_TESTS();
}
