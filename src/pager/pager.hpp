// SPDX-License-Identifier: Apache-2.0
//
// The pager fetches pages of files when they are first touched: userfaultfd(2). Its threads have a table of
// descriptors of their own, which holds the userfaultfd and the files: an application that closes every
// descriptor it does not know closes none of ours, and a forked child inherits none.
//
//   a thread touches a page ... the kernel holds it .................... goes on with the page
//          |                                                               ^ UFFDIO_COPY
//   reader '- read(userfaultfd) - claim a window - pread from the cache ---|
//                                                '- or, where that would wait for storage: the next idle
//                                                   thread becomes the reader, and this one waits -'
//
// One thread at a time is the reader. So a read that hangs holds up the pages it is to bring, and no others:
// up to fifteen threads may wait for storage, and one more is always left for opening and closing.
#pragma once

#include <cstddef>
#include <cstdint>

namespace stillmap::pager {

struct region;

struct terms {
  int fd = -1;  // stays the caller's
  std::uint64_t device = 0, inode = 0;
  std::byte* address = nullptr;  // anonymous private memory without a page in it
  std::size_t bytes = 0;         // whole pages
  std::uint64_t offset = 0;      // in the file, of whole pages as well
  int access = 0;
  bool carried = false;  // over fork
};

// 0, or -errno; -ENOSYS, -EPERM: the kernel, or who guards it, refuses userfaultfd. The memory is the
// region's on success.
long open(const terms& wanted, region*& into) noexcept;

// Unmaps the memory.
void close(region* one) noexcept;

// Fetches what overlaps [begin, begin + bytes). 0, or -EIO where some of it is lost.
long populate(region& one, std::size_t begin, std::size_t bytes) noexcept;
void read_ahead(region& one, std::size_t begin, std::size_t bytes) noexcept;
void expect(region& one, int access) noexcept;  // STILL_ACCESS_...

std::uint64_t fetched_bytes(const region& one) noexcept;
std::uint64_t lost_bytes(const region& one) noexcept;

// True where a system call given a page that is not fetched gets EFAULT: no privilege. After the first open.
bool user_mode_only() noexcept;

// fork(2): from the handlers of warden/fork.cpp.
void before_fork() noexcept;
void after_fork_in_parent() noexcept;
void after_fork_in_child() noexcept;

}  // namespace stillmap::pager
