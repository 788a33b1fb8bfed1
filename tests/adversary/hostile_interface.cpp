// SPDX-License-Identifier: Apache-2.0
//
// What the header promises of bad input, of the answers a snapshot gives about itself, and of what a lease
// costs while nobody writes.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>
#include <utility>

#include "hostile_case.hpp"
#include "leaks.hpp"

namespace adversary {
namespace {

constexpr std::uint64_t one_mib = 1 << 20;

// An open that must fail with this error and a message, and must leave its output alone.
void expect_refusal(const char* what, const std::string& path, const still_options& options, int wanted,
                    bool names_path = true) {
  still_snapshot* const untouched = reinterpret_cast<still_snapshot*>(&wanted);
  still_snapshot* out = untouched;
  errno = 12345;
  const int error = still_open(path.c_str(), &options, &out);
  check(errno == 12345, std::string(what) + ": errno was touched");
  check(error == wanted, std::string(what) + ": error " + std::to_string(error) + " (" +
                             still_strerror(error) + ") instead of " + std::to_string(wanted) + ": " +
                             still_message());
  if (error == 0) {
    still_close(out);
    return;
  }
  check(out == untouched, std::string(what) + ": the output was touched");
  check(still_message()[0] != '\0', std::string(what) + ": no message");
  if (names_path) {
    check(std::strstr(still_message(), path.c_str()) != nullptr,
          std::string(what) + ": the message does not name the path: " + still_message());
  }
}

still_options plain() {
  still_options options = {};
  options.size = sizeof options;
  return options;
}

const registration bad_input("bad input is refused with the error that the header names", [] {
  const std::string path = fresh_file(10'000);
  still_options o = plain();
  expect_refusal("a folder", case_folder(), o, EISDIR);
  expect_refusal("a missing file", path + "-missing", o, ENOENT);
  expect_refusal("a file as a folder", path + "/below", o, ENOTDIR);
  o.offset = 10'001;
  expect_refusal("an offset beyond the end", path, o, ERANGE);
  o.offset = 5000;
  o.length = 5001;
  expect_refusal("a length beyond the end", path, o, ERANGE);
  o.length = UINT64_MAX - 100;
  expect_refusal("a range that overflows", path, o, EOVERFLOW);
  o = plain();
  o.size = 0;
  expect_refusal("options of size 0", path, o, EINVAL, false);
  o.size = sizeof o - 1;
  expect_refusal("options too small", path, o, EINVAL, false);
  o = plain();
  o.backing = static_cast<still_backing>(15);  // within the enumeration's bits, not among its names
  expect_refusal("an unknown backing", path, o, EINVAL, false);
  o = plain();
  const int no_level = 7;  // as a caller in C may pass
  std::memcpy(&o.require, &no_level, sizeof o.require);
  expect_refusal("an unknown level", path, o, EINVAL, false);
  o = plain();
  o.flags = 1u << 30;
  expect_refusal("an unknown flag", path, o, EINVAL, false);
  o = plain();
  o.access = 77;
  expect_refusal("an unknown access", path, o, EINVAL, false);
  o = plain();
  o.fork = 77;
  expect_refusal("an unknown fork", path, o, EINVAL, false);
  struct {
    still_options known;
    char more[64];
  } larger = {};
  larger.known.size = sizeof larger;
  still_snapshot* out = nullptr;
  check(still_open(path.c_str(), &larger.known, &out) == 0,
        "larger options whose new bytes are zero are refused");
  still_close(out);
  larger.more[63] = 1;
  out = nullptr;
  const int error = still_open(path.c_str(), &larger.known, &out);
  check(error == E2BIG, "larger options with unknown bytes: error " + std::to_string(error));
  out = nullptr;
  check(still_open(path.c_str(), nullptr, &out) == 0, "NULL options are refused");
  still_close(out);
  still_close(nullptr);
  const int closed = dup(0);
  close(closed);
  out = nullptr;
  check(still_open_fd(closed, nullptr, &out) == EBADF, "a closed descriptor");
  check(still_open_fd(-1, nullptr, &out) == EBADF, "descriptor -1");
  const char* paths[] = {path.c_str(), path.c_str()};
  still_snapshot* many[2] = {};
  o = plain();
  o.require = STILL_POINT_IN_TIME;
  const int at_once = still_open_many(paths, 2, &o, many);
  check(at_once == 0 || at_once == STILL_ERROR_UNSUPPORTED, "many at one instant");
  for (still_snapshot*& one : many) still_close(std::exchange(one, nullptr));
  const std::string missing = path + "-missing";
  paths[1] = missing.c_str();
  check(still_open_many(paths, 2, nullptr, many) == ENOENT && many[0] == nullptr && many[1] == nullptr,
        "all or none of many");
  check(leases_held() == 0, "leases are left");
});

const registration not_to_be_had("a way that is not to be had for the file is refused by name", [] {
  const std::string path = fresh_file(10'000);
  still_options o = plain();
  o.backing = STILL_SEALED;
  expect_refusal("sealed, of a plain file", path, o, STILL_ERROR_UNSUPPORTED);
});

// Becomes a user who may not walk down to the file, but stands in its folder; gives the name from there.
std::string as_another_user(const std::string& path) {
  check(chdir(case_folder().c_str()) == 0 && setresuid(1234, 1234, 1234) == 0, "setresuid");
  return path.substr(path.rfind('/') + 1);
}

const registration no_permission("another user's unreadable file is EACCES", [] {
  const std::string path = fresh_file(10'000);
  check(chmod(path.c_str(), 0600) == 0, "chmod");
  expect_refusal("no permission", as_another_user(path), plain(), EACCES);
});

const registration not_owner("another user's readable file is copied and holds still", [] {
  const std::string path = fresh_file(one_mib);
  foreign_writer writer(path, one_mib);
  check(chmod(path.c_str(), 0644) == 0, "chmod");
  const std::string leaf = as_another_user(path);
  const watched held(leaf, plain());
  if (!held) return;
  check(still_how(held.snapshot) != STILL_LEASED, "leased, though F_SETLEASE is for the owner");
  writer.strike_gets_through("copied");
  held.expect_still("copied");
  still_options o = leased_options();
  expect_refusal("leased by name", leaf, o, STILL_ERROR_UNSUPPORTED);
});

const registration names_writer("the message of a busy file names who writes and what would accept less", [] {
  const std::string path = fresh_file(one_mib);
  foreign_writer writer(path, one_mib, "descriptor_from_before");
  const still_options o = leased_options();
  expect_refusal("busy", path, o, STILL_ERROR_BUSY_WRITER);
  const std::string pid = std::to_string(writer.process().pid());
  check(std::strstr(still_message(), pid.c_str()) != nullptr,
        "the writer, process " + pid + ", is not named: " + still_message());
});

const registration empty("an empty file has an address, and addresses are aligned", [] {
  const std::string none = fresh_file(0), some = fresh_file(one_mib);
  for (const still_backing how : {STILL_AUTO, STILL_COPIED}) {
    for (const std::uint32_t padding : {0u, 64u}) {
      still_options o = plain();
      o.backing = how;
      o.padding = padding;
      still_snapshot* out = nullptr;
      if (!check(still_open(none.c_str(), &o, &out) == 0, std::string("empty: ") + still_message())) continue;
      const auto* data = static_cast<const volatile unsigned char*>(still_data(out));
      check(data != nullptr, "still_data is NULL");
      check(still_size(out) == 0, "size of an empty file");
      for (std::uint32_t i = 0; i < padding; ++i) check(data[i] == 0, "padding is not zero");
      still_close(out);
    }
  }
  for (const still_backing how : {STILL_AUTO, STILL_COPIED, STILL_LEASED}) {
    for (std::uint64_t offset = 0; offset <= 4096; offset += 64) {
      still_options o = plain();
      o.backing = how;
      o.offset = offset;
      still_snapshot* out = nullptr;
      if (!check(still_open(some.c_str(), &o, &out) == 0, still_message())) continue;
      check(reinterpret_cast<std::uintptr_t>(still_data(out)) % 64 == 0,
            std::string(still_backing_name(how)) + ": not aligned at offset " + std::to_string(offset));
      still_close(out);
    }
  }
});

const registration answers("changed, refresh, identity and private bytes answer as the header says", [] {
  const std::string path = fresh_file(one_mib);
  foreign_writer writer(path, one_mib);
  for (const still_backing how : {STILL_LEASED, STILL_COPIED}) {
    const std::string name = still_backing_name(how);
    still_options o = plain();
    o.backing = how;
    watched held(path, o);
    if (!held) return;
    check(still_changed(held.snapshot) == 0, name + ": changed, though nobody wrote");
    still_snapshot* same = nullptr;
    if (check(still_refresh(held.snapshot, &same) == 0, name + ": refresh: " + still_message())) {
      check(still_data(same) == still_data(held.snapshot),
            name + ": a refresh of an unchanged file is another one");
      still_close(same);
    }
    still_identity_t before = {};
    before.size = sizeof before;
    check(still_identity(held.snapshot, &before) == 0, name + ": identity");
    struct stat facts = {};
    stat(path.c_str(), &facts);
    check(before.inode == facts.st_ino && before.length == one_mib, name + ": identity is of another file");
    if (how == STILL_LEASED) {
      check(still_private_bytes(held.snapshot) == 0,
            "private bytes of an untouched lease: " + std::to_string(still_private_bytes(held.snapshot)));
      check(still_current(held.snapshot) == STILL_SHARED, "a live lease is not SHARED");
    } else {
      check(still_private_bytes(held.snapshot) >= one_mib, "a copy has too few private bytes");
      check(still_current(held.snapshot) == STILL_PRIVATE, "a copy is not PRIVATE");
    }
    check(still_advise(held.snapshot, 0, 0, STILL_ADVISE_SEQUENTIAL) == 0, name + ": advise");
    check(still_advise(held.snapshot, 4096, 4096, STILL_ADVISE_POPULATE) == 0, name + ": populate");
    writer.strike_gets_through("answers");
    held.expect_still("answers");
    check(still_how(held.snapshot) == how, name + ": still_how changed");
    check(still_current(held.snapshot) == STILL_PRIVATE, name + ": not PRIVATE after a write");
    check(still_private_bytes(held.snapshot) >= one_mib,
          name + ": private bytes after a detach: " + std::to_string(still_private_bytes(held.snapshot)));
    check(still_changed(held.snapshot) == 1, name + ": not changed, though somebody wrote");
    still_identity_t after = {};
    after.size = sizeof after;
    still_identity(held.snapshot, &after);
    check(after.ctime_ns == before.ctime_ns && after.inode == before.inode && after.length == before.length,
          name + ": the identity of bytes that hold still has changed");
    still_snapshot* newer = nullptr;
    if (check(still_refresh(held.snapshot, &newer) == 0, name + ": refresh: " + still_message())) {
      check(still_data(newer) != still_data(held.snapshot), name + ": a refresh gave the old bytes");
      check(std::memcmp(still_data(newer), held.data(), 64) != 0, name + ": a refresh gave the old bytes");
      still_identity_t now = {};
      now.size = sizeof now;
      still_identity(newer, &now);
      check(now.ctime_ns != before.ctime_ns, name + ": equal identities of different bytes");
      check(still_changed(newer) == 0, name + ": the newer one is changed at once");
      still_close(newer);
    }
    held.expect_still("after the refresh");
    still_identity_t bad = {};
    check(still_identity(held.snapshot, &bad) == EINVAL, name + ": an identity of size 0 is filled");
  }
});

const registration renamed("a path that names another file is changed", [] {
  const std::string path = fresh_file(one_mib);
  for (const still_backing how : {STILL_LEASED, STILL_COPIED}) {
    foreign_writer writer(path, one_mib, "rename_over");
    still_options o = plain();
    o.backing = how;
    const watched held(path, o);
    if (!held) return;
    writer.strike_gets_through("rename over it");
    check(still_changed(held.snapshot) == 1, "still_changed says 0 of a path that names another file");
    held.expect_still("rename over it");
  }
});

const registration relative("a relative path is resolved when it is opened", [] {
  const std::string path = fresh_file(one_mib);
  check(chdir(case_folder().c_str()) == 0, "chdir");
  const watched held(path.substr(path.rfind('/') + 1));
  if (!held) return;
  check(chdir("/") == 0, "chdir");
  check(still_changed(held.snapshot) == 0, "changed, because the folder is another one");
});

// Kilobytes of `field` of the mapping that holds address.
long smaps_kb(const void* address, const char* field) {
  std::ifstream smaps("/proc/self/smaps");
  bool inside = false;
  const auto wanted = reinterpret_cast<std::uintptr_t>(address);
  for (std::string line; std::getline(smaps, line);) {
    unsigned long begin = 0, end = 0;
    if (std::sscanf(line.c_str(), "%lx-%lx ", &begin, &end) == 2) inside = begin <= wanted && wanted < end;
    if (inside && line.rfind(field, 0) == 0) return std::atol(line.c_str() + std::strlen(field));
  }
  return -1;
}

const registration cheap("a live lease is one entry in /proc/locks and holds no private memory", [] {
  const std::string path = fresh_file(4 * one_mib);
  const watched held(path);
  if (!held) return;
  check(leases_held() == 1, std::to_string(leases_held()) + " leases");
  const long dirty = smaps_kb(held.data(), "Private_Dirty:"), anonymous = smaps_kb(held.data(), "Anonymous:");
  // Its pages are dirty in the page cache until written back; none of them may be ours.
  check(anonymous == 0, "anonymous memory in the mapping: " + std::to_string(anonymous) + " kB");
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  fsync(fd);
  close(fd);
  std::printf("  Private_Dirty %ld kB before the write-back, %ld kB after\n", dirty,
              smaps_kb(held.data(), "Private_Dirty:"));
  check(smaps_kb(held.data(), "Private_Dirty:") == 0, "private dirty memory in the mapping");
  const watched beside(path);
  if (!beside) return;
  check(leases_held() == 1, "two snapshots of one file hold " + std::to_string(leases_held()) + " leases");
});

const registration strict("STRICT leaves no lease and SYNCED works", [] {
  const std::string path = fresh_file(one_mib);
  foreign_writer writer(path, one_mib);
  for (const still_consistency level : {STILL_VERIFIED, STILL_POINT_IN_TIME}) {
    still_options o = plain();
    o.flags = STILL_STRICT;
    o.require = level;
    const watched held(path, o);
    if (!held) return;
    check(leases_held() == 0, "STRICT left a lease");
    check(still_current(held.snapshot) == STILL_PRIVATE, "STRICT is not private");
    writer.strike_gets_through("STRICT");
    held.expect_still("STRICT");
  }
  still_options o = leased_options();
  o.flags = STILL_SYNCED | STILL_POPULATE;
  const watched held(path, o);
  if (!held) return;
  writer.strike_gets_through("SYNCED");
  held.expect_still("SYNCED");
});

const registration streams("a pipe, a file in /proc and a device are read to their end", [] {
  int ends[2];
  check(pipe2(ends, O_CLOEXEC) == 0 && write(ends[1], "hello", 5) == 5, "pipe");
  close(ends[1]);
  still_snapshot* out = nullptr;
  if (check(still_open_fd(ends[0], nullptr, &out) == 0, std::string("a pipe: ") + still_message())) {
    check(still_size(out) == 5 && std::memcmp(still_data(out), "hello", 5) == 0, "a pipe's bytes");
    still_close(out);
  }
  close(ends[0]);
  still_options o = plain();
  o.require = STILL_TORN;
  if (check(still_open("/proc/self/status", &o, &out) == 0, std::string("/proc: ") + still_message())) {
    check(still_size(out) > 100, "/proc/self/status is short");
    still_close(out);
  }
  if (check(still_open("/dev/null", &o, &out) == 0, std::string("/dev/null: ") + still_message())) {
    check(still_size(out) == 0 && still_data(out) != nullptr, "/dev/null");
    still_close(out);
  }
});

const registration descriptor("a caller's descriptor keeps its offset, its lease and its flags", [] {
  const std::string path = fresh_file(one_mib);
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  check(lseek(fd, 777, SEEK_SET) == 777, "lseek");
  check(fcntl(fd, F_SETLEASE, F_RDLCK) == 0, "a lease of the application's own");
  const int flags = fcntl(fd, F_GETFL), signal_before = fcntl(fd, F_GETSIG);
  for (const still_backing how : {STILL_AUTO, STILL_LEASED, STILL_COPIED}) {
    still_options o = plain();
    o.backing = how;
    still_snapshot* out = nullptr;
    if (!check(still_open_fd(fd, &o, &out) == 0, still_message())) continue;
    still_close(out);
  }
  check(lseek(fd, 0, SEEK_CUR) == 777, "the offset was moved");
  check(fcntl(fd, F_GETLEASE) == F_RDLCK, "the application's own lease is gone");
  check(fcntl(fd, F_GETFL) == flags && fcntl(fd, F_GETSIG) == signal_before, "flags or signal were changed");
  close(fd);
});

}  // namespace
}  // namespace adversary
