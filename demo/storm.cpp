// SPDX-License-Identifier: Apache-2.0
//
// What a build, an editor and a log rotation do to a folder, without pause: rewrites files in place,
// truncates and writes them anew, stores through shared mappings. Each file has two versions, which differ in
// the case of one word, so that a line shown for that word tells whether it still holds it. Runs until its
// input is closed; then prints how many changes it made.
//
//   demo_storm FOLDER WORD TURN STORMS
#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

namespace {

struct victim {
  std::string path;
  std::string versions[2];
};

std::string with_word_in_capitals(std::string text, const std::string& word) {
  for (std::size_t at = text.find(word); at != std::string::npos; at = text.find(word, at)) {
    for (std::size_t i = 0; i < word.size(); ++i, ++at) text[at] = static_cast<char>(std::toupper(text[at]));
  }
  return text;
}

void write_whole(int fd, const std::string& text) {
  for (std::size_t done = 0; done < text.size();) {
    const ssize_t wrote = ::pwrite(fd, text.data() + done, text.size() - done, static_cast<off_t>(done));
    if (wrote <= 0) return;
    done += static_cast<std::size_t>(wrote);
  }
}

void rewrite_in_place(const victim& file, const std::string& text) {
  const int fd = ::open(file.path.c_str(), O_WRONLY | O_CLOEXEC);
  if (fd < 0) return;
  write_whole(fd, text);
  ::close(fd);
}

void truncate_and_write(const victim& file, const std::string& text) {
  const int fd = ::open(file.path.c_str(), O_WRONLY | O_TRUNC | O_CLOEXEC);
  if (fd < 0) return;
  write_whole(fd, text);
  ::close(fd);
}

void store_through_a_mapping(const victim& file, const std::string& text) {
  const int fd = ::open(file.path.c_str(), O_RDWR | O_CLOEXEC);
  if (fd < 0) return;
  struct stat now;
  // Its own mapping is of the first page alone, which no truncation but one to nothing takes away; the other
  // storms keep to their own files.
  const std::size_t bytes = std::min<std::size_t>(text.size(), 4096);
  void* const data = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (data != MAP_FAILED) {
    if (::fstat(fd, &now) == 0 && static_cast<std::size_t>(now.st_size) >= bytes)
      std::memcpy(data, text.data(), bytes);
    ::munmap(data, bytes);
  }
  ::close(fd);
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 5) return 2;
  const std::string word = arguments[2];
  // Of several storms, each has its own files.
  const unsigned turn = static_cast<unsigned>(std::atoi(arguments[3])),
                 storms = static_cast<unsigned>(std::atoi(arguments[4]));
  unsigned seen = 0;
  std::vector<victim> files;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(arguments[1])) {
    if (!entry.is_regular_file() || entry.is_symlink() || entry.file_size() == 0) continue;
    std::ifstream in(entry.path(), std::ios::binary);
    const std::string text(std::istreambuf_iterator<char>(in), {});
    if (text.find(word) == std::string::npos) continue;
    if (++seen % storms != turn) continue;
    files.push_back({entry.path(), {text, with_word_in_capitals(text, word)}});
  }
  if (files.empty()) return 2;
  // Large files first: they are searched longest.
  std::sort(files.begin(), files.end(),
            [](const victim& a, const victim& b) { return a.versions[0].size() > b.versions[0].size(); });
  std::mt19937 random(turn);
  std::puts("ready");
  std::fflush(stdout);
  unsigned long changes = 0;
  for (pollfd input{0, POLLIN, 0}; ::poll(&input, 1, 0) == 0; ++changes) {
    // Every other change hits one of the large ones.
    const std::size_t among = changes % 2 == 0 ? std::min<std::size_t>(files.size(), 4) : files.size();
    const victim& file = files[random() % among];
    const std::string& text = file.versions[random() % 2];
    switch (random() % 3) {
      case 0:
        rewrite_in_place(file, text);
        break;
      case 1:
        truncate_and_write(file, text);
        break;
      default:
        store_through_a_mapping(file, text);
    }
  }
  std::printf("%lu\n", changes);
}
