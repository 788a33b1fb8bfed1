/* SPDX-License-Identifier: Apache-2.0
 *
 * What a mapping costs a program that makes many: ns for each, with and without the preload in the environment.
 *
 *   bench_preload_calls touch FOLDER FILES COUNT      open, fstat, mmap, read of every page, munmap, close
 *   bench_preload_calls untouched FOLDER FILES COUNT  ... without the read
 *   bench_preload_calls anonymous - 0 COUNT           mmap and munmap of four pages that are no file's
 *
 * The files are FOLDER/0, FOLDER/1, ... */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static double now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static void fail(const char* what) {
  perror(what);
  exit(1);
}

static unsigned long sum;

static void one_file(const char* path, int touch) {
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) fail(path);
  struct stat found;
  if (fstat(fd, &found) != 0) fail("fstat");
  const size_t size = (size_t)found.st_size;
  volatile const unsigned char* const bytes = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
  if (bytes == MAP_FAILED) fail("mmap");
  for (size_t at = 0; touch && at < size; at += 4096) sum += bytes[at];
  if (munmap((void*)bytes, size) != 0) fail("munmap");
  close(fd);
}

static void one_anonymous(void) {
  void* const place = mmap(NULL, 16384, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (place == MAP_FAILED) fail("mmap");
  if (munmap(place, 16384) != 0) fail("munmap");
}

int main(int argc, char** argv) {
  if (argc != 5) return fprintf(stderr, "usage: see the source\n"), 2;
  const int of_files = strcmp(argv[1], "anonymous") != 0, touch = strcmp(argv[1], "touch") == 0;
  const long files = atol(argv[3]), count = atol(argv[4]);
  char path[4096];
  double begin = 0;
  /* The first round warms: names, page cache, the library's first use. */
  for (long i = -(files > 0 ? files : 1000); i < count; ++i) {
    if (i == 0) begin = now_ns();
    if (of_files) {
      snprintf(path, sizeof path, "%s/%ld", argv[2], (i + files) % files);
      one_file(path, touch);
    } else {
      one_anonymous();
    }
  }
  printf("%.1f\n", (now_ns() - begin) / (double)count);
  return sum == 42;
}
