// SPDX-License-Identifier: Apache-2.0
//
// From the paths of the command line to files, on several threads. Files named there come with a turn, so
// that their output keeps their order; files met in a folder come as they are found. A folder's files are
// handed out in batches, so that one large flat folder keeps all threads busy as well as a deep tree does.
//
// As grep -r: a symbolic link is followed where the user names it and nowhere else; below a folder, only
// regular files are searched.
#ifndef STILL_GREP_WALK_HPP
#define STILL_GREP_WALK_HPP

#include "grep/request.hpp"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace still::grep {

struct root {
  std::string path;  // "" is the current folder, whose files are then named without "./"
  bool is_folder = false;
};

// Called from any of the threads; `worker` is below request.threads and tells which.
class visitor {
 public:
  virtual ~visitor() = default;
  // idle: threads that have nothing to do at the moment.
  virtual void file(unsigned worker, const std::string& path, std::optional<std::uint64_t> turn,
                    unsigned idle) = 0;
  virtual void folder_failed(const std::string& path, int error) = 0;
  virtual bool enough() const = 0;  // true: no further file is wanted
  virtual void turns_restart() = 0;
};

void walk(const request& what, const std::vector<root>& roots, visitor& to);

// Whether --include and --exclude let a file of this path through.
bool admits(const request& what, const std::string& path);

}  // namespace still::grep

#endif
