// SPDX-License-Identifier: Apache-2.0
//
// The C interface: checks what the caller gave, and passes on. What each function promises stands in
// stillmap.h.
#include <errno.h>
#include <stillmap/stillmap.h>

#include <algorithm>
#include <new>

#include "explanation.hpp"
#include "failure.hpp"
#include "many.hpp"
#include "options.hpp"
#include "settings.hpp"
#include "snapshot.hpp"
#include "warden/arming.hpp"

using namespace stillmap;

namespace {

int refuse(int error, const char* path, const char* cause) noexcept {
  return fail({error, path, cause, "", culprits::none, 0, 0});
}

int request_from(const still_options* options, const char* path, request& into) noexcept {
  const int error = read_options(options, into);
  return error == 0 ? 0 : refuse(error, path, "the options");
}

}  // namespace

extern "C" {

int still_open(const char* path, const still_options* options, still_snapshot** out) {
  if (path == nullptr || out == nullptr) return refuse(EINVAL, "still_open", "a null pointer");
  request wanted;
  if (const int error = request_from(options, path, wanted)) return error;
  return open_snapshot(path, -1, wanted, out, nullptr);
}

int still_open_fd(int fd, const still_options* options, still_snapshot** out) {
  if (out == nullptr) return refuse(EINVAL, "still_open_fd", "a null pointer");
  request wanted;
  if (const int error = request_from(options, "still_open_fd", wanted)) return error;
  return open_snapshot(nullptr, fd, wanted, out, nullptr);
}

int still_open_many(const char* const* paths, size_t count, const still_options* options,
                    still_snapshot** out) {
  if (count != 0 && (paths == nullptr || out == nullptr))
    return refuse(EINVAL, "still_open_many", "a null pointer");
  request wanted;
  if (const int error = request_from(options, "still_open_many", wanted)) return error;
  return open_many(paths, count, wanted, out);
}

const void* still_data(const still_snapshot* snapshot) {
  return snapshot->held.data;
}
size_t still_size(const still_snapshot* snapshot) {
  return snapshot->held.size;
}
still_backing still_how(const still_snapshot* snapshot) {
  return snapshot->how;
}
still_consistency still_when(const still_snapshot* snapshot) {
  return snapshot->held.when;
}
still_state still_current(const still_snapshot* snapshot) {
  return snapshot->by->current(snapshot->held);
}
uint64_t still_private_bytes(const still_snapshot* snapshot) {
  return snapshot->by->private_bytes(snapshot->held);
}
uint64_t still_lost_bytes(const still_snapshot* snapshot) {
  return std::min<std::uint64_t>(snapshot->by->lost_bytes(snapshot->held), snapshot->held.size);
}

void still_close(still_snapshot* snapshot) {
  // acq_rel: what other owners did with the bytes comes before their end
  if (snapshot != nullptr && snapshot->owners.fetch_sub(1, std::memory_order_acq_rel) == 1)
    close_snapshot(snapshot);
}

still_snapshot* still_share(still_snapshot* snapshot) {
  snapshot->owners.fetch_add(1, std::memory_order_relaxed);  // the caller's share keeps it alive meanwhile
  return snapshot;
}

int still_changed(const still_snapshot* snapshot) {
  return has_changed(*snapshot) ? 1 : 0;
}

int still_refresh(const still_snapshot* snapshot, still_snapshot** newer) {
  if (snapshot == nullptr || newer == nullptr) return refuse(EINVAL, "still_refresh", "a null pointer");
  if (!has_changed(*snapshot)) {
    *newer = still_share(const_cast<still_snapshot*>(snapshot));
    return 0;
  }
  if (snapshot->path() == nullptr)
    return refuse(STILL_ERROR_UNSUPPORTED, "still_refresh",
                  "opened by descriptor: there is no path to open again");
  return open_snapshot(snapshot->path(), -1, snapshot->asked, newer, nullptr);
}

int still_identity(const still_snapshot* snapshot, still_identity_t* identity) {
  if (snapshot == nullptr || identity == nullptr) return refuse(EINVAL, "still_identity", "a null pointer");
  still_identity_t known{};
  if (const int error = copy_versioned(known, *identity))
    return refuse(error, "still_identity", "the size of the struct");
  const stamps& taken = snapshot->held.taken;
  identity->exact = identity_is_exact(*snapshot) ? 1 : 0;
  identity->device = taken.device;
  identity->inode = taken.inode;
  identity->length = taken.size;
  identity->birth_ns = static_cast<std::uint64_t>(taken.birth_ns);
  identity->ctime_ns = static_cast<std::uint64_t>(taken.change_ns);
  identity->generation = 0;
  return 0;
}

int still_advise(still_snapshot* snapshot, uint64_t offset, uint64_t length, int advice) {
  if (snapshot == nullptr) return refuse(EINVAL, "still_advise", "a null pointer");
  const std::uint64_t size = snapshot->held.size;
  if (offset > size || length > size - offset) return refuse(ERANGE, "still_advise", "beyond the end");
  if (length == 0) length = size - offset;
  if (advice < STILL_ADVISE_SEQUENTIAL || advice > STILL_ADVISE_HUGEPAGE)
    return refuse(EINVAL, "still_advise", "no such advice");
  if (length == 0) return 0;
  const taking result = snapshot->by->advise(snapshot->held, offset, length, advice);
  return result.error == 0 ? 0 : refuse(result.error, "still_advise", result.reason);
}

int still_detach(still_snapshot* snapshot) {
  int error = 0;
  if (snapshot != nullptr)
    error = snapshot->by->detach(snapshot->held);
  else if (!warden::detach_all())
    error = STILL_ERROR_OVER_BUDGET;
  return error == 0 ? 0
                    : refuse(error, snapshot != nullptr && snapshot->path() != nullptr ? snapshot->path() : "still_detach",
                             error == STILL_ERROR_LOST ? "a writer was let in before all was private"
                                                       : "more private memory than the budget, or the machine, has");
}

const char* still_message(void) {
  return message_of_last_failure();
}
const char* still_strerror(int error) {
  return words_for(error);
}

const char* still_backing_name(still_backing backing) {
  switch (backing) {
    case STILL_AUTO:
      return "auto";
    case STILL_SEALED:
      return "sealed";
    case STILL_LEASED:
      return "leased";
    case STILL_CLONED:
      return "cloned";
    case STILL_COPIED:
      return "copied";
    case STILL_PAGED:
      return "paged";
    case STILL_SPILLED:
      return "spilled";
    case STILL_COOPERATIVE:
      return "cooperative";
    case STILL_TRUSTED:
      return "trusted";
  }
  return "unknown";
}

const char* still_consistency_name(still_consistency consistency) {
  switch (consistency) {
    case STILL_TORN:
      return "torn";
    case STILL_VERIFIED:
      return "verified";
    case STILL_POINT_IN_TIME:
      return "point_in_time";
  }
  return "unknown";
}

const char* still_state_name(still_state state) {
  switch (state) {
    case STILL_SHARED:
      return "shared";
    case STILL_PRIVATE:
      return "private";
    case STILL_LOST:
      return "lost";
  }
  return "unknown";
}

#define STILL_TEXT_(x) #x
#define STILL_TEXT(x) STILL_TEXT_(x)
const char* still_version(void) {
  return STILL_TEXT(STILL_VERSION_MAJOR) "." STILL_TEXT(STILL_VERSION_MINOR) "." STILL_TEXT(
      STILL_VERSION_PATCH);
}

int still_configure(const still_settings* settings) {
  if (settings == nullptr) return refuse(EINVAL, "still_configure", "a null pointer");
  const int error = configure(*settings);
  return error == 0
             ? 0
             : refuse(error, "still_configure", error == EBUSY ? "after the first open" : "the settings");
}

int still_explain(const char* path, const still_options* options, still_explanation** out) {
  if (path == nullptr || out == nullptr) return refuse(EINVAL, "still_explain", "a null pointer");
  request wanted;
  if (const int error = request_from(options, path, wanted)) return error;
  return explain(path, wanted, out);
}

size_t still_explanation_facts(const still_explanation* explanation) {
  return explanation->facts.size();
}
const char* still_explanation_fact_name(const still_explanation* explanation, size_t index) {
  return index < explanation->facts.size() ? explanation->facts[index].name : "";
}
const char* still_explanation_fact_value(const still_explanation* explanation, size_t index) {
  return index < explanation->facts.size() ? explanation->facts[index].value.c_str() : "";
}
size_t still_explanation_steps(const still_explanation* explanation) {
  return explanation->what.chosen.count;
}
int still_explanation_step(const still_explanation* explanation, size_t index, still_step* into) {
  if (into == nullptr || index >= explanation->what.chosen.count) return EINVAL;
  const step& row = explanation->what.chosen.steps[index];
  into->backing = row.backing;
  into->taken = row.result == outcome::taken;
  into->tried = row.result == outcome::taken || row.result == outcome::failed;
  into->error = row.error;
  into->reason = row.reason;
  return 0;
}
int still_explanation_error(const still_explanation* explanation) {
  return explanation->error;
}
const char* still_explanation_message(const still_explanation* explanation) {
  return explanation->message.c_str();
}
still_snapshot* still_explanation_snapshot(const still_explanation* explanation) {
  return explanation->snapshot;
}
void still_explanation_free(still_explanation* explanation) {
  if (explanation == nullptr) return;
  still_close(explanation->snapshot);
  delete explanation;
}

}  // extern "C"
