// SPDX-License-Identifier: Apache-2.0
#include <cstdio>
#include <stillmap/snapshot.hpp>

int main(int count, char** arguments) {
  if (count != 2) return 1;
  std::error_code ec;
  const auto file = stillmap::snapshot::open(arguments[1], {.access = stillmap::access::sequential}, ec);
  if (!file) return std::fprintf(stderr, "%s\n", still_message()), 1;
#if defined(__cpp_exceptions)
  const std::string_view text = file.text();
  try {
    stillmap::snapshot::open("/there is no such file");
    return 1;
  } catch (const stillmap::error& error) {
    if (error.code() != std::errc::no_such_file_or_directory) return 1;
  }
#else
  const std::string_view text = file.text(ec);
#endif
  std::fwrite(text.data(), 1, text.size(), stdout);
}
