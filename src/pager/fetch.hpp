// SPDX-License-Identifier: Apache-2.0
//
// Fetching pages: which ones together, from the file into memory, and what becomes of those that cannot be
// read. No threads here, and no queue.
#pragma once

#include <cstddef>

#include "pager/region.hpp"

namespace stillmap::pager {

// What the kernel gave us.
struct userfault {
  int fd = -1;
  bool can_poison = false;
  bool user_mode_only = false;
};

// A window of pages that was claimed, and how far it is.
struct job {
  region* of = nullptr;
  page_span window;
  std::size_t at = 0;      // the next page to fetch
  std::size_t wanted = 0;  // the page that somebody waits for; the others are a guess
  bool all_wanted = false;
};

constexpr std::size_t piece_bytes = std::size_t{256} << 10;  // read and installed at a time

// Claims the window for a page that was touched. False where there is nothing to do (any more).
bool claim_for_touch(region& one, const userfault& by, std::size_t page, job& into) noexcept;

// Claims the first absent pages in a span; into.window.end is where to go on. False: none. `met` is set where
// pages are being fetched by others.
bool claim_absent(region& one, page_span within, job& into, bool& met) noexcept;

// Fetches what is claimed, through a buffer of piece_bytes, and gives the claim back. False: not may_wait,
// and that would be needed; call again.
bool run(job& work, const userfault& by, bool may_wait, std::byte* buffer) noexcept;

}  // namespace stillmap::pager
