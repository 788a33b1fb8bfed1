// SPDX-License-Identifier: Apache-2.0
//
// The writers: every way in which Linux lets somebody change a file, each with a name, the shape of the
// states it takes the file through, and the harm it does to a reader of a plain mapping.
//
// A strike writes one generation. Kinds that empty something strike in two steps, so that readers get to look
// at the file between them: odd generations take away, even ones fill again.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "ledger.hpp"

struct io_uring;

namespace adversary {

struct target {
  std::string path;   // as the writer sees it
  std::string spare;  // a name beside it, free for staged files and links
  layout where;
};

struct strike_result {
  int error = 0;  // of `call`
  const char* call = "";
  bool unsupported = false;  // the file system or the kernel has no such operation
};

// One writer at one file: what it keeps open between strikes.
class session {
 public:
  explicit session(target at);
  session(const session&) = delete;
  session& operator=(const session&) = delete;
  ~session();

  target at;
  int fd = -1;
  std::byte* map = nullptr;
  std::uint64_t appended = 0;

  // size stamped bytes of generation for [offset, offset + size); page-aligned memory, valid until the next
  // call.
  std::span<std::byte> stamped(std::uint64_t offset, std::uint64_t size, std::uint64_t generation);
  io_uring* ring(strike_result* failure);  // set up at first use; nullptr where there is none

 private:
  std::byte* buffer_ = nullptr;
  std::uint64_t capacity_ = 0;
  std::unique_ptr<io_uring> ring_;
};

struct writer_kind {
  const char* name;
  shape states;
  strike_result (*strike)(session&, std::uint64_t generation);
  strike_result (*prepare)(session&);  // before the snapshot is taken; may be nullptr
  std::uint64_t size_min;              // smaller files do not give it room
  bool changes_mapping;                // a plain mapping shows other bytes (its canary)
  bool faults_mapping;                 // a plain mapping faults at some step (its canary)
  bool there_before;        // holds the file open, or mapped, for writing when the snapshot is taken
  bool truncates_readonly;  // open(O_RDONLY|O_TRUNC): a leased reader may fault, never see a change
};

std::span<const writer_kind> writer_kinds();

// Creates the file at path with generation 0. Errors end the test: they are the harness's own.
void create_stamped(const std::string& path, std::uint64_t size);

}  // namespace adversary
