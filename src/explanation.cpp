// SPDX-License-Identifier: Apache-2.0
#include "explanation.hpp"

#include <errno.h>

#include <memory>
#include <new>

#include "crossing.hpp"
#include "failure.hpp"

namespace stillmap {
namespace {

const char* yes_no(bool value) noexcept {
  return value ? "yes" : "no";
}

const char* witness_words(const plan& chosen) noexcept {
  switch (chosen.copy_witness) {
    case witness::nature:
      return "its nature: nobody can change what is read";
    case witness::stamps:
      return chosen.copy_may_lease ? "a lease while reading, else time stamps" : "time stamps";
    default:
      return chosen.copy_may_lease ? "a lease while reading, else nothing (torn)" : "nothing (torn)";
  }
}

std::string crossing_words() {
  const crossing::costs* const measured = crossing::measure();
  const thresholds& limits = crossing::limits(0);
  const auto kib = [](std::uint64_t bytes) {
    return bytes % 1024 == 0 ? std::to_string(bytes / 1024) + " KiB" : std::to_string(bytes) + " bytes";
  };
  std::string text = kib(limits.copy_max) + "; into warm memory " + kib(limits.copy_warm_max) + ", in small folios " +
                     kib(limits.copy_small_folios_max);
  if (measured != nullptr) {
    const auto us = [](std::int64_t ns) { return std::to_string((ns + 500) / 1000) + " us"; };
    text += " (here a MiB takes " + us(measured->copy_mib) + " to copy, " + us(measured->map_mib) + " to map)";
  }
  return text;
}

}  // namespace

int explain(const char* path, const request& wanted, still_explanation** out) noexcept try {
  auto result = std::make_unique<still_explanation>();
  const std::string copied_up_to = crossing_words();  // measured first, for the plan goes by it
  result->error = open_snapshot(path, -1, wanted, &result->snapshot, &result->what);
  if (result->error != 0) result->message = message_of_last_failure();
  const facts& known = result->what.known;
  if (known.at_open.inode != 0) {
    auto& list = result->facts;
    list.push_back({"kind", name_of(known.kind)});
    list.push_back({"file system", name_of(known.system)});
    list.push_back({"size", std::to_string(known.at_open.size)});
    list.push_back({"device", std::to_string(known.at_open.device)});
    list.push_back({"inode", std::to_string(known.at_open.inode)});
    list.push_back({"links", std::to_string(known.links)});
    list.push_back({"owner", std::to_string(known.owner)});
    list.push_back({"sealed memory", yes_no(known.sealed_memory)});
    list.push_back({"fs-verity", yes_no(known.verity)});
    list.push_back({"read-only kind of file system", yes_no(known.read_only_kind)});
    list.push_back({"below an overlay's upper directory", yes_no(known.under_overlay)});
    list.push_back({"copied up to", copied_up_to});
    list.push_back({"proof of a copy", witness_words(result->what.chosen)});
  }
  *out = result.release();
  return 0;
} catch (const std::bad_alloc&) {
  return fail({ENOMEM, path, "", "", culprits::none, 0, 0});
}

}  // namespace stillmap
