// SPDX-License-Identifier: Apache-2.0
#include <array>
#include <cstdio>
#include <stillmap/live.hpp>
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
  const auto shared = stillmap::live::mapping::open(arguments[1], stillmap::live::mode::read, ec);
  const auto first = shared.as_atomic_bytes().load<char>(0, std::memory_order_acquire, ec);
  if (ec || text.empty() || first != text[0]) return 1;
  std::array<std::byte, 4> copied{};
  if (shared.as_cell_bytes().copy_to(0, copied, ec) != copied.size()) return 1;
  std::fwrite(text.data(), 1, text.size(), stdout);
}
