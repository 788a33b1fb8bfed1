/* SPDX-License-Identifier: Apache-2.0
 *
 * mmap(2) with the flag that Linux has not: a C program that maps a file, with MAP_SNAPSHOT where MAP_PRIVATE
 * stood. Counts lines, and says which is the longest.
 *
 *   example_map_snapshot FILE
 *
 * The descriptor may be closed at once, and the pages go through still_munmap. errno is as with mmap: EAGAIN
 * says that the file is being written just now. Pages behind the file's end would be SIGBUS as usual, but a
 * file that becomes shorter later takes nothing away.
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <stillmap/stillmap.h>

int main(int count, char** arguments) {
  if (count != 2) return fputs("usage: example_map_snapshot FILE\n", stderr), 2;
  const int fd = open(arguments[1], O_RDONLY | O_CLOEXEC);
  struct stat status;
  if (fd < 0 || fstat(fd, &status) != 0) return perror(arguments[1]), 1;
  const size_t size = (size_t)status.st_size;
  if (size == 0) return puts("0 lines"), 0; /* as mmap: there is no empty mapping */

  const char* const bytes = still_mmap(NULL, size, PROT_READ, MAP_SNAPSHOT, fd, 0);
  if (bytes == MAP_FAILED) return perror(still_message()), 1;
  close(fd);

  size_t lines = 0, longest = 0, longest_at = 0;
  for (const char *line = bytes, *const end = bytes + size; line < end;) {
    const char* const newline = memchr(line, '\n', (size_t)(end - line));
    const char* const line_end = newline != NULL ? newline : end;
    ++lines;
    if ((size_t)(line_end - line) > longest) {
      longest = (size_t)(line_end - line);
      longest_at = lines;
    }
    line = line_end + 1;
  }
  printf("%zu lines, the longest is line %zu with %zu bytes\n", lines, longest_at, longest);
  return still_munmap((void*)bytes, size) == 0 ? 0 : 1;
}
