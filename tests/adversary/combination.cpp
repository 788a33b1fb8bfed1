// SPDX-License-Identifier: Apache-2.0
//
// The order within a round is the order of the promise: create, let the writer take its stand, open, look
// once, let the writer strike, look again, close, and see that nothing is left.
#include "combination.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <sstream>

#include "leaks.hpp"

namespace adversary {
namespace {

struct names {
  std::string reader, writer, spare;
};

names fresh_names(const arena& where) {
  static std::atomic<std::uint64_t> next{0};
  const std::string leaf = "file-" + std::to_string(next++);
  return {where.reader_folder + "/" + leaf, where.writer_folder + "/" + leaf,
          where.writer_folder + "/" + leaf + ".spare"};
}

layout layout_of(std::uint64_t size) {
  layout where;
  where.size = size;
  if (size >= 64 * 1024) {
    where.hole_begin = size / 4 / page_bytes * page_bytes;
    where.hole_end = where.hole_begin + size / 4 / page_bytes * page_bytes;
  }
  return where;
}

std::string strike_failure(const answer& told) {
  std::ostringstream out;
  out << "the writer failed: " << told.result.call << ": " << std::strerror(told.result.error);
  return out.str();
}

// A refusal is a right answer only where something stands in the way, and only with a message.
std::string judge_refusal(const stage& on, const writer_kind& kind, way how, const request& what,
                          std::uint64_t size, const refusal& why, const std::string& path) {
  std::ostringstream bad;
  if (why.message.empty()) bad << "refused without a message; ";
  if (!what.by_descriptor && why.message.find(path) == std::string::npos) {
    bad << "the message does not name the path; ";
  }
  const bool known = why.error == STILL_ERROR_BUSY_WRITER || why.error == STILL_ERROR_UNSUPPORTED ||
                     why.error == STILL_ERROR_CHANGING;
  if (!known) bad << "an error number that names no cause; ";
  const bool strict_lease = how == way::leased && (what.flags & STILL_STRICT);
  const bool empty_lease = how == way::leased && size == 0;
  const bool writer_there =
      kind.there_before && (how == way::leased || !on.where->verifies || what.require == STILL_POINT_IN_TIME);
  const bool no_level =
      !on.where->leases && (how == way::leased || !on.where->verifies || what.require == STILL_POINT_IN_TIME);
  if (!strict_lease && !empty_lease && !writer_there && !no_level) bad << "nothing was in the way; ";
  if (writer_there && !no_level && !strict_lease && !empty_lease && why.error != STILL_ERROR_BUSY_WRITER) {
    bad << "the writer is not named as the cause; ";
  }
  const std::string text = bad.str();
  if (text.empty()) return text;
  return text + "error " + std::to_string(why.error) + " (" + still_strerror(why.error) + "): " + why.message;
}

// What the API says about a snapshot just taken.
std::string judge_answers(way how, const request& what, std::uint64_t size, const holding& held) {
  std::ostringstream bad;
  const std::uint64_t expected = what.length ? what.length : size - what.offset;
  if (held.size != expected) bad << "size " << held.size << " instead of " << expected << "; ";
  if (!held.data) bad << "still_data is NULL; ";
  if (what.offset % 64 == 0 && reinterpret_cast<std::uintptr_t>(held.data) % 64 != 0)
    bad << "not 64-byte aligned; ";
  if (!held.snapshot) return bad.str();
  const still_backing took = still_how(held.snapshot);
  if (how == way::leased && took != STILL_LEASED)
    bad << "asked for leased, got " << still_backing_name(took) << "; ";
  if (how == way::copied && took != STILL_COPIED)
    bad << "asked for copied, got " << still_backing_name(took) << "; ";
  if (how == way::cloned && took != STILL_CLONED)
    bad << "asked for cloned, got " << still_backing_name(took) << "; ";
  if (how == way::spilled && took != STILL_SPILLED)
    bad << "asked for spilled, got " << still_backing_name(took) << "; ";
  if (how == way::paged && took != STILL_PAGED)
    bad << "asked for paged, got " << still_backing_name(took) << "; ";
  if (how == way::sealed && took != STILL_SEALED)
    bad << "asked for sealed, got " << still_backing_name(took) << "; ";
  if (took == STILL_COOPERATIVE || took == STILL_TRUSTED) bad << "an unprotected way without being asked; ";
  if (still_when(held.snapshot) < what.require) bad << "a weaker level than required; ";
  if (still_current(held.snapshot) == STILL_LOST) bad << "lost at once; ";
  if ((what.flags & STILL_STRICT) && leases_held() != 0) bad << "STRICT left a lease; ";
  for (std::uint32_t i = 0; i < what.padding; ++i) {
    if (static_cast<const volatile std::byte*>(held.data)[held.size + i] != std::byte{0}) {
      bad << "padding byte " << i << " is not zero; ";
      break;
    }
  }
  return bad.str();
}

void remove_all(const names& file) {
  unlink(file.writer.c_str());
  unlink(file.reader.c_str());
  unlink(file.spare.c_str());
}

class round {
 public:
  round(const stage& on, std::size_t kind, way how, const request& what, std::uint64_t size)
      : on_(on),
        kind_(writer_kinds()[kind]),
        index_(kind),
        how_(how),
        what_(fit(how, what)),
        size_(size),
        file_(fresh_names(*on.where)) {}

  outcome quiet(std::uint64_t strikes);
  outcome at_work(int milliseconds);

 private:
  void fail(const std::string& text) {
    std::ostringstream out;
    out << kind_.name << " by a " << on_.writer->name() << " on " << on_.where->name << ", " << name_of(how_)
        << " (" << what_.name << "), " << size_ << " bytes: " << text;
    result_.failures.push_back(out.str());
  }

  bool take_stand() {
    create_stamped(file_.writer, size_);
    const answer told = on_.writer->prepare(index_, {file_.writer, file_.spare, layout_of(size_)});
    if (told.result.error) fail(strike_failure(told));
    return told.result.error == 0;
  }

  // Opens; where that is rightly refused, opens what can always be had. Nothing is in the way of paged,
  // nor of cloned where blocks can be shared.
  bool take(const request& what, holding* held) {
    refusal why;
    if (hold(how_, file_.reader, what, held, &why)) {
      if (const std::string bad = judge_answers(how_, what, size_, *held); !bad.empty()) fail(bad);
      return true;
    }
    if (how_ != way::automatic && how_ != way::leased && how_ != way::copied && how_ != way::spilled) {
      fail("cannot hold: " + why.message);
      return false;
    }
    if (const std::string bad = judge_refusal(on_, kind_, how_, what, size_, why, file_.reader); !bad.empty())
      fail(bad);
    ++on_.count->refused;
    all_tallies().refusal(on_.where->name + (kind_.there_before ? ", writer there: " : ": ") +
                          still_strerror(why.error));
    request less = what;
    less.require = STILL_TORN;
    if (!hold(way::automatic, file_.reader, less, held, &why)) {
      fail("TORN refused: " + std::to_string(why.error) + ": " + why.message);
      return false;
    }
    if (const std::string bad = judge_answers(way::automatic, less, size_, *held); !bad.empty())
      fail("TORN: " + bad);
    return true;
  }

  // What paged has not fetched when the file ends before it is lost; once read, never.
  bool may_fault(const holding& held) const {
    if (!held.snapshot) return true;
    const still_backing took = still_how(held.snapshot);
    return (kind_.truncates_readonly && took == STILL_LEASED) || (at_work_ && took == STILL_PAGED);
  }

  void judge_found(const std::vector<holding>& held) {
    on_.count->compared_bytes += result_.found.compared_bytes;
    on_.count->changed_bytes += result_.found.changed_bytes;
    const bool allowed =
        std::any_of(held.begin(), held.end(), [&](const holding& one) { return may_fault(one); });
    (allowed ? on_.count->faults_allowed : on_.count->faults_forbidden) += result_.found.faulted_pages;
    if (!held[0].snapshot) return;  // a canary's harm is for its test to judge
    if (result_.found.changed_bytes > 0) {
      fail("CHANGED BYTES: " + std::to_string(result_.found.changed_bytes) + ", the first at " +
           std::to_string(result_.found.first_changed));
    }
    if (result_.found.faulted_pages > 0 && !allowed) {
      fail("a fault (signal " + std::to_string(result_.found.last_fault.signal) + ") on " +
           std::to_string(result_.found.faulted_pages) + " pages, index " +
           std::to_string(result_.found.last_fault.address - reinterpret_cast<std::uintptr_t>(held[0].data)));
    }
    for (const holding& one : held) {
      if (!one.lost()) continue;
      ++on_.count->lost;
      if (!may_fault(one)) fail("state LOST");
    }
  }

  const stage& on_;
  const writer_kind& kind_;
  std::size_t index_;
  way how_;
  request what_;
  std::uint64_t size_;
  names file_;
  bool at_work_ = false;
  outcome result_;
};

outcome round::quiet(std::uint64_t strikes) {
  ++on_.count->combinations;
  if (!take_stand()) return result_;
  std::vector<holding> held(1);
  if (take(what_, &held[0])) {
    if (what_.second_snapshot && held[0].snapshot) {
      request other = what_;
      other.offset = size_ / 3;
      other.padding = 64;
      holding beside;
      if (take(other, &beside)) held.push_back(beside);
    }
    std::vector<observation> seen(held.size());
    std::vector<region> regions;
    for (std::size_t i = 0; i < held.size(); ++i) {
      comparison first;
      seen[i] = observe(held[i].data, held[i].size, &first);
      if (first.faulted_pages > 0) fail("a fault at the first look, with no writer at work");
      const std::string bad = illegal(shape::still, layout_of(size_), {0, 0}, seen[i].bytes, held[i].offset);
      if (!bad.empty()) fail("the first look: " + bad);
      regions.push_back({held[i].data, &seen[i]});
    }
    on_.watch->begin(regions);
    if (!on_.watch->pass()) fail("readers do not end");
    std::uint64_t done = 0;
    for (std::uint64_t g = 1; g <= strikes; ++g) {
      const answer told = on_.writer->strike(g);
      if (told.result.unsupported) {
        all_tallies().skip(on_.where->name + ": " + kind_.name + ": " + told.result.call + ": " +
                           std::strerror(told.result.error));
        result_.skipped = true;
        break;
      }
      if (told.timed_out) {
        result_.writer_stuck = true;
        fail("the writer waits longer than " + std::to_string(strike_deadline_ms) + " ms");
        break;
      }
      if (told.result.error) {
        fail(strike_failure(told));
        break;
      }
      ++done;
      on_.count->slowest_writer_ns = std::max(on_.count->slowest_writer_ns, told.took_ns);
      if (how_ == way::flipped && g == 1 && held[0].size > 0) {
        flip_byte(static_cast<std::byte*>(held[0].map) + held[0].size / 2);
      }
      if (!on_.watch->pass()) fail("readers do not end");
    }
    on_.count->generations += done;
    result_.found = on_.watch->end();
    judge_found(held);
    // An overlay keeps the name that it looked up when its upper layer is changed behind its back.
    const bool stale_names = on_.where->reader_folder != on_.where->writer_folder;
    const bool named_anew =
        kind_.states == shape::whole || std::strcmp(kind_.name, "unlink_and_recreate") == 0;
    if (held[0].snapshot && done > 0 && kind_.states != shape::still && size_ > 0 &&
        !(named_anew && (what_.by_descriptor || stale_names)) && still_changed(held[0].snapshot) == 0) {
      fail("still_changed says 0 after the file was changed");
    }
    for (holding& one : held) one.let_go();
  }
  if (!result_.writer_stuck) {
    if (const std::size_t left = leases_held(); left != 0)
      fail(std::to_string(left) + " leases left after close");
    on_.writer->finish();
  }
  remove_all(file_);
  return result_;
}

outcome round::at_work(int milliseconds) {
  at_work_ = true;
  if (!take_stand()) return result_;
  const progress& sofar = on_.writer->so_far();
  on_.writer->begin_work(1);
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(milliseconds);
  const way ways[] = {way::automatic, way::copied, way::leased,
                      on_.where->clones ? way::cloned : way::automatic, on_.paged ? way::paged : way::copied};
  static constexpr still_consistency levels[] = {STILL_VERIFIED, STILL_VERIFIED,      STILL_VERIFIED,
                                                 STILL_TORN,     STILL_POINT_IN_TIME, STILL_TORN,
                                                 STILL_VERIFIED};
  const bool shrinks = kind_.states == shape::fresh || kind_.states == shape::tail ||
                       kind_.states == shape::sparse || kind_.states == shape::shifted;
  for (std::uint64_t turn = 0; std::chrono::steady_clock::now() < deadline; ++turn) {
    how_ = ways[turn % std::size(ways)];
    what_ = {};
    what_.name = "at work";
    what_.require = levels[turn % std::size(levels)];
    if (turn % 4 == 3 && size_ > 5000) what_.offset = 4097;
    what_ = fit(how_, what_);
    window when;
    when.first = sofar.finished.load();
    holding held;
    refusal why;
    const bool got = hold(how_, file_.reader, what_, &held, &why);
    when.last = sofar.begun.load();
    ++on_.count->opened_at_work;
    if (!got) {
      ++on_.count->refused_at_work;
      all_tallies().refusal(on_.where->name + ", at work: " + std::string(still_strerror(why.error)));
      const bool gone = why.error == ENOENT && std::strcmp(kind_.name, "unlink_and_recreate") == 0;
      const bool short_now = why.error == ERANGE && shrinks;
      const bool known = why.error == STILL_ERROR_BUSY_WRITER || why.error == STILL_ERROR_UNSUPPORTED ||
                         why.error == STILL_ERROR_CHANGING;
      if (!gone && !short_now && !known) {
        fail("at work: error " + std::to_string(why.error) + " names no cause: " + why.message);
      }
      if (why.message.find(file_.reader) == std::string::npos)
        fail("at work: the message does not name the path: " + why.message);
      if (what_.require == STILL_TORN && how_ != way::leased && !gone && !short_now) {
        fail("at work: TORN refused: " + std::to_string(why.error) + ": " + why.message);
      }
      if (!result_.failures.empty()) break;
      continue;
    }
    const still_consistency level = still_when(held.snapshot);
    ++(level == STILL_TORN ? on_.count->torn_at_work : on_.count->verified_at_work);
    if (level < what_.require) fail("at work: a weaker level than required");
    comparison first;
    const observation seen = observe(held.data, held.size, &first);
    if (first.faulted_pages == 0 && level != STILL_TORN) {
      const std::string bad = illegal(kind_.states, layout_of(size_), when, seen.bytes, held.offset);
      if (!bad.empty()) {
        fail(std::string("at work: ") + still_backing_name(still_how(held.snapshot)) + " claims " +
             still_consistency_name(level) + ", yet shows " + bad);
      }
    }
    if (turn % 3 == 0) {
      on_.watch->begin({{held.data, &seen}});
      if (!on_.watch->pass()) fail("readers do not end");
      result_.found = on_.watch->end();
    } else {
      result_.found = compare(held.data, seen);
      result_.found.add(compare(held.data, seen));
    }
    result_.found.faulted_pages += first.faulted_pages;
    judge_found({held});
    held.let_go();
    if (!result_.failures.empty()) break;
  }
  const answer told = on_.writer->end_work();
  if (told.timed_out) {
    result_.writer_stuck = true;
    fail("at work: the writer waits longer than " + std::to_string(strike_deadline_ms) + " ms");
  } else if (told.result.unsupported) {
    result_.skipped = true;
  } else if (told.result.error) {
    fail("at work: " + strike_failure(told));
  }
  const std::uint64_t slowest = sofar.slowest_ns.load();
  if (slowest > strike_deadline_ms * 1'000'000ull)
    fail("at work: a strike took " + std::to_string(slowest / 1'000'000) + " ms");
  on_.count->slowest_writer_ns = std::max(on_.count->slowest_writer_ns, slowest);
  on_.count->generations += sofar.finished.load();
  if (!result_.writer_stuck) {
    if (const std::size_t left = leases_held(); left != 0)
      fail(std::to_string(left) + " leases left after close");
    on_.writer->finish();
  }
  remove_all(file_);
  return result_;
}

}  // namespace

std::vector<arena> arenas() {
  std::vector<arena> all;
  const auto add = [&](const char* name, const char* reader, const char* writer, bool leases, bool verifies,
                       bool clones = false) {
    const char *from = std::getenv(reader), *to = std::getenv(writer);
    all.push_back({name, from ? from : "", to ? to : "", leases, verifies, clones});
  };
  add("ext4", "STILLMAP_TEST_EXT4", "STILLMAP_TEST_EXT4", true, true);
  add("tmpfs", "STILLMAP_TEST_TMPFS", "STILLMAP_TEST_TMPFS", true, false);
  add("xfs", "STILLMAP_TEST_XFS", "STILLMAP_TEST_XFS", true, true, true);
  add("btrfs", "STILLMAP_TEST_BTRFS", "STILLMAP_TEST_BTRFS", true, true, true);
  add("overlay", "STILLMAP_TEST_OVERLAY", "STILLMAP_TEST_OVERLAY", false, false);
  // One file, two names: a lease taken through one does not see writers that come through the other.
  add("overlay_upper_writer", "STILLMAP_TEST_OVERLAY", "STILLMAP_TEST_OVERLAY_UPPER", false, false);
  add("upper_overlay_writer", "STILLMAP_TEST_OVERLAY_UPPER", "STILLMAP_TEST_OVERLAY", false, true);
  return all;
}

outcome quiet_round(const stage& on, std::size_t kind, way how, const request& what, std::uint64_t size,
                    std::uint64_t strikes) {
  return round(on, kind, how, what, size).quiet(strikes);
}

outcome at_work_round(const stage& on, std::size_t kind, std::uint64_t size, int milliseconds) {
  return round(on, kind, way::automatic, {}, size).at_work(milliseconds);
}

}  // namespace adversary
