// SPDX-License-Identifier: Apache-2.0
//
// choose() is pure: every row of the plan is tested here without a file or a kernel. A row of the table is a
// situation, the ways planned in their order ("L C": leased, then copied), and the refusal where there is
// none.
#include "choice.hpp"

#include <gtest/gtest.h>

#include <functional>
#include <string>

namespace stillmap {
namespace {

constexpr std::uint64_t kib = 1024, mib = 1024 * kib;

struct situation {
  const char* name;
  std::function<void(facts&, request&, machine&)> make;
  const char* planned;
  int refusal = 0;
  bool copy_may_lease = true;
  witness copy_witness = witness::stamps;
};

std::string planned_ways(const plan& chosen) {
  std::string text;
  for (std::size_t i = 0; i < chosen.count; ++i) {
    if (chosen.steps[i].result != outcome::planned) continue;
    if (!text.empty()) text += ' ';
    text += "?SLKCPFOT"[chosen.steps[i].backing];  // K: cloned, F: spilled (a file), O: cooperative
  }
  return text;
}

void large_on(facts& file, file_system system) {
  file.system = system;
  file.at_open.size = 64 * mib;
}

const situation situations[] = {
    {"small file: copied first, leased if no copy can be had",
     [](facts& f, request&, machine&) { f.at_open.size = 4 * kib; }, "C L"},
    {"empty file", [](facts& f, request&, machine&) { f.at_open.size = 0; }, "C L"},
    {"at the threshold a copy", [](facts& f, request&, machine&) { f.at_open.size = 512 * kib; }, "C L"},
    {"above the threshold a mapping", [](facts& f, request&, machine&) { f.at_open.size = 512 * kib + 1; },
     "L C"},
    {"into warm memory a larger one is copied",
     [](facts& f, request&, machine& m) {
       f.at_open.size = 2 * mib;
       m.warm_memory = true;
     },
     "C L"},
    {"... but where it takes few faults to map it",
     [](facts& f, request&, machine& m) {
       f.at_open.size = 2 * mib + 1;
       m.warm_memory = true;
     },
     "L C"},
    {"... and not in small folios",
     [](facts& f, request&, machine& m) {
       f.at_open.size = 8 * mib;
       f.small_folios = m.warm_memory = true;
     },
     "C L"},
    {"... nor beyond what the processor's caches hold",
     [](facts& f, request&, machine& m) {
       f.at_open.size = 8 * mib + 1;
       f.small_folios = m.warm_memory = true;
     },
     "L C"},
    {"in small folios, but into fresh memory",
     [](facts& f, request&, machine&) {
       f.at_open.size = 2 * mib;
       f.small_folios = true;
     },
     "L C"},
    {"the range counts, not the file",
     [](facts& f, request& r, machine&) {
       f.at_open.size = 64 * mib;
       r.offset = 5;
       r.length = 100;
     },
     "C L"},
    {"random access maps sooner",
     [](facts& f, request& r, machine&) {
       f.at_open.size = 128 * kib;
       r.access = STILL_ACCESS_RANDOM;
     },
     "L C"},
    {"large on ext4", [](facts& f, request&, machine&) { large_on(f, file_system::ext4); }, "L C"},
    {"large on xfs", [](facts& f, request&, machine&) { large_on(f, file_system::xfs); }, "L K C"},
    {"large on btrfs", [](facts& f, request&, machine&) { large_on(f, file_system::btrfs); }, "L K C"},
    {"large on tmpfs: stamps prove nothing there",
     [](facts& f, request&, machine&) { large_on(f, file_system::tmpfs); }, "L C", 0, true, witness::none},
    {"strict: no lease outlives the open, but one may stand while copying",
     [](facts& f, request& r, machine&) {
       large_on(f, file_system::ext4);
       r.strict = true;
     },
     "C"},
    {"no room for more leases",
     [](facts& f, request&, machine& m) {
       large_on(f, file_system::ext4);
       m.lease_room = false;
     },
     "C"},
    {"another user's file: the stamps must do",
     [](facts& f, request&, machine& m) {
       large_on(f, file_system::ext4);
       m.may_lease = false;
     },
     "C", 0, false},
    {"another user's file, point in time required",
     [](facts& f, request& r, machine& m) {
       large_on(f, file_system::ext4);
       m.may_lease = false;
       r.require = STILL_POINT_IN_TIME;
     },
     "", STILL_ERROR_UNSUPPORTED, false},
    {"another user's file on tmpfs: torn, and so refused",
     [](facts& f, request&, machine& m) {
       large_on(f, file_system::tmpfs);
       m.may_lease = false;
     },
     "", STILL_ERROR_UNSUPPORTED, false, witness::none},
    {"before multigrain stamps the copy waits for the stamps to age",
     [](facts& f, request&, machine& m) {
       f.at_open.size = 10;
       m.multigrain_stamps = false;
     },
     "C L"},
    {"overlayfs: never leased, torn, refused by default",
     [](facts& f, request&, machine&) { large_on(f, file_system::overlay); }, "", STILL_ERROR_UNSUPPORTED,
     false, witness::none},
    {"overlayfs, torn accepted",
     [](facts& f, request& r, machine&) {
       large_on(f, file_system::overlay);
       r.require = STILL_TORN;
     },
     "C", 0, false, witness::none},
    {"overlayfs, leased insisted on",
     [](facts& f, request& r, machine&) {
       large_on(f, file_system::overlay);
       r.backing = STILL_LEASED;
       r.require = STILL_TORN;
     },
     "", STILL_ERROR_UNSUPPORTED, false, witness::none},
    {"below the upper directory of an overlay",
     [](facts& f, request&, machine&) {
       large_on(f, file_system::ext4);
       f.under_overlay = true;
     },
     "C", 0, false},
    {"nfs",
     [](facts& f, request& r, machine&) {
       large_on(f, file_system::nfs);
       r.require = STILL_TORN;
     },
     "C", 0, false, witness::none},
    {"cifs",
     [](facts& f, request& r, machine&) {
       large_on(f, file_system::cifs);
       r.require = STILL_TORN;
     },
     "C", 0, false, witness::none},
    {"fuse",
     [](facts& f, request& r, machine&) {
       large_on(f, file_system::fuse);
       r.require = STILL_TORN;
     },
     "C", 0, false, witness::none},
    {"9p",
     [](facts& f, request& r, machine&) {
       large_on(f, file_system::ninep);
       r.require = STILL_TORN;
     },
     "C", 0, false, witness::none},
    {"f2fs, until it is tested",
     [](facts& f, request& r, machine&) {
       large_on(f, file_system::f2fs);
       r.require = STILL_TORN;
     },
     "C", 0, false, witness::none},
    {"an unknown file system",
     [](facts& f, request& r, machine&) {
       large_on(f, file_system::unknown);
       r.require = STILL_TORN;
     },
     "C", 0, false, witness::none},
    {"memfd without seals: never leased",
     [](facts& f, request& r, machine&) {
       large_on(f, file_system::tmpfs);
       f.links = 0;
       r.require = STILL_TORN;
     },
     "C", 0, false, witness::none},
    {"sealed memory, small: made to be mapped",
     [](facts& f, request&, machine&) {
       f.system = file_system::tmpfs;
       f.links = 0;
       f.sealed_memory = true;
       f.at_open.size = 10;
     },
     "S C", 0, false, witness::nature},
    {"sealed memory on hugetlbfs is copied",
     [](facts& f, request&, machine&) {
       f.system = file_system::hugetlbfs;
       f.links = 0;
       f.sealed_memory = true;
       f.at_open.size = 4 * mib;
     },
     "C", 0, false, witness::nature},
    {"fs-verity, large",
     [](facts& f, request&, machine&) {
       large_on(f, file_system::ext4);
       f.verity = true;
     },
     "S L C", 0, true, witness::nature},
    {"squashfs on a disk, large",
     [](facts& f, request&, machine&) {
       large_on(f, file_system::squashfs);
       f.read_only_kind = true;
     },
     "S C", 0, false, witness::nature},
    {"squashfs on a disk, small: reading is cheaper",
     [](facts& f, request&, machine&) {
       f.system = file_system::squashfs;
       f.read_only_kind = true;
       f.at_open.size = 100;
     },
     "C S", 0, false, witness::nature},
    {"squashfs on a loop over a file that root alone may write: verified, not sealed",
     [](facts& f, request&, machine&) {
       large_on(f, file_system::squashfs);
       f.read_only_kind = f.loop_over_file = f.loop_root_only = true;
     },
     "C", 0, false, witness::nature},
    {"squashfs on a loop over anybody's file: torn, refused",
     [](facts& f, request&, machine&) {
       large_on(f, file_system::squashfs);
       f.read_only_kind = f.loop_over_file = true;
     },
     "", STILL_ERROR_UNSUPPORTED, false, witness::none},
    {"a pipe", [](facts& f, request&, machine&) { f.kind = file_kind::stream; }, "C F", 0, false,
     witness::nature},
    {"a pipe has no instant",
     [](facts& f, request& r, machine&) {
       f.kind = file_kind::stream;
       r.require = STILL_POINT_IN_TIME;
     },
     "", STILL_ERROR_UNSUPPORTED, false, witness::nature},
    {"a file of /proc: torn, refused by default",
     [](facts& f, request&, machine&) { f.kind = file_kind::generated; }, "", STILL_ERROR_UNSUPPORTED, false,
     witness::none},
    {"a file of /proc, torn accepted",
     [](facts& f, request& r, machine&) {
       f.kind = file_kind::generated;
       r.require = STILL_TORN;
     },
     "C F", 0, false, witness::none},
    {"a directory", [](facts& f, request&, machine&) { f.kind = file_kind::directory; }, "",
     STILL_ERROR_UNSUPPORTED, false, witness::none},
    {"a descriptor that could not be opened anew: no lease, no lseek",
     [](facts& f, request& r, machine&) {
       large_on(f, file_system::ext4);
       f.own_descriptor = false;
       r.require = STILL_TORN;
     },
     "C", 0, false, witness::none},
    {"over budget: no copy in memory, nor a lease that might become one",
     [](facts& f, request& r, machine&) {
       large_on(f, file_system::ext4);
       r.memory_budget = mib;
     },
     "F"},
    {"the process's budget counts as well",
     [](facts& f, request&, machine& m) {
       large_on(f, file_system::ext4);
       m.budget_left = mib;
     },
     "F"},
    {"over budget, but sealed",
     [](facts& f, request& r, machine&) {
       large_on(f, file_system::tmpfs);
       f.sealed_memory = true;
       r.memory_budget = mib;
     },
     "S F", 0, true, witness::nature},
    {"copied insisted on",
     [](facts& f, request& r, machine&) {
       large_on(f, file_system::ext4);
       r.backing = STILL_COPIED;
     },
     "C"},
    {"leased insisted on, small",
     [](facts& f, request& r, machine&) {
       f.at_open.size = 10;
       r.backing = STILL_LEASED;
     },
     "L"},
    {"sealed insisted on, not sealed",
     [](facts& f, request& r, machine&) {
       f.at_open.size = 10;
       r.backing = STILL_SEALED;
     },
     "", STILL_ERROR_UNSUPPORTED},
    {"strict and leased contradict each other",
     [](facts& f, request& r, machine&) {
       f.at_open.size = 10;
       r.backing = STILL_LEASED;
       r.strict = true;
     },
     "", STILL_ERROR_UNSUPPORTED},
    {"cloned insisted on, where blocks can be shared",
     [](facts& f, request& r, machine&) {
       large_on(f, file_system::btrfs);
       r.backing = STILL_CLONED;
     },
     "K"},
    {"cloned insisted on, where they cannot",
     [](facts& f, request& r, machine&) {
       f.at_open.size = 10;
       r.backing = STILL_CLONED;
     },
     "", STILL_ERROR_UNSUPPORTED},
    {"strict, where blocks can be shared: no copy, and no writer who waits",
     [](facts& f, request& r, machine&) {
       large_on(f, file_system::xfs);
       r.strict = true;
     },
     "K C"},
    {"a few MiB are copied sooner than cloned",
     [](facts& f, request& r, machine&) {
       f.system = file_system::xfs;
       f.at_open.size = mib;
       r.strict = true;
     },
     "C K"},
    {"another user's file, point in time required, where blocks can be shared",
     [](facts& f, request& r, machine& m) {
       large_on(f, file_system::xfs);
       m.may_lease = false;
       r.require = STILL_POINT_IN_TIME;
     },
     "K", 0, false},
    {"spilled insisted on, small",
     [](facts& f, request& r, machine&) {
       f.at_open.size = 10;
       r.backing = STILL_SPILLED;
     },
     "F"},
    {"spilled cannot reach a level that a copy cannot",
     [](facts& f, request& r, machine&) {
       large_on(f, file_system::overlay);
       r.backing = STILL_SPILLED;
     },
     "", STILL_ERROR_UNSUPPORTED, false, witness::none},
    {"trusted, by name",
     [](facts& f, request& r, machine&) {
       f.at_open.size = 10;
       r.backing = STILL_TRUSTED;
       r.require = STILL_TORN;
     },
     "T"},
    {"trusted cannot prove a level",
     [](facts& f, request& r, machine&) {
       f.at_open.size = 10;
       r.backing = STILL_TRUSTED;
     },
     "", STILL_ERROR_UNSUPPORTED},
    {"trusted needs a regular file",
     [](facts& f, request& r, machine&) {
       f.kind = file_kind::stream;
       r.backing = STILL_TRUSTED;
       r.require = STILL_TORN;
     },
     "", STILL_ERROR_UNSUPPORTED, false, witness::nature},
    {"cooperative, by name, also where no lease is to be had",
     [](facts& f, request& r, machine&) {
       large_on(f, file_system::overlay);
       r.backing = STILL_COOPERATIVE;
       r.require = STILL_TORN;
     },
     "O", 0, false, witness::none},
    {"cooperative needs a descriptor of its own",
     [](facts& f, request& r, machine&) {
       large_on(f, file_system::ext4);
       f.own_descriptor = false;
       r.backing = STILL_COOPERATIVE;
       r.require = STILL_TORN;
     },
     "", STILL_ERROR_UNSUPPORTED, false, witness::none},
};

class Choice : public testing::TestWithParam<situation> {};

TEST_P(Choice, PlansWhatTheSituationAllows) {
  const situation& given = GetParam();
  SCOPED_TRACE(given.name);
  facts file;
  file.system = file_system::ext4;
  request wanted;
  wanted.memory_budget = 1024 * mib;
  machine here;
  given.make(file, wanted, here);
  const plan chosen = choose(file, wanted, here);
  EXPECT_EQ(planned_ways(chosen), given.planned);
  EXPECT_EQ(chosen.refusal, given.refusal) << chosen.refusal_reason;
  EXPECT_EQ(chosen.copy_may_lease, given.copy_may_lease);
  EXPECT_EQ(chosen.copy_witness, given.copy_witness);
  EXPECT_EQ(chosen.refusal != 0, std::string(given.planned).empty());
  EXPECT_EQ(chosen.stamps_are_fine, here.multigrain_stamps);
  for (std::size_t i = 0; i < chosen.count; ++i) EXPECT_STRNE(chosen.steps[i].reason, "") << i;
  EXPECT_EQ(chosen.refusal != 0, chosen.refusal_reason[0] != '\0');
}

INSTANTIATE_TEST_SUITE_P(Table, Choice, testing::ValuesIn(situations));

// What hangs on leases alone is asked for only where the first way to be tried is not a copy without one.
TEST(Choice, OfASmallFileAtRestNeedsNothingOfLeases) {
  const auto matter = [](bool at_rest, file_system system, still_consistency require, std::uint64_t bytes,
                         still_backing backing = STILL_AUTO, bool sealed = false) {
    facts file;
    file.system = system;
    file.at_rest = at_rest;
    file.sealed_memory = sealed;
    file.at_open.size = bytes;
    request wanted;
    wanted.backing = backing;
    wanted.require = require;
    wanted.memory_budget = 1024 * mib;
    machine here;
    here.may_lease = false;  // not known
    return choose(file, wanted, here).leases_matter;
  };
  EXPECT_FALSE(matter(true, file_system::ext4, STILL_VERIFIED, kib));
  EXPECT_FALSE(matter(true, file_system::tmpfs, STILL_TORN, kib));
  EXPECT_FALSE(matter(true, file_system::ext4, STILL_VERIFIED, 64 * mib, STILL_COPIED));
  EXPECT_TRUE(matter(false, file_system::ext4, STILL_VERIFIED, kib)) << "it may be changing";
  EXPECT_TRUE(matter(true, file_system::ext4, STILL_POINT_IN_TIME, kib)) << "the lease is the proof";
  EXPECT_TRUE(matter(true, file_system::tmpfs, STILL_VERIFIED, kib)) << "stamps prove nothing there";
  EXPECT_TRUE(matter(true, file_system::ext4, STILL_VERIFIED, 64 * mib)) << "it would be leased";
  EXPECT_TRUE(matter(true, file_system::ext4, STILL_VERIFIED, kib, STILL_LEASED));
  EXPECT_TRUE(matter(true, file_system::tmpfs, STILL_TORN, kib, STILL_AUTO, true)) << "its nature is the proof";
}

TEST(Choice, NamesEveryBackingExactlyOnce) {
  for (const situation& given : situations) {
    facts file;
    file.system = file_system::ext4;
    request wanted;
    wanted.memory_budget = 1024 * mib;
    machine here;
    given.make(file, wanted, here);
    const plan chosen = choose(file, wanted, here);
    for (int backing = STILL_SEALED; backing <= STILL_TRUSTED; ++backing) {
      int rows = 0;
      for (std::size_t i = 0; i < chosen.count; ++i) rows += chosen.steps[i].backing == backing;
      EXPECT_EQ(rows, 1) << given.name << ": " << backing;
    }
  }
}

}  // namespace
}  // namespace stillmap
