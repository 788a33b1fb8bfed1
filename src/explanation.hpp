// SPDX-License-Identifier: Apache-2.0
//
// What still_explain hands out: the facts in words, the plan's rows, and the snapshot that came of them.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "snapshot.hpp"

struct still_explanation {
  struct fact {
    const char* name;
    std::string value;
  };
  std::vector<fact> facts;
  stillmap::record what;
  int error = 0;
  std::string message;
  still_snapshot* snapshot = nullptr;
};

namespace stillmap {

int explain(const char* path, const request& wanted, still_explanation** out) noexcept;

}  // namespace stillmap
