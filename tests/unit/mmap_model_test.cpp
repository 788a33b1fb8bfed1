// SPDX-License-Identifier: Apache-2.0
//
// still_mmap and its kin against a model: random calls in an arena of pages, while the file is written. The
// model knows every byte and protection; after each step they must agree. A failure names its seed;
// $STILLMAP_MODEL_SEEDS=FIRST-LAST runs others.
#include <errno.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <stillmap/stillmap.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include "live_leases.hpp"
#include "memory.hpp"
#include "ranges/tree.hpp"

namespace stillmap {
namespace {

using testing_support::live_leases;

constexpr std::size_t page = 4096;
constexpr std::size_t arena_pages = 400;  // more than 128 of one file are leased, not copied
constexpr std::size_t sampled_pages = 48;

enum class kind : std::uint8_t { foreign, snapshot, behind_the_end };

struct page_state {
  kind what = kind::foreign;
  int protection = PROT_NONE;
  unsigned origin = 0;  // which call made it
  int advice = MADV_NORMAL;
};

class model {
 public:
  model(std::string path, unsigned seed) : path_(std::move(path)), random_(seed) {
    file_.resize((20 + below(arena_pages)) * page - (below(2) == 0 ? 0 : 1 + below(page - 1)));
    for (char& each : file_) each = static_cast<char>(random_());
    std::ofstream(path_, std::ios::binary | std::ios::trunc) << file_;
    arena_ = static_cast<char*>(
        ::mmap(nullptr, arena_pages * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    bytes_.assign(arena_pages * page, '\0');
  }
  ~model() {
    if (arena_ != nullptr) ::munmap(arena_, arena_pages * page);
  }

  testing::AssertionResult run(int steps) {
    for (int step = 0; step < steps; ++step) {
      const std::size_t which = below(20);
      what_.clear();
      bool ok = true;
      if (which < 4) {
        ok = map_snapshot();
      } else if (which < 6) {
        ok = unmap();
      } else if (which < 9) {
        ok = protect();
      } else if (which < 11) {
        ok = advise();
      } else if (which < 13) {
        ok = move();
      } else if (which < 14) {
        ok = shorten();
      } else if (which < 16) {
        ok = store();
      } else if (which < 17) {
        ok = map_anonymous();
      } else {
        ok = write_file();
      }
      history_ += "\n  " + std::to_string(step) + " " + what_;
      if (!ok) return fail("the call's result");
      if (!check(step % 10 == 9 || step + 1 == steps)) return fail("the arena");
    }
    if (still_munmap(arena_, arena_pages * page) != 0) return fail("the last munmap");
    const auto begin = reinterpret_cast<ranges::address>(arena_);
    arena_ = nullptr;
    if (ranges::are_ours(begin, begin + arena_pages * page)) return fail("something is registered still");
    return testing::AssertionSuccess();
  }
  unsigned moves = 0, leased = 0;

 private:
  std::size_t below(std::size_t end) { return random_() % end; }
  struct part {
    std::size_t begin, count;
  };
  part some_pages(std::size_t most) {
    const std::size_t begin = below(arena_pages);
    return {begin, 1 + below(std::min(most, arena_pages - begin))};
  }
  int some_protection() {
    constexpr int all[] = {PROT_READ, PROT_READ, PROT_READ | PROT_WRITE, PROT_NONE};
    return all[below(4)];
  }
  char* at(std::size_t index) const { return arena_ + index * page; }
  testing::AssertionResult fail(const char* what) const {
    return testing::AssertionFailure() << what << ": " << detail_ << history_;
  }
  bool expect(bool condition, const char* what) {
    if (!condition) detail_ = std::string(what) + ", errno " + std::to_string(errno);
    return condition;
  }
  void say(const char* call, std::size_t begin, std::size_t count, long more = 0) {
    what_ = std::string(call) + " " + std::to_string(begin) + "+" + std::to_string(count) + " " +
            std::to_string(more);
  }
  // Holes are closed at once: memory of others could land there.
  bool close_hole(std::size_t begin, std::size_t count) {
    unsigned char there;
    for (std::size_t i = begin; i < begin + count; ++i)
      if (!expect(::mincore(at(i), page, &there) != 0 && errno == ENOMEM, "mapped still")) return false;
    const auto first = reinterpret_cast<ranges::address>(at(begin));
    if (!expect(!ranges::are_ours(first, first + count * page), "ours still")) return false;
    void* const closed = ::mmap(at(begin), count * page, PROT_NONE,
                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
    become_foreign(begin, count, PROT_NONE);
    return expect(closed == at(begin), "the hole was taken");
  }
  void become_foreign(std::size_t begin, std::size_t count, int protection) {
    for (std::size_t i = begin; i < begin + count; ++i) pages_[i] = {kind::foreign, protection};
    std::fill_n(bytes_.begin() + static_cast<std::ptrdiff_t>(begin * page), count * page, '\0');
  }

  bool map_snapshot() {
    const part where = some_pages(below(3) == 0 ? 20 : 350);
    const std::size_t length = where.count * page - (below(2) == 0 ? 0 : below(page));
    const std::size_t offset = below(4) == 0 ? below(arena_pages + 20) * page : below(30) * page;
    const int protection = some_protection();
    say("snapshot", where.begin, where.count, static_cast<long>(offset / page));
    what_ += " length " + std::to_string(length) + " protection " + std::to_string(protection);
    const int fd = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC);
    void* const result = still_mmap(at(where.begin), length, protection, MAP_SNAPSHOT | MAP_FIXED, fd,
                                    static_cast<off_t>(offset));
    ::close(fd);
    if (!expect(result == at(where.begin), still_message())) return false;
    if (warden_leases() > 0) ++leased;
    ++origins_;
    char* const shadow = bytes_.data() + where.begin * page;
    std::memset(shadow, 0, where.count * page);
    const std::size_t rest = file_.size() > offset ? file_.size() - offset : 0;
    const std::size_t there = std::min(length, rest);
    // The rest of the last page that was asked for is the file's too, where there is one... or zeros: not
    // looked at.
    std::memcpy(shadow, file_.data() + (there > 0 ? offset : 0), there);
    for (std::size_t i = 0; i < where.count; ++i) {
      const bool behind = i * page >= rest;
      pages_[where.begin + i] = {behind ? kind::behind_the_end : kind::snapshot, protection, origins_,
                                 MADV_NORMAL};
    }
    return true;
  }
  bool unmap() {
    const part where = some_pages(below(2) == 0 ? 10 : 200);
    say("munmap", where.begin, where.count);
    return expect(still_munmap(at(where.begin), where.count * page - below(page)) == 0, "munmap") &&
           close_hole(where.begin, where.count);
  }
  bool protect() {
    const part where = some_pages(below(2) == 0 ? 10 : 100);
    const int protection = some_protection();
    say("mprotect", where.begin, where.count, protection);
    if (!expect(still_mprotect(at(where.begin), where.count * page, protection) == 0, "mprotect"))
      return false;
    for (std::size_t i = where.begin; i < where.begin + where.count; ++i) pages_[i].protection = protection;
    return true;
  }
  bool advise() {
    const part where = some_pages(60);
    constexpr int all[] = {MADV_DONTNEED, MADV_DONTNEED, MADV_RANDOM,
                           MADV_WILLNEED, MADV_NORMAL,   MADV_REMOVE};
    const int advice = all[below(6)];
    say("madvise", where.begin, where.count, advice);
    if (advice == MADV_REMOVE) {  // of a snapshot alone, for it would act on others
      if (pages_[where.begin].what != kind::snapshot) return true;
      return expect(still_madvise(at(where.begin), page, advice) == -1 && errno == EACCES, "madvise");
    }
    if (!expect(still_madvise(at(where.begin), where.count * page, advice) == 0, "madvise")) return false;
    for (std::size_t i = where.begin; i < where.begin + where.count; ++i) {
      if (advice == MADV_RANDOM || advice == MADV_NORMAL) {
        pages_[i].advice = advice;
      } else if (advice == MADV_DONTNEED && pages_[i].what == kind::foreign) {
        std::memset(bytes_.data() + i * page, 0, page);
      }
    }
    return true;
  }
  // Pages of one snapshot that are one mapping to the kernel as well.
  part run_of_one_snapshot() {
    const std::size_t start = below(arena_pages);
    for (std::size_t i = 0; i < arena_pages; ++i) {
      const std::size_t begin = (start + i) % arena_pages;
      const page_state first = pages_[begin];
      if (first.what != kind::snapshot) continue;
      std::size_t count = 1;
      const std::size_t most = 1 + below(200);
      while (count < most && begin + count < arena_pages && pages_[begin + count].what == kind::snapshot &&
             pages_[begin + count].origin == first.origin &&
             pages_[begin + count].protection == first.protection &&
             pages_[begin + count].advice == first.advice)
        ++count;
      return {begin, count};
    }
    return {0, 0};
  }
  bool move() {
    const part from = run_of_one_snapshot();
    if (from.count == 0) return true;
    const std::size_t count = below(2) == 0 ? from.count : 1 + below(from.count);
    const std::size_t to = below(arena_pages - count + 1);
    say("mremap", from.begin, from.count, static_cast<long>(to));
    what_ += " count " + std::to_string(count);
    errno = 0;
    void* const result =
        still_mremap(at(from.begin), from.count * page, count * page, MREMAP_MAYMOVE | MREMAP_FIXED, at(to));
    if (to < from.begin + from.count && from.begin < to + count)
      return expect(result == MAP_FAILED && errno == EINVAL, "mremap over itself");
    if (!expect(result == at(to), "mremap")) return false;
    ++moves;
    const page_state first = pages_[from.begin];
    std::memcpy(bytes_.data() + to * page, bytes_.data() + from.begin * page, count * page);
    ++origins_;
    for (std::size_t i = 0; i < count; ++i)
      pages_[to + i] = {kind::snapshot, first.protection, origins_, first.advice};
    return close_hole(from.begin, from.count);
  }
  bool shorten() {
    const part from = run_of_one_snapshot();
    if (from.count < 2) return true;
    const std::size_t count = 1 + below(from.count - 1);
    say("mremap", from.begin, from.count, -1);
    what_ += " count " + std::to_string(count);
    void* const result = still_mremap(at(from.begin), from.count * page, count * page,
                                      below(2) == 0 ? 0 : MREMAP_MAYMOVE, nullptr);
    return expect(result == at(from.begin), "mremap") && close_hole(from.begin + count, from.count - count);
  }
  bool store() {
    const std::size_t start = below(arena_pages);
    say("store", start, 0);
    for (std::size_t i = 0; i < arena_pages; ++i) {
      const std::size_t index = (start + i) % arena_pages;
      if (pages_[index].protection != (PROT_READ | PROT_WRITE) || pages_[index].what == kind::behind_the_end)
        continue;
      const std::size_t offset = index * page + below(page - 8);
      for (std::size_t k = 0; k < 8; ++k)
        arena_[offset + k] = bytes_[offset + k] = static_cast<char>(random_());
      return true;
    }
    return true;
  }
  bool map_anonymous() {
    const part where = some_pages(below(2) == 0 ? 5 : 100);
    say("anonymous", where.begin, where.count);
    void* const result = still_mmap(at(where.begin), where.count * page, PROT_READ | PROT_WRITE,
                                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    if (!expect(result == at(where.begin), "mmap")) return false;
    become_foreign(where.begin, where.count, PROT_READ | PROT_WRITE);
    for (std::size_t i = where.begin * page; i < (where.begin + where.count) * page; i += 97)
      arena_[i] = bytes_[i] = static_cast<char>(random_());
    return true;
  }
  bool write_file() {
    if (below(8) == 0) {
      const std::size_t bytes = (1 + below(arena_pages)) * page - below(page);
      say("truncate", bytes, 0);
      file_.resize(bytes);
      return expect(::truncate(path_.c_str(), static_cast<off_t>(bytes)) == 0, "truncate");
    }
    std::string other(1 + below(3 * page), '\0');
    for (char& each : other) each = static_cast<char>(random_());
    const std::size_t offset = below(file_.size());
    say("pwrite", offset, other.size());
    const int fd = ::open(path_.c_str(), O_WRONLY | O_CLOEXEC);
    const bool written = ::pwrite(fd, other.data(), other.size(), static_cast<off_t>(offset)) ==
                         static_cast<ssize_t>(other.size());
    ::close(fd);
    if (file_.size() < offset + other.size()) file_.resize(offset + other.size());
    file_.replace(offset, other.size(), other);
    return expect(written, "pwrite");
  }
  static std::uint32_t warden_leases() { return warden::table::instance().live_leases.load(); }

  // The kernel reads, and says EFAULT where a load would be a signal.
  bool check_page(std::size_t index) {
    char seen[page];
    const iovec into{seen, page}, from{at(index), page};
    const ssize_t got = ::process_vm_readv(::getpid(), &into, 1, &from, 1, 0);
    const page_state& expected = pages_[index];
    const bool readable = (expected.protection & PROT_READ) != 0 && expected.what != kind::behind_the_end;
    if (!readable) {
      if (got > 0) detail_ = "page " + std::to_string(index) + " can be read";
      return got <= 0;
    }
    if (got != static_cast<ssize_t>(page)) {
      detail_ = "page " + std::to_string(index) + " cannot be read";
      return false;
    }
    const char* const shadow = bytes_.data() + index * page;
    if (std::memcmp(seen, shadow, page) == 0) return true;
    std::size_t first = 0;
    while (seen[first] == shadow[first]) ++first;
    detail_ = "page " + std::to_string(index) + " byte " + std::to_string(first) + " is another";
    return false;
  }
  bool check_writable(std::size_t index) {
    char byte;
    const iovec mine{&byte, 1}, there{at(index), 1};
    const page_state& expected = pages_[index];
    if (::process_vm_readv(::getpid(), &mine, 1, &there, 1, 0) != 1) return true;
    const bool written = ::process_vm_writev(::getpid(), &mine, 1, &there, 1, 0) == 1;
    if (written == ((expected.protection & PROT_WRITE) != 0)) return true;
    detail_ = "page " + std::to_string(index) + (written ? " can be written" : " cannot be written");
    return false;
  }
  bool check(bool all) {
    if (all) {
      for (std::size_t i = 0; i < arena_pages; ++i)
        if (!check_page(i)) return false;
    } else {
      for (std::size_t i = 0; i < sampled_pages; ++i)
        if (!check_page(below(arena_pages))) return false;
    }
    return check_writable(below(arena_pages));
  }

  std::string path_;
  std::mt19937 random_;
  std::string file_, bytes_, what_, detail_, history_;
  char* arena_ = nullptr;
  std::array<page_state, arena_pages> pages_{};
  unsigned origins_ = 0;
};

class MmapModel : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(On, MmapModel, testing::Values("EXT4", "TMPFS", "XFS", "BTRFS"),
                         [](const auto& one) { return std::string(one.param); });

TEST_P(MmapModel, Agrees) {
  const char* const folder = std::getenv((std::string("STILLMAP_TEST_") + GetParam()).c_str());
  if (folder == nullptr) GTEST_SKIP() << "no such file system here";
  const std::string path = std::string(folder) + "/model";
  unsigned first = 1, last = 100;
  if (const char* const seeds = std::getenv("STILLMAP_MODEL_SEEDS"); seeds != nullptr) {
    ASSERT_EQ(std::sscanf(seeds, "%u-%u", &first, &last), 2) << "$STILLMAP_MODEL_SEEDS";
  }
  const std::uint64_t charged = memory::charged();
  unsigned moves = 0, leased = 0;
  for (unsigned seed = first; seed <= last; ++seed) {
    model one(path, seed);
    ASSERT_TRUE(one.run(60)) << "\nSTILLMAP_MODEL_SEEDS=" << seed << "-" << seed;
    ASSERT_EQ(live_leases(0), 0u) << "seed " << seed;
    ASSERT_EQ(memory::charged(), charged) << "seed " << seed;
    moves += one.moves;
    leased += one.leased;
  }
  ::unlink(path.c_str());
  if (last - first > 20) {
    EXPECT_GT(moves, 0u);
    EXPECT_GT(leased, 0u);
  }
}

}  // namespace
}  // namespace stillmap
