// SPDX-License-Identifier: Apache-2.0
#include "choice.hpp"

namespace stillmap {
namespace {

// The verifying order was proved here.
bool stamps_witness(file_system system) noexcept {
  return system == file_system::ext4 || system == file_system::xfs || system == file_system::btrfs;
}

// Why the file cannot be leased, or nullptr.
const char* no_lease(const facts& file, const machine& here) noexcept {
  if (file.kind != file_kind::regular) return "not a regular file";
  if (file.system == file_system::overlay)
    return "overlayfs: writers of the layers below do not meet the lease";
  if (file.system == file_system::tmpfs && file.links == 0)
    return "memory without a name (memfd): its own writable descriptor does not count as a writer";
  if (!leases_hold(file.system)) return "file system where a lease is not known to stop every writer";
  if (file.under_overlay)
    return "below the upper directory of an overlay: truncate through it breaks no lease";
  if (!file.own_descriptor) return "the descriptor could not be opened anew";
  if (!here.may_lease) return "another user's file, and no CAP_LEASE";
  return nullptr;
}

const char* why_sealed(const facts& file) noexcept {
  if (file.sealed_memory) return "sealed memory: F_SEAL_WRITE and F_SEAL_SHRINK";
  if (file.verity) return "fs-verity: the kernel lets no one write";
  if (file.read_only_kind && !file.loop_over_file) return "a read-only kind of file system";
  return nullptr;
}

const char* why_not_sealed(const facts& file) noexcept {
  if (file.read_only_kind)
    return "a read-only kind of file system, but on a loop device over a file that can be written";
  return "the file can be written: no seals, no fs-verity, no read-only kind of file system";
}

struct builder {
  plan& result;
  still_backing insisted;

  // A way that can be taken.
  void add(still_backing backing, const char* reason) noexcept {
    if (insisted != STILL_AUTO && insisted != backing) return pass(backing, "another way was insisted on");
    result.steps[result.count++] = {backing, outcome::planned, 0, reason};
  }
  void pass(still_backing backing, const char* reason) noexcept {
    result.steps[result.count++] = {backing, outcome::passed_over, 0, reason};
  }
  void refuse(int error, const char* reason) noexcept {
    if (result.refusal != 0) return;
    result.refusal = error;
    result.refusal_reason = reason;
  }
  // The way that is tried first; STILL_AUTO: none.
  still_backing first() const noexcept {
    for (std::size_t i = 0; i < result.count; ++i)
      if (result.steps[i].result == outcome::planned) return result.steps[i].backing;
    return STILL_AUTO;
  }
};

}  // namespace

bool may_clone(file_system system) noexcept {
  return system == file_system::xfs || system == file_system::btrfs || system == file_system::bcachefs;
}

plan choose(const facts& file, const request& wanted, const machine& here,
            const thresholds& limits) noexcept {
  plan result;
  builder build{result, wanted.backing};
  const bool sized = file.kind == file_kind::regular;
  result.length = !sized ? 0 : wanted.length != 0 ? wanted.length : file.at_open.size - wanted.offset;

  // What a copy could promise, and whether that is enough.
  const char* const lease_obstacle = no_lease(file, here);
  result.stamps_are_fine = here.multigrain_stamps;
  result.copy_may_lease = lease_obstacle == nullptr;
  still_consistency copy_level = STILL_TORN;
  if (why_sealed(file) != nullptr) {
    result.copy_witness = witness::nature;
    copy_level = result.nature_level = STILL_POINT_IN_TIME;
  } else if (file.kind == file_kind::stream || (file.loop_over_file && file.loop_root_only)) {
    result.copy_witness = witness::nature;
    copy_level = result.nature_level = STILL_VERIFIED;
  } else if (stamps_witness(file.system) && file.own_descriptor && sized) {
    result.copy_witness = witness::stamps;
    copy_level = result.copy_may_lease ? STILL_POINT_IN_TIME : STILL_VERIFIED;
  } else if (result.copy_may_lease) {
    copy_level = STILL_POINT_IN_TIME;
  }

  const bool provable = result.copy_witness == witness::stamps && wanted.require == STILL_VERIFIED;
  const bool unproved = result.copy_witness != witness::nature && wanted.require == STILL_TORN;
  // A copy that stands in for a lease is to prove as much.
  const bool instead_of_a_lease = here.warm_memory && result.length > limits.copy_max;
  result.copy_at_rest = sized && file.at_rest && (provable || unproved) && !instead_of_a_lease;

  const std::uint64_t budget =
      wanted.memory_budget < here.budget_left ? wanted.memory_budget : here.budget_left;
  const bool affordable = result.length <= budget;
  const std::uint64_t copy_max = wanted.access == STILL_ACCESS_RANDOM ? limits.copy_random_max
                                 : !here.warm_memory                  ? limits.copy_max
                                 : file.small_folios                  ? limits.copy_small_folios_max
                                                                      : limits.copy_warm_max;
  const bool small = result.length <= copy_max;

  const auto sealed = [&] {
    if (!sized) return build.pass(STILL_SEALED, "not a regular file");
    if (file.system == file_system::hugetlbfs)
      return build.pass(STILL_SEALED, "hugetlbfs: mapped in huge pages alone");
    if (const char* reason = why_sealed(file)) return build.add(STILL_SEALED, reason);
    build.pass(STILL_SEALED, why_not_sealed(file));
  };
  const auto leased = [&](const char* reason) {
    if (lease_obstacle != nullptr) return build.pass(STILL_LEASED, lease_obstacle);
    if (wanted.strict) return build.pass(STILL_LEASED, "STILL_STRICT: no lease may outlive the open");
    if (!here.lease_room && wanted.backing != STILL_LEASED)
      return build.pass(STILL_LEASED, "a quarter of RLIMIT_NOFILE goes to leases already");
    if (!affordable)
      return build.pass(STILL_LEASED, "a detach would need more private memory than memory_budget allows");
    build.add(STILL_LEASED, reason);
  };
  const auto cloned = [&](const char* reason) {
    if (!sized) return build.pass(STILL_CLONED, "not a regular file");
    if (!may_clone(file.system))
      return build.pass(STILL_CLONED, "file system that cannot share blocks between files");
    build.add(STILL_CLONED, reason);
  };
  // Reading it into memory of our own, or into a file of our own.
  const auto copy = [&](still_backing backing, const char* reason) {
    if (file.kind == file_kind::directory) return build.pass(backing, "a directory");
    if (copy_level < wanted.require) {
      build.refuse(STILL_ERROR_UNSUPPORTED, file.kind == file_kind::generated
                                                ? "made by the kernel while it is read: a copy is torn"
                                            : lease_obstacle != nullptr && copy_level == STILL_TORN
                                                ? lease_obstacle
                                                : "no way to prove that level for this file");
      return build.pass(backing, "a copy of this file cannot reach the level required");
    }
    if (backing == STILL_COPIED && !affordable) {
      build.refuse(STILL_ERROR_OVER_BUDGET,
                   "the copy would need more private memory than memory_budget allows");
      return build.pass(STILL_COPIED, "more private memory than memory_budget allows");
    }
    build.add(backing, reason);
  };
  const auto copied = [&](const char* reason) { copy(STILL_COPIED, reason); };
  const auto spilled = [&] {
    if (wanted.backing == STILL_SPILLED) return copy(STILL_SPILLED, "insisted on");
    if (!sized) return copy(STILL_SPILLED, "from memory_budget on into a private file");
    if (affordable) return build.pass(STILL_SPILLED, "memory_budget allows a copy in memory");
    copy(STILL_SPILLED, "more than memory_budget allows: into a private file");
  };

  // For what is too large to copy, where a copy would have been torn as well.
  const auto paged = [&] {
    if (!sized) return build.pass(STILL_PAGED, "not a regular file");
    if (file.system == file_system::hugetlbfs)
      return build.pass(STILL_PAGED, "hugetlbfs: memory is too dear there to be held twice");
    if (!file.own_descriptor)
      return build.pass(STILL_PAGED,
                        "the descriptor could not be opened anew, and one that is kept would keep its locks");
    if (wanted.place != nullptr) return build.pass(STILL_PAGED, "not at a given address");
    if (wanted.require > STILL_TORN)
      return build.pass(STILL_PAGED, "pages of different instants: less than the level required");
    if (wanted.backing == STILL_PAGED) return build.add(STILL_PAGED, "insisted on");
    if (affordable) return build.pass(STILL_PAGED, "only for what is too large to copy");
    build.add(STILL_PAGED, "too large to copy: pages are fetched when they are first touched");
  };

  const auto unguarded = [&](still_backing backing, const char* reason) {
    if (wanted.backing != backing) return build.pass(backing, "not protected: only by name");
    if (!sized) return build.pass(backing, "not a regular file");
    if (wanted.require > STILL_TORN)
      return build.pass(backing, "the level required needs protection, and this way has none");
    if (backing == STILL_COOPERATIVE && !file.own_descriptor)
      return build.pass(backing,
                        "the descriptor could not be opened anew, and a lock on it would be the caller's");
    build.add(backing, reason);
  };

  if (file.kind == file_kind::directory) build.refuse(STILL_ERROR_UNSUPPORTED, "a directory");

  // A small file that cannot change is copied all the same, for a read into warm memory is cheaper than a
  // mapping's faults; but sealed memory was made to be shared without a copy.
  const bool copy_first = wanted.backing == STILL_AUTO && sized && small && affordable &&
                          copy_level >= wanted.require && !file.sealed_memory;
  if (copy_first) {
    copied(instead_of_a_lease ? "memory is warm: reading into it is cheaper than the faults of a mapping"
                              : "small: reading it into recycled memory is cheaper than the faults of a mapping");
    sealed();
    leased("no copy could be had");
    cloned("no copy could be had");
  } else {
    const char* const cloning =
        wanted.backing == STILL_CLONED
            ? "insisted on"
            : "no lease: a reflink; what is dirty is written back first, and it is read from the "
              "disk again";
    sealed();
    leased(wanted.backing == STILL_LEASED ? "insisted on" : "large: the file's own pages, no copy");
    // Making a clone costs more than copying a few MiB.
    const bool clone_first = result.length >= limits.clone_min;
    if (clone_first) cloned(cloning);
    copied(!sized                           ? "read to its end"
           : wanted.backing == STILL_COPIED ? "insisted on"
                                            : "where no mapping can be guarded");
    if (!clone_first) cloned(cloning);
  }
  spilled();
  paged();
  unguarded(STILL_COOPERATIVE, "insisted on: only peers that take advisory locks are kept out");
  unguarded(STILL_TRUSTED, "insisted on: nothing protects the bytes");

  const still_backing first = build.first();
  const bool copy_sought = copy_first || wanted.backing == STILL_COPIED;
  result.warm_copy = instead_of_a_lease && copy_first;
  result.leases_matter = !(result.copy_at_rest && copy_sought && first == STILL_COPIED);
  if (first == STILL_AUTO) {
    if (wanted.backing != STILL_AUTO) {
      // The reason why the one insisted on was passed over.
      for (std::size_t i = 0; i < result.count; ++i) {
        if (result.steps[i].backing == wanted.backing) {
          result.refusal =
              result.refusal == STILL_ERROR_OVER_BUDGET ? result.refusal : int{STILL_ERROR_UNSUPPORTED};
          result.refusal_reason = result.steps[i].reason;
        }
      }
    }
    build.refuse(STILL_ERROR_UNSUPPORTED, "no way to hold this file still");
  } else {
    result.refusal = 0;
    result.refusal_reason = "";
  }
  return result;
}

}  // namespace stillmap
