// SPDX-License-Identifier: Apache-2.0
//
// An index that is mapped and searched: fixed records in the order of their keys, each lookup a few pages.
//
//   example_lookup INDEX KEY...
//
// A binary search stands on an order that must not change while it runs. The whole command answers from one
// state of the index, though it may be rewritten between two lookups. Nothing is read but the pages touched,
// for access::random turns readahead off.
#include <stillmap/snapshot.hpp>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <span>

namespace {

struct record {
  std::uint64_t key;  // in the machine's byte order
  char value[24];     // ends with a zero, unless it fills them
};

record record_at(std::span<const std::byte> index, std::size_t i) {
  record result;
  std::memcpy(&result, index.data() + i * sizeof(record), sizeof(record));
  return result;
}

std::optional<record> find(std::span<const std::byte> index, std::uint64_t key) {
  std::size_t low = 0, high = index.size() / sizeof(record);
  while (low < high) {
    const std::size_t middle = low + (high - low) / 2;
    const record seen = record_at(index, middle);
    if (seen.key == key) return seen;
    if (seen.key < key)
      low = middle + 1;
    else
      high = middle;
  }
  return std::nullopt;
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 3) return std::fputs("usage: example_lookup INDEX KEY...\n", stderr), 2;
  std::error_code ec;  // the twin that does not throw
  const auto index = stillmap::snapshot::open(arguments[1], {.access = stillmap::access::random}, ec);
  if (!index) return std::fprintf(stderr, "%s\n", still_message()), 1;
  if (index.size() % sizeof(record) != 0) return std::fprintf(stderr, "%s: no index\n", arguments[1]), 3;

  for (int i = 2; i < count; ++i) {
    const auto found = find(index.bytes(), std::strtoull(arguments[i], nullptr, 10));
    if (found)
      std::printf("%s %.*s\n", arguments[i], static_cast<int>(sizeof found->value), found->value);
    else
      std::printf("%s is not there\n", arguments[i]);
  }
}
