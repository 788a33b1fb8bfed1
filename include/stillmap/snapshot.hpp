// SPDX-License-Identifier: Apache-2.0
//
// The C++ face of stillmap: an owner of one still_snapshot, header-only over the C interface, so that no type
// of the standard library crosses the boundary of the shared library. stillmap.h says what each call
// promises.
//
//   auto file = stillmap::snapshot::open("data.json");      // throws stillmap::error
//   std::span<const std::byte> bytes = file.bytes();         // holds still while `file` lives
//
// Builds with -fno-exceptions: the throwing functions are then left out, their error_code twins stay.
#ifndef STILLMAP_SNAPSHOT_HPP
#define STILLMAP_SNAPSHOT_HPP

#include <stillmap/stillmap.h>
#include <stillmap/error.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <new>
#include <span>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

namespace stillmap {

enum class backing {
  automatic = STILL_AUTO,
  sealed = STILL_SEALED,
  leased = STILL_LEASED,
  cloned = STILL_CLONED,
  copied = STILL_COPIED,
  paged = STILL_PAGED,
  spilled = STILL_SPILLED,
  cooperative = STILL_COOPERATIVE,
  trusted = STILL_TRUSTED,
};

enum class consistency { torn = STILL_TORN, verified = STILL_VERIFIED, point_in_time = STILL_POINT_IN_TIME };
enum class state { shared = STILL_SHARED, private_memory = STILL_PRIVATE, lost = STILL_LOST };
enum class access {
  normal = STILL_ACCESS_DEFAULT,
  sequential = STILL_ACCESS_SEQUENTIAL,
  random = STILL_ACCESS_RANDOM
};
enum class fork { absent = STILL_FORK_ABSENT, carry = STILL_FORK_CARRY };
enum class advice {
  sequential = STILL_ADVISE_SEQUENTIAL,
  random = STILL_ADVISE_RANDOM,
  willneed = STILL_ADVISE_WILLNEED,
  populate = STILL_ADVISE_POPULATE,
  hugepage = STILL_ADVISE_HUGEPAGE,
};

// still_options with the same meanings and defaults; fields in the same order.
struct options {
  stillmap::backing backing = backing::automatic;
  consistency require = consistency::verified;
  std::uint64_t offset = 0;
  std::uint64_t length = 0;
  std::uint64_t memory_budget = 0;
  stillmap::access access = access::normal;
  stillmap::fork fork = fork::absent;
  bool strict = false;
  bool synced = false;
  bool populate = false;
  std::uint32_t padding = 0;

  still_options c() const noexcept {
    still_options result{};
    result.size = sizeof result;
    result.backing = static_cast<still_backing>(backing);
    result.require = static_cast<still_consistency>(require);
    result.offset = offset;
    result.length = length;
    result.memory_budget = memory_budget;
    result.access = static_cast<int>(access);
    result.fork = static_cast<int>(fork);
    result.flags = (strict ? unsigned{STILL_STRICT} : 0u) | (synced ? unsigned{STILL_SYNCED} : 0u) |
                   (populate ? unsigned{STILL_POPULATE} : 0u);
    result.padding = padding;
    return result;
  }
};

// One owner of a file's bytes. Movable, not copyable; share() makes another owner. An empty snapshot (default
// constructed, moved from, or left by a failed open) has no bytes and converts to false.
// Threads: reading needs no lock; moving and destroying are for one thread at a time, as with any value.
class snapshot {
 public:
  snapshot() noexcept = default;
  explicit snapshot(still_snapshot* owned) noexcept : handle_(owned) {}  // takes over one share
  snapshot(snapshot&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  snapshot& operator=(snapshot&& other) noexcept {
    if (this != &other) {
      still_close(handle_);
      handle_ = std::exchange(other.handle_, nullptr);
    }
    return *this;
  }
  snapshot(const snapshot&) = delete;
  snapshot& operator=(const snapshot&) = delete;
  ~snapshot() { still_close(handle_); }

  // As still_open and still_open_fd. On failure: an empty snapshot, and ec says why.
  static snapshot open(const char* path, const options& how, std::error_code& ec) noexcept {
    const still_options c = how.c();
    still_snapshot* handle = nullptr;
    ec = error_code_of(still_open(path, &c, &handle));
    return snapshot(handle);
  }
  static snapshot from_fd(int fd, const options& how, std::error_code& ec) noexcept {
    const still_options c = how.c();
    still_snapshot* handle = nullptr;
    ec = error_code_of(still_open_fd(fd, &c, &handle));
    return snapshot(handle);
  }
  // As still_open_many. `opened` gets one snapshot a path; on failure it is left alone.
  static void open_many(std::span<const char* const> paths, const options& how, std::span<snapshot> opened,
                        std::error_code& ec) noexcept {
    const still_options c = how.c();
    if (opened.size() < paths.size()) {
      ec = std::make_error_code(std::errc::invalid_argument);
      return;
    }
    still_snapshot** const handles = new (std::nothrow) still_snapshot*[paths.size()];
    if (handles == nullptr) {
      ec = std::make_error_code(std::errc::not_enough_memory);
      return;
    }
    ec = error_code_of(still_open_many(paths.data(), paths.size(), &c, handles));
    for (std::size_t i = 0; !ec && i < paths.size(); ++i) opened[i] = snapshot(handles[i]);
    delete[] handles;
  }
  // As still_refresh.
  snapshot refresh(std::error_code& ec) const noexcept {
    still_snapshot* handle = nullptr;
    ec = error_code_of(still_refresh(handle_, &handle));
    return snapshot(handle);
  }
  // The bytes as UTF-8, validated once; empty, and ec is EILSEQ, where they are not.
  std::string_view text(std::error_code& ec) const noexcept {
    ec = handle_ ? error_code_of(still_validate_utf8(handle_)) : std::error_code{};
    return ec ? std::string_view{} : characters();
  }

#if defined(__cpp_exceptions)
  static snapshot open(const char* path, const options& how = {}) {
    std::error_code ec;
    snapshot result = open(path, how, ec);
    if (ec) throw error(ec, still_message());
    return result;
  }
  template <class String>
  requires requires(const String& s) {
    { s.c_str() } -> std::convertible_to<const char*>;
  }
  static snapshot open(const String& path, const options& how = {}) {
    return open(path.c_str(), how);
  }
  static snapshot from_fd(int fd, const options& how = {}) {
    std::error_code ec;
    snapshot result = from_fd(fd, how, ec);
    if (ec) throw error(ec, still_message());
    return result;
  }
  static std::vector<snapshot> open_many(std::span<const char* const> paths, const options& how = {}) {
    std::vector<snapshot> opened(paths.size());
    std::error_code ec;
    open_many(paths, how, opened, ec);
    if (ec) throw error(ec, still_message());
    return opened;
  }
  snapshot refresh() const {
    std::error_code ec;
    snapshot result = refresh(ec);
    if (ec) throw error(ec, still_message());
    return result;
  }
  std::string_view text() const {
    std::error_code ec;
    const std::string_view result = text(ec);
    if (ec) throw error(ec, "stillmap: the bytes are not valid UTF-8");
    return result;
  }
#endif
  template <class String>
  requires requires(const String& s) {
    { s.c_str() } -> std::convertible_to<const char*>;
  }
  static snapshot open(const String& path, const options& how, std::error_code& ec) noexcept {
    return open(path.c_str(), how, ec);
  }

  // Valid while any owner of this snapshot lives.
  std::span<const std::byte> bytes() const noexcept {
    return {static_cast<const std::byte*>(data()), size()};
  }
  const void* data() const noexcept {
    return handle_ ? still_data(handle_) : nullptr;
  }
  std::size_t size() const noexcept {
    return handle_ ? still_size(handle_) : 0;
  }

  // Of an empty snapshot these ask for trouble: check operator bool first.
  backing how() const noexcept {
    return static_cast<backing>(still_how(handle_));
  }
  consistency when() const noexcept {
    return static_cast<consistency>(still_when(handle_));
  }
  state current() const noexcept {
    return static_cast<state>(still_current(handle_));
  }
  bool changed() const noexcept {
    return still_changed(handle_) != 0;
  }
  std::uint64_t private_bytes() const noexcept {
    return still_private_bytes(handle_);
  }
  std::uint64_t lost_bytes() const noexcept {
    return still_lost_bytes(handle_);
  }
  still_identity_t identity() const noexcept {
    still_identity_t result{};
    result.size = sizeof result;
    still_identity(handle_, &result);
    return result;
  }
  std::error_code advise(advice what, std::uint64_t offset = 0, std::uint64_t length = 0) noexcept {
    return error_code_of(still_advise(handle_, offset, length, static_cast<int>(what)));
  }
  // As still_detach, for this one.
  std::error_code detach() noexcept {
    return handle_ ? error_code_of(still_detach(handle_)) : std::error_code{};
  }
  snapshot share() const noexcept {
    return snapshot(handle_ ? still_share(handle_) : nullptr);
  }

  explicit operator bool() const noexcept {
    return handle_ != nullptr;
  }
  still_snapshot* get() const noexcept {
    return handle_;
  }

 private:
  std::string_view characters() const noexcept {
    return {static_cast<const char*>(data()), size()};
  }

  still_snapshot* handle_ = nullptr;
};

}  // namespace stillmap

#endif
