// SPDX-License-Identifier: Apache-2.0
//
// A stack of tasks under one lock. Folders go on top, so that the walk is depth first and the stack stays
// small; files named by the user are taken from the front, in their order. Threads are started when there is
// more than one task, for most searches are short.
#include "grep/walk.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>

namespace still::grep {
namespace {

// Small enough to share out a folder's last files, large enough to make the lock cheap beside 64 opens.
constexpr std::size_t batch_files_max = 64;

struct task {
  std::shared_ptr<const std::string> folder;  // ends with a slash, or is empty
  std::string names;  // of files in it, each ended by NUL; none: walk the folder itself
  std::optional<std::uint64_t> turn;
};

bool matches_any(const std::vector<std::string>& globs, const char* name) {
  return std::any_of(globs.begin(), globs.end(),
                     [name](const std::string& glob) { return fnmatch(glob.c_str(), name, 0) == 0; });
}

const char* base_name(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  return path.c_str() + (slash == std::string::npos ? 0 : slash + 1);
}

bool admits_name(const request& what, const char* name) {
  if (!what.include.empty() && !matches_any(what.include, name)) return false;
  return !matches_any(what.exclude, name);
}

class crew {
 public:
  crew(const request& what, visitor& to) : what_(what), to_(to) {}

  void add(task one) {
    const std::lock_guard lock(mutex_);
    tasks_.push_back(std::move(one));
    ++open_;
    if (tasks_.size() > 1 && started_ < what_.threads) {
      threads_.emplace_back([this, worker = started_] { work(worker); });
      ++started_;
    }
    changed_.notify_one();
  }

  // The calling thread works too, as worker 0.
  void run() {
    work(0);
    for (std::thread& thread : threads_) thread.join();
  }

 private:
  void work(unsigned worker) {
    std::string path;
    std::unique_lock lock(mutex_);
    for (;;) {
      if (to_.enough()) {
        open_ -= tasks_.size();
        tasks_.clear();
      }
      if (!tasks_.empty()) {
        // Turns must begin in their order; a tree goes depth first.
        const bool in_turn = tasks_.front().turn.has_value();
        task next = std::move(in_turn ? tasks_.front() : tasks_.back());
        in_turn ? tasks_.pop_front() : tasks_.pop_back();
        ++busy_;
        lock.unlock();
        perform(next, worker, path);
        lock.lock();
        --busy_;
        --open_;
        if (open_ == 0) changed_.notify_all();
      } else if (open_ == 0) {
        return;
      } else {
        changed_.wait(lock);
      }
    }
  }

  unsigned idle() const {
    const unsigned busy =
        busy_.load(std::memory_order_relaxed);  // a hint: how many helpers would have a processor
    return what_.threads > busy ? what_.threads - busy : 0;
  }

  void perform(const task& one, unsigned worker, std::string& path) {
    if (one.names.empty()) return list(*one.folder);
    for (std::size_t at = 0; at < one.names.size() && !to_.enough();) {
      const std::size_t end = one.names.find('\0', at);
      path = *one.folder;
      path.append(one.names, at, end - at);
      to_.file(worker, path, one.turn, idle());
      at = end + 1;
    }
  }

  void list(const std::string& folder) {
    DIR* const stream = opendir(folder.empty() ? "." : folder.c_str());
    if (!stream) return failed(folder, errno);
    const auto shared = std::make_shared<const std::string>(folder);
    std::string names;
    std::size_t count = 0;
    const auto hand_out = [&] {
      if (count > 0) add({shared, std::exchange(names, {}), {}});
      count = 0;
    };
    while (!to_.enough()) {
      errno = 0;
      const dirent* const entry = readdir(stream);
      if (!entry) {
        if (errno) failed(folder, errno);
        break;
      }
      const char* const name = entry->d_name;
      if (name[0] == '.' && (name[1] == '\0' || (name[1] == '.' && name[2] == '\0'))) continue;
      unsigned char type = entry->d_type;
      if (type == DT_UNKNOWN) {
        struct stat facts;
        if (fstatat(dirfd(stream), name, &facts, AT_SYMLINK_NOFOLLOW) == 0)
          type = S_ISREG(facts.st_mode) ? DT_REG : S_ISDIR(facts.st_mode) ? DT_DIR : DT_UNKNOWN;
        else
          failed(folder + name + '/', errno);
      }
      if (type == DT_DIR) {
        if (!matches_any(what_.exclude_folders, name))
          add({std::make_shared<const std::string>(folder + name + '/'), {}, {}});
      } else if (type == DT_REG && admits_name(what_, name)) {
        names += name;
        names += '\0';
        if (++count == batch_files_max) hand_out();
      }
    }
    hand_out();
    closedir(stream);
  }

  void failed(const std::string& folder, int error) {
    to_.folder_failed(folder.size() > 1 ? folder.substr(0, folder.size() - 1) : folder, error);
  }

  const request& what_;
  visitor& to_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<task> tasks_;
  std::size_t open_ = 0;  // tasks that are waiting or being performed
  std::atomic<unsigned> busy_ = 0;
  unsigned started_ = 1;
  std::vector<std::thread> threads_;
};

}  // namespace

bool admits(const request& what, const std::string& path) {
  return admits_name(what, base_name(path));
}

void walk(const request& what, const std::vector<root>& roots, visitor& to) {
  const auto nowhere = std::make_shared<const std::string>();
  for (auto at = roots.begin(); at != roots.end() && !to.enough();) {
    crew hands(what, to);
    if (at->is_folder) {
      std::string folder = at->path;
      if (!folder.empty() && folder.back() != '/') folder += '/';
      hands.add({std::make_shared<const std::string>(folder), {}, {}});
      ++at;
    } else {
      to.turns_restart();
      for (std::uint64_t turn = 0; at != roots.end() && !at->is_folder; ++at, ++turn)
        hands.add({nowhere, at->path + '\0', turn});
    }
    hands.run();
  }
}

}  // namespace still::grep
