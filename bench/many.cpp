// SPDX-License-Identifier: Apache-2.0
//
// Many files, and many snapshots. Prints JSON; bench/report.py makes tables of it.
//
//   bench_many tree       50,000 small files: open, read and close each, in every way, in random order
//   bench_many alive      opens per second on one and two threads while other snapshots are alive
//   bench_many memory     what a live snapshot takes, and what each way takes for its bytes
//
// $STILLMAP_BENCH_QUICK: fewer files and rounds.
#include <malloc.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <fstream>
#include <functional>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <sstream>

#include "ways.hpp"

namespace stillmap::bench {
namespace {

using nlohmann::json;
using clock = std::chrono::steady_clock;

double seconds_since(clock::time_point begin) {
  return std::chrono::duration<double>(clock::now() - begin).count();
}

// Folders of small files of 1 to 8 KiB, or of one size, removed at the end.
class tree {
 public:
  tree(int folders, int files_each, std::size_t least, std::size_t most) {
    std::mt19937 generator(1);
    std::uniform_int_distribution<std::size_t> size(least, most);
    const std::vector<char> block(most, 'x');
    for (int i = 0; i < folders; ++i) {
      folders_.push_back(folder() + "/stillmap-tree-" + std::to_string(i));
      if (::mkdir(folders_.back().c_str(), 0755) != 0) fail(folders_.back(), "mkdir");
      for (int j = 0; j < files_each; ++j) {
        const std::string& path = files_.emplace_back(folders_.back() + "/" + std::to_string(j));
        const std::size_t bytes = size(generator);
        const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
        if (fd < 0 || ::write(fd, block.data(), bytes) != static_cast<ssize_t>(bytes)) fail(path, "write");
        ::close(fd);
        bytes_ += bytes;
      }
    }
    const int fd = ::open(folders_.front().c_str(), O_RDONLY | O_CLOEXEC);
    ::syncfs(fd);
    ::close(fd);
  }
  tree(const tree&) = delete;
  tree& operator=(const tree&) = delete;
  ~tree() {
    for (const std::string& path : files_) ::unlink(path.c_str());
    for (const std::string& path : folders_) ::rmdir(path.c_str());
  }

  const std::vector<std::string>& files() const { return files_; }
  std::uint64_t bytes() const { return bytes_; }

 private:
  std::vector<std::string> folders_, files_;
  std::uint64_t bytes_ = 0;
};

way way_named(const std::string& name) {
  for (const way& by : ways()) {
    if (name == by.name) return by;
  }
  std::exit(2);
}

// How often, by name; in random order, a fresh one each round.
void in_rounds(int rounds, std::vector<std::string> names,
               const std::function<void(const std::string&)>& run) {
  std::mt19937 generator(2);
  for (int i = 0; i < rounds; ++i) {
    std::shuffle(names.begin(), names.end(), generator);
    for (const std::string& name : names) run(name);
  }
}

void once(const way& by, const std::string& path) {
  if (by.once(path.c_str(), sum, by.how)) return;
  std::cerr << by.name << ": " << still_message() << "\n";
  std::exit(1);
}

json over_tree() {
  const bool quick = is_set("STILLMAP_BENCH_QUICK");
  const tree all(100, quick ? 100 : 500, 1024, 8192);
  rest();
  json ms = json::object();
  for (const std::string& path : all.files()) warm(path.c_str());
  in_rounds(5, {"read_recycled", "raw_mmap", "still_torn", "still_auto"},
            [&](const std::string& name) {
              const way by = way_named(name);
              const auto begin = clock::now();
              for (const std::string& path : all.files()) once(by, path);
              ms[name].push_back(seconds_since(begin) * 1e3);
            });
  return {{"files", all.files().size()}, {"bytes", all.bytes()}, {"ms", ms}};
}

// Each thread opens files of its own, one after the other.
double opens_per_second(const way& by, const std::vector<std::string>& files, int threads) {
  constexpr int opens = 6'000;
  const std::size_t each = files.size() / static_cast<std::size_t>(threads);
  std::vector<std::thread> running;
  const auto begin = clock::now();
  const auto go = [&](std::size_t first) {
    for (std::size_t i = 0; i < opens; ++i) once(by, files[first + i % each]);
  };
  for (int i = 1; i < threads; ++i) running.emplace_back(go, static_cast<std::size_t>(i) * each);
  go(0);
  for (std::thread& one : running) one.join();
  return opens * threads / seconds_since(begin);
}

constexpr std::size_t leases_most = 10'000;

// One descriptor a lease, and a margin.
void raise_descriptor_limit(rlim_t wanted) {
  rlimit limit;
  ::getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = std::max(limit.rlim_cur, std::min(limit.rlim_max, wanted));
  if (::setrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur < wanted) fail("RLIMIT_NOFILE", "setrlimit");
}

std::vector<snapshot> leases_of(const std::vector<std::string>& files, std::size_t from, std::size_t to) {
  std::vector<snapshot> held(to - from);
  for (std::size_t i = from; i < to; ++i)
    held[i - from] = snapshot::open(files[i], {.backing = backing::leased});
  return held;
}

json while_alive() {
  const bool quick = is_set("STILLMAP_BENCH_QUICK");
  raise_descriptor_limit(leases_most + 500);
  const tree small(101, 100, page_bytes, page_bytes);
  const std::vector<std::string> opened_ones(small.files().end() - 100, small.files().end());
  rest();
  recycled(page_bytes);
  std::vector<std::vector<snapshot>> held;
  json levels = json::array();
  std::size_t alive = 0;
  for (const std::size_t wanted : {std::size_t{0}, std::size_t{100}, std::size_t{1'000}, leases_most}) {
    held.push_back(leases_of(small.files(), alive, wanted));
    alive = wanted;
    for (const std::string& path : opened_ones) warm(path.c_str());
    json rates = json::object();
    std::vector<std::string> cases;
    for (const char* const name : {"read_recycled", "raw_mmap", "still_auto", "still_torn", "still_leased"}) {
      for (const char* const threads : {"/1", "/2"}) cases.push_back(std::string(name) + threads);
    }
    in_rounds(quick ? 3 : 9, cases, [&](const std::string& name) {
      const std::size_t bar = name.find('/');
      const std::string by = name.substr(0, bar);
      rates[by][name.substr(bar + 1)].push_back(
          opens_per_second(way_named(by), opened_ones, name.ends_with("2") ? 2 : 1));
    });
    levels.push_back({{"alive", alive}, {"rates", rates}});
  }
  return levels;
}

// Private memory of this process that is no file's.
std::int64_t anonymous_bytes() {
  std::ifstream rollup("/proc/self/smaps_rollup");
  for (std::string line; std::getline(rollup, line);) {
    std::istringstream words(line);
    std::string name;
    std::int64_t kib;
    if (words >> name >> kib && name == "Anonymous:") return kib * 1024;
  }
  std::exit(2);
}
std::int64_t heap_bytes() {
  const struct mallinfo2 heap = ::mallinfo2();
  return static_cast<std::int64_t>(heap.uordblks + heap.hblkhd);
}

// In a process of its own, which has not used the library yet.
json apart(const std::function<json()>& body) {
  int ends[2];
  if (::pipe(ends) != 0) fail("pipe", "pipe");
  const pid_t id = ::fork();
  if (id == 0) {
    ::close(ends[0]);
    const std::string text = body().dump();
    const bool told = ::write(ends[1], text.data(), text.size()) == static_cast<ssize_t>(text.size());
    ::_exit(told ? 0 : 1);
  }
  ::close(ends[1]);
  std::string text;
  char piece[4096];
  for (ssize_t got; (got = ::read(ends[0], piece, sizeof piece)) > 0;)
    text.append(piece, static_cast<std::size_t>(got));
  ::close(ends[0]);
  ::waitpid(id, nullptr, 0);
  return json::parse(text);
}

// Before the first snapshot, with all alive, and what one took: pages in steps, the heap exactly.
json of_a_live_one(const tree& small, options how) {
  return apart([&]() -> json {
    constexpr std::size_t count = leases_most;
    std::vector<snapshot> held(count);
    snapshot::open(small.files().back(), how);  // threads, tables and the pool are there from now on
    const std::int64_t anonymous = anonymous_bytes(), heap = heap_bytes();
    for (std::size_t i = 0; i < count; ++i) held[i] = snapshot::open(small.files()[i], how);
    return {{"anonymous", static_cast<double>(anonymous_bytes() - anonymous) / count},
            {"heap", static_cast<double>(heap_bytes() - heap) / count},
            {"path", small.files().front().size()}};
  });
}

std::int64_t anonymous_at_look;
std::uint64_t sum_and_weigh(const void* data, std::size_t bytes) {
  const std::uint64_t total = sum(data, bytes);
  anonymous_at_look = anonymous_bytes();
  return total;
}

json memory_taken() {
  raise_descriptor_limit(leases_most + 500);
  json ways_taken = json::object();
  for (const std::int64_t bytes : {std::int64_t{64} << 10, std::int64_t{16} << 20}) {
    const scratch_file file(static_cast<std::uint64_t>(bytes));
    for (const way& by : ways()) {
      if (bytes < by.least_bytes) continue;
      const json taken = apart([&]() -> json {
        const std::int64_t before = anonymous_bytes();
        if (!by.once(file.path(), sum_and_weigh, by.how)) return nullptr;
        json reported;
        if (by.once == still) {
          const snapshot one = snapshot::open(file.path(), by.how);
          keep(sum(one.data(), one.size()));  // paged: what was not touched takes nothing
          reported = one.private_bytes();
        }
        return {{"anonymous", anonymous_at_look - before}, {"reported", reported}};
      });
      if (!taken.is_null()) ways_taken[by.name][std::to_string(bytes)] = taken;
    }
  }
  const tree small(101, 100, page_bytes, page_bytes);
  return {{"ways", ways_taken},
          {"leased", of_a_live_one(small, {.backing = backing::leased})},
          {"copied", of_a_live_one(small, {.backing = backing::copied})}};
}

}  // namespace
}  // namespace stillmap::bench

int main(int count, char** words) {
  using namespace stillmap::bench;
  const std::string what = count == 2 ? words[1] : "";
  if (what == "tree")
    std::cout << over_tree() << "\n";
  else if (what == "alive")
    std::cout << while_alive() << "\n";
  else if (what == "memory")
    std::cout << memory_taken() << "\n";
  else
    return 2;
}
