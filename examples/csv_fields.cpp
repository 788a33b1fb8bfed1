// SPDX-License-Identifier: Apache-2.0
//
// A parser over bytes(): counts the fields of a CSV file, then collects them, without a copy.
//
//   example_csv_fields FILE
//
// The second pass relies on the first: it writes into an array made for exactly the fields that were counted,
// and what it collects points into the file. Over a plain mmap both break when somebody saves the file in
// between; over a snapshot a count stays true.
#include <stillmap/snapshot.hpp>

#include <cstdio>
#include <memory>
#include <span>
#include <string_view>

namespace {

// Calls found(field, last_of_its_row) for every field. A quoted one may contain commas, newlines and doubled
// quotes.
template <class Found>
void each_field(std::span<const std::byte> bytes, Found found) {
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  std::size_t begin = 0;
  bool quoted = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '"') quoted = !quoted;
    if (quoted || (text[i] != ',' && text[i] != '\n')) continue;
    found(text.substr(begin, i - begin), text[i] == '\n');
    begin = i + 1;
  }
  if (begin < text.size()) found(text.substr(begin), true);
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 2) return std::fputs("usage: example_csv_fields FILE\n", stderr), 2;
  try {
    const auto file = stillmap::snapshot::open(arguments[1], {.access = stillmap::access::sequential});

    std::size_t fields = 0, rows = 0;
    each_field(file.bytes(), [&](std::string_view, bool last) {
      ++fields;
      rows += last;
    });

    const auto collected = std::make_unique<std::string_view[]>(fields);
    std::size_t next = 0;
    each_field(file.bytes(),
               [&](std::string_view field, bool) { collected[next++] = field; });  // no check needed

    std::string_view longest;
    for (const std::string_view field : std::span(collected.get(), fields))
      if (field.size() > longest.size()) longest = field;
    std::printf("%zu rows, %zu fields, the longest is %.*s\n", rows, fields, static_cast<int>(longest.size()),
                longest.data());
  } catch (const stillmap::error& error) {
    return std::fprintf(stderr, "%s\n", error.what()), 1;  // which file, what is in the way, what would help
  }
}
