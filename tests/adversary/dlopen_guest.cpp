// SPDX-License-Identifier: Apache-2.0
//
// A program that is not linked with stillmap: it loads the library, takes a leased snapshot, unloads the
// library with the lease still held, and then lets a writer process break it. What is left of the library
// must answer.
#include <dlfcn.h>
#include <fcntl.h>
#include <stillmap/stillmap.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <vector>

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  const char* path = argv[2];
  void* library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    std::fprintf(stderr, "dlopen: %s\n", dlerror());
    return 3;
  }
  const auto open_snapshot = reinterpret_cast<decltype(&still_open)>(dlsym(library, "still_open"));
  const auto data = reinterpret_cast<decltype(&still_data)>(dlsym(library, "still_data"));
  const auto size = reinterpret_cast<decltype(&still_size)>(dlsym(library, "still_size"));
  if (!open_snapshot || !data || !size) return 4;
  still_options options = {};
  options.size = sizeof options;
  options.backing = STILL_LEASED;
  static still_snapshot* snapshot = nullptr;  // never closed, and never lost to a leak checker
  if (const int error = open_snapshot(path, &options, &snapshot)) {
    std::fprintf(stderr, "still_open: %d\n", error);
    return 5;
  }
  const char* bytes = static_cast<const char*>(data(snapshot));
  const std::size_t count = size(snapshot);
  const std::vector<char> first(bytes, bytes + count);
  dlclose(library);
  const pid_t writer = fork();
  if (writer == 0) {
    const int fd = open(path, O_WRONLY);
    _exit(fd >= 0 && write(fd, "XXXXXXXX", 8) == 8 ? 0 : 1);
  }
  int status = 0;
  waitpid(writer, &status, 0);
  if (status != 0) return 6;
  return std::memcmp(bytes, first.data(), count) == 0 ? 0 : 7;
}
