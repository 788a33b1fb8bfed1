// SPDX-License-Identifier: Apache-2.0
//
// Validated text, and a parser that wants padding: simdjson reads JSON where it lies, without the copy into a
// padded_string that it otherwise needs.
//
//   example_json_total FILE      FILE: [{"name": "...", "bytes": 123}, ...]
//
// Text that was valid stays valid, and the padding promised by the open is there, so neither can be pulled
// from under the parser.
#include <simdjson.h>
#include <stillmap/snapshot.hpp>

#include <cstdint>
#include <cstdio>
#include <string_view>

int main(int count, char** arguments) {
  if (count != 2) return std::fputs("usage: example_json_total FILE\n", stderr), 2;
  try {
    const auto file = stillmap::snapshot::open(arguments[1], {.padding = simdjson::SIMDJSON_PADDING});
    const std::string_view text = file.text();  // UTF-8, looked at once; throws if it is not

    simdjson::ondemand::parser parser;
    const simdjson::padded_string_view padded(text, text.size() + simdjson::SIMDJSON_PADDING);
    simdjson::ondemand::document document = parser.iterate(padded);

    std::uint64_t entries = 0, total = 0;
    for (simdjson::ondemand::object entry : document.get_array()) {
      total += entry["bytes"].get_uint64();
      ++entries;
    }
    std::printf("%ju entries, %ju bytes\n", std::uintmax_t{entries}, std::uintmax_t{total});
  } catch (const stillmap::error& error) {
    return std::fprintf(stderr, "%s\n", error.what()), 1;
  } catch (const simdjson::simdjson_error& error) {
    return std::fprintf(stderr, "%s: %s\n", arguments[1], error.what()), 3;  // no JSON that we know
  }
}
