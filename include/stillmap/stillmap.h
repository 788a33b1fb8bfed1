/* SPDX-License-Identifier: Apache-2.0
 *
 * stillmap: file mappings that hold still.
 *
 * still_open gives a file's bytes as ordinary, immutable memory. Once a byte has been observed it never
 * changes, whatever this or any other process does to the file: write, store through another mapping,
 * truncate, punch, rename, unlink. Where that cannot be kept up, an access faults (state STILL_LOST); it never
 * reads a different byte.
 *
 * Caveats, in full in docs/guarantees.md:
 *   - root writing the block device, and whoever may ptrace this process, are outside every promise;
 *   - references to the pages that the kernel keeps beyond a call (io_uring fixed buffers, MSG_ZEROCOPY,
 *     vmsplice) may show the file as it is after a detach;
 *   - a leased snapshot of a process that is stopped for longer than /proc/sys/fs/lease-break-time may show
 *     changed bytes to threads that run before the warden does: STILL_STRICT leaves leases out;
 *   - a leased or paged mapping is not inherited by fork unless STILL_FORK_CARRY is asked for: the child faults
 *     on it.
 *
 * Threads: every function may be called from any thread. One snapshot may be read from any number of threads
 * without locks; closing it is for its last owner, as with free(). No function is async-signal-safe.
 *
 * Errors: functions that return int give 0 or an error number and leave errno alone. Numbers below
 * STILL_ERROR_BASE are errno values. On failure an output argument is untouched.
 */
#ifndef STILLMAP_STILLMAP_H
#define STILLMAP_STILLMAP_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define STILL_VERSION_MAJOR 0
#define STILL_VERSION_MINOR 1
#define STILL_VERSION_PATCH 0

#if defined(__GNUC__)
#define STILL_API __attribute__((visibility("default")))
#else
#define STILL_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* One snapshot of one file. Freed by still_close. */
typedef struct still_snapshot still_snapshot;

/* Which moment the bytes come from, weakest first. */
typedef enum {
  STILL_TORN = 1,         /* every byte holds still, yet pages may come from different instants */
  STILL_VERIFIED = 2,     /* no change was detected while the bytes were taken */
  STILL_POINT_IN_TIME = 3 /* all bytes are the file at one instant during still_open */
} still_consistency;

/* The way a snapshot is kept from changing. docs/design.md describes each. */
typedef enum {
  STILL_AUTO = 0,
  STILL_SEALED,  /* the file cannot change; mapped directly */
  STILL_LEASED,  /* mapped directly under a read lease; copied away before a writer gets in */
  STILL_CLONED,  /* a reflink of the file without a name (btrfs, XFS, bcachefs), mapped; works with writers
                    there.  What is dirty is written back first, and the bytes are read from the disk anew. An
                    access  faults on a disk error */
  STILL_COPIED,  /* read into private memory */
  STILL_PAGED,   /* pages fetched once, at first touch: for what is too large to copy. Torn: `require` is
                    STILL_TORN where it is not given, and a higher one is refused. A plan of STILL_AUTO has
                    it only where STILL_TORN is accepted and a copy is over the budget. A page that cannot be
                    read when it is touched (an error, or the file ends before it by now) is lost: the access
                    faults, still_current says STILL_LOST, still_lost_bytes how much. Pages fetched are
                    memory of our own: they count in still_private_bytes and for the process's
                    memory_budget, so that others get less, but are never refused, for a byte observed
                    cannot be given up. Without CAP_SYS_PTRACE, access to /dev/userfaultfd or
                    vm.unprivileged_userfaultfd=1, a system call that is given a page not fetched yet fails
                    with EFAULT: STILL_ADVISE_POPULATE first. With it, never give write(2) to a file the
                    unfetched pages of a snapshot of that same file: on XFS the two would wait for each
                    other. Refused by most container profiles: STILL_ERROR_UNSUPPORTED. Linux 5.11,
                    userfaultfd(2) */
  STILL_SPILLED, /* copied into a private temporary file, for more than memory_budget: all of it is allocated
                    before, and on the disk when the open returns. An access faults on a disk error */
  STILL_COOPERATIVE, /* by name only: the file's own pages under shared advisory locks, flock(2) and
                        F_OFD_SETLK, for the snapshot's life. Bytes change, and an access faults, as with
                        mmap(2), where a peer writes or truncates without taking an exclusive lock first. A
                        held lock refuses the open (STILL_ERROR_BUSY_WRITER). Keeps one descriptor; an
                        application that closes it loses the locks; a forked child shares them until it execs,
                        closes or ends */
  STILL_TRUSTED /* by name only: the file's own pages, unprotected. Bytes change, and an access faults, as
                   with mmap(2), whenever anybody writes or truncates. For files that you know nobody will
                   touch. Neither of the two proves a level: `require` is STILL_TORN where it is not
                   given, and a higher one is refused */
} still_backing;

/* What keeps the bytes at this moment. */
typedef enum {
  STILL_SHARED = 1,  /* the file's own pages, guarded */
  STILL_PRIVATE = 2, /* memory of our own */
  STILL_LOST = 3     /* could not be kept: an access faults, bytes never change */
} still_state;

/* Error numbers of the library's own. */
enum {
  STILL_ERROR_BASE = 10000,
  STILL_ERROR_BUSY_WRITER = 10001, /* somebody has the file open for writing, and no way in the plan bears it */
  STILL_ERROR_UNSUPPORTED = 10002, /* the way or level asked for is not to be had for this file, or not built */
  STILL_ERROR_OVER_BUDGET = 10003, /* more private memory would be needed than memory_budget allows */
  STILL_ERROR_CHANGING = 10004,    /* the file changed during every attempt to copy it */
  STILL_ERROR_LOST = 10005         /* the snapshot's bytes could not be kept */
};

/* options.access: how the bytes will be read. A hint for the choice and for madvise(2). */
enum { STILL_ACCESS_DEFAULT = 0, STILL_ACCESS_SEQUENTIAL = 1, STILL_ACCESS_RANDOM = 2 };

/* options.fork: what a child made by fork(2) finds at the address of a leased or paged mapping. */
enum {
  STILL_FORK_ABSENT = 0, /* nothing: an access faults. Costs nothing */
  STILL_FORK_CARRY = 1   /* the bytes: they are made private before each fork, while writers wait as in a detach;
                            paged: all pages are fetched before the first fork, which waits for them */
};

/* options.flags */
enum {
  STILL_STRICT = 1u << 0,   /* no lease outlives still_open: nothing is left to another process's good will */
  STILL_SYNCED = 1u << 1,   /* a lease is kept only after fdatasync(2) under it: guards against a device that
                               refuses dirty pages of a dead writer. Costs a flush, also on a clean file */
  STILL_POPULATE = 1u << 2  /* map the pages in before still_open returns */
};

/* Zero means default for every field but size. */
typedef struct still_options {
  size_t size;               /* sizeof(still_options). Smaller than version 0.1's: EINVAL. Larger, with bytes
                                that this version does not know and that are not zero: E2BIG */
  still_backing backing;     /* STILL_AUTO, or insist on one */
  still_consistency require; /* weakest level accepted; default STILL_VERIFIED */
  uint64_t offset;           /* first byte, page-aligned or not; beyond the end: ERANGE */
  uint64_t length;           /* bytes; 0 = to the end; beyond the end: ERANGE; overflowing: EOVERFLOW */
  uint64_t memory_budget;    /* bytes of private memory that a copy or a detach of this snapshot may take;
                                default: the process's (still_settings) */
  int access;                /* STILL_ACCESS_... */
  int fork;                  /* STILL_FORK_... */
  unsigned flags;            /* STILL_STRICT, STILL_SYNCED, STILL_POPULATE */
  uint32_t padding;          /* readable zero bytes promised behind the last byte (64 for simdjson, 1 for a NUL) */
} still_options;

/* Opens a snapshot of the file that path names.
 *
 * Promise: bytes once observed never change (see the caveats above); the level of consistency is at least
 * options->require, and still_when tells the level reached. What is no regular file (a pipe, a terminal, a
 * file in /proc) is read to its end. A relative path is resolved now, not when still_changed looks again.
 * Lifetime: until the last owner's still_close. Works for empty files.
 * Errors: those of open(2); EISDIR; ERANGE, EOVERFLOW for the range; EINVAL, E2BIG for the options; EMFILE,
 * ENOMEM; the STILL_ERROR_... above. still_message says which file, what is in the way, and what would help.
 * Cost: a file up to 512 KiB costs one read into recycled memory (up to 2 MiB where that memory is warm, to
 * 8 MiB where a mapping would take many page faults as well); above that a mapping and about 6 us for the
 * lease, whatever the size.
 * The first lease of a process starts the warden's threads (about 0.1 ms).
 * Kernel: 5.10 or later; levels are better from 6.13 on (multigrain time stamps).
 * Sources: open(2), fcntl(2) "Leases", kernel fs/locks.c. */
STILL_API int still_open(const char* path, const still_options* options, still_snapshot** out);

/* The same for an open descriptor, which stays the caller's: neither its offset nor its flags nor its locks are
 * touched, and it may be closed as soon as this returns. The snapshot is of the whole file (options->offset
 * counts from its start), but a pipe, a socket or a terminal is read from where it stands to its end. */
STILL_API int still_open_fd(int fd, const still_options* options, still_snapshot** out);

/* Opens count files. All or none: on an error nothing stays open, and still_message names the file.
 *
 * options->require = STILL_POINT_IN_TIME for more than one file asks for one instant for all of them: a lease
 * is taken on each, then the bytes, and then each is looked at again (the path names the same file, the size
 * is the same, the lease was never broken). All leases stood at one moment, and all bytes are of that moment.
 * The same file may appear more than once. A writer who comes meanwhile does not wait for the other files;
 * all is released, and tried again after a random while, a dozen times within about 0.2 s. Errors: as
 * still_open, for the file that still_message names; STILL_ERROR_BUSY_WRITER or _CHANGING where writers came
 * in every attempt; STILL_ERROR_UNSUPPORTED where a file can have no lease and may change. Each file takes a
 * descriptor until the call returns: EMFILE. Cost: an open and a lease for each file on top of the opens. */
STILL_API int still_open_many(const char* const* paths, size_t count, const still_options* options,
                              still_snapshot** out);

/* The first byte. Never NULL, also for size 0; never moves while the snapshot lives; 64-byte aligned where the
 * offset is. */
STILL_API const void* still_data(const still_snapshot* snapshot);
STILL_API size_t still_size(const still_snapshot* snapshot);

/* The way taken by still_open. Never changes: a detach shows in still_current, from SHARED to PRIVATE. */
STILL_API still_backing still_how(const still_snapshot* snapshot);
STILL_API still_consistency still_when(const still_snapshot* snapshot);
STILL_API still_state still_current(const still_snapshot* snapshot);

/* Gives up this owner's share; the last one frees the memory and releases the lease. NULL is fine. */
STILL_API void still_close(still_snapshot* snapshot);

/* Another owner of the same bytes: still_close once for each. Cost: one atomic increment. */
STILL_API still_snapshot* still_share(still_snapshot* snapshot);

/* 0 only where it is proved that the path still names this inode and that its bytes are the snapshot's:
 * sealed; or the lease held unbroken and the size equal; or stamps equal on ext4, XFS and btrfs where the
 * snapshot is at least VERIFIED. Otherwise 1: always of a copy from tmpfs, whose stamps prove nothing, and what is
 * leased there once may be copied the next time (see still_open, copy_max). Opened by descriptor: the path question is left out, and a copy
 * always answers 1, for nothing of the file is kept to ask.
 * Cost: three to six system calls. */
STILL_API int still_changed(const still_snapshot* snapshot);

/* Sets *newer to a snapshot taken now with the same options if still_changed says so; else to another owner of
 * the same bytes, at no further cost. Errors: as still_open; a snapshot opened by descriptor of what cannot be
 * opened again: STILL_ERROR_UNSUPPORTED. */
STILL_API int still_refresh(const still_snapshot* snapshot, still_snapshot** newer);

/* A key for caches. */
typedef struct still_identity_t {
  uint32_t size;  /* set by the caller: sizeof(still_identity_t) */
  uint32_t exact; /* 1: equal keys, both exact, prove equal bytes for the same range of the file */
  uint64_t device, inode, length;
  uint64_t birth_ns, ctime_ns; /* nanoseconds since 1970; 0 where the file system has none */
  uint64_t generation;         /* 0: reserved for the inode generation where one is to be had */
} still_identity_t;

/* Fills *identity: the file's identity and stamps as they were when the bytes were taken. */
STILL_API int still_identity(const still_snapshot* snapshot, still_identity_t* identity);

enum {
  STILL_ADVISE_SEQUENTIAL = 1,
  STILL_ADVISE_RANDOM = 2,
  STILL_ADVISE_WILLNEED = 3,
  STILL_ADVISE_POPULATE = 4,
  STILL_ADVISE_HUGEPAGE = 5
};

/* madvise(2) that is right whatever keeps the bytes. length 0: to the end. A hint: where the kernel cannot take it,
 * or where it has nothing left to do (private memory needs no readahead), 0 all the same; except POPULATE (Linux
 * 5.14; paged: any), which returns the error (EFAULT where the file was truncated under its lease; paged:
 * STILL_ERROR_LOST where a page cannot be read any more). */
STILL_API int still_advise(still_snapshot* snapshot, uint64_t offset, uint64_t length, int advice);

/* Bytes of private memory that this snapshot holds now: 0 while the file's own pages serve. */
STILL_API uint64_t still_private_bytes(const still_snapshot* snapshot);

/* Bytes that could not be kept, or fetched, in whole pages but no more than still_size: an access to them faults.
 * 0 in every state but STILL_LOST. Grows as losses are found: a paged snapshot finds them at the first touch. */
STILL_API uint64_t still_lost_bytes(const still_snapshot* snapshot);

/* Makes the bytes private now, at the same address, and gives the lease up once all snapshots of the file in this
 * process are private: what a writer would cause, without one. NULL: every leased snapshot that is open. For a
 * program that is about to be stopped, or that wants no writer to wait for it any more. Anything not leased: 0.
 * Errors: STILL_ERROR_OVER_BUDGET, and the lease stands; STILL_ERROR_LOST where a writer was let in before.
 * Waits for storage and copies. Cost: as a detach (docs/denial-of-service.md). */
STILL_API int still_detach(still_snapshot* snapshot);

/* 0 if the bytes are valid UTF-8, else EILSEQ. Looked at once: a later call costs nothing, for the bytes hold
 * still. */
STILL_API int still_validate_utf8(const still_snapshot* snapshot);

/* --- mmap(2) with a snapshot --- */

/* A mapping type beside MAP_SHARED and MAP_PRIVATE: the file's bytes as they are now, whatever anybody does to
 * the file afterwards. A kernel, or an mmap, that does not know it refuses with EINVAL: nobody gets less than was
 * asked for. */
#define MAP_SNAPSHOT 0x04

/* As mmap(2), errno included; with MAP_SNAPSHOT as the mapping type the bytes hold still.
 *
 * Promise: that of still_open at STILL_VERIFIED. The last partial page is a private copy whose rest is zeros;
 * whole pages beyond the end of the file fault (SIGBUS), as with mmap. With any protection but PROT_READ it is a
 * private copy, writable with PROT_WRITE, which no one else sees. The descriptor may be closed at once. A forked
 * child has the bytes (STILL_FORK_CARRY).
 * Errors: those of mmap(2); EAGAIN: it is being written, and the level cannot be had; ENODEV: it cannot be mapped
 * (no regular file, or a file system where nothing proves the level); ENOMEM: also over the memory budget; EIO.
 * still_message says more. What is done to such a mapping goes through the functions below, for one that
 * mprotect(2) or madvise(2) changed behind the library's back may lose bytes when a writer comes.
 * Any other mapping type, and any other memory, passes straight on to the kernel.
 * Threads: as the system calls. Safe in signal handlers once a snapshot was made, but not while one interrupts
 * malloc before that.
 * Cost: as still_open_fd, and two or three system calls. */
STILL_API void* still_mmap(void* addr, size_t length, int prot, int flags, int fd, off_t offset);

/* As munmap(2), parts of mappings and several at once included. A part of a leased one first makes the whole of it
 * private: ENOMEM where the budget does not allow that. */
STILL_API int still_munmap(void* addr, size_t length);

/* As mprotect(2). Making a snapshot writable makes it private first, and gives its lease back; ENOMEM where the
 * budget does not allow that. */
STILL_API int still_mprotect(void* addr, size_t length, int prot);

/* As madvise(2) on the mapping of a file that may only be read: MADV_DONTNEED is obeyed by doing nothing, for
 * the bytes would be the same; MADV_FREE, MADV_WIPEONFORK: EINVAL; MADV_REMOVE: EACCES. No byte is ever lost. */
STILL_API int still_madvise(void* addr, size_t length, int advice);

/* As mremap(2); new_addr counts with MREMAP_FIXED. A snapshot can be made shorter and moved, but not longer
 * (ENOMEM), nor doubled (old_length 0, MREMAP_DONTUNMAP: EINVAL). */
STILL_API void* still_mremap(void* addr, size_t old_length, size_t new_length, int flags, void* new_addr);

/* This thread's last failure in words: file, cause and remedy. Valid until the thread's next call that fails;
 * "" if none failed. */
STILL_API const char* still_message(void);

/* Static, thread-safe text for an error number of this library or an errno value. */
STILL_API const char* still_strerror(int error);
STILL_API const char* still_backing_name(still_backing backing);
STILL_API const char* still_consistency_name(still_consistency consistency);
STILL_API const char* still_state_name(still_state state);
STILL_API const char* still_version(void);

/* For the whole process. Zero means default; each may also come from the environment. */
typedef struct still_settings {
  size_t size;                  /* sizeof(still_settings) */
  uint64_t pool_bytes;          /* recycled buffers kept for copies; 64 MiB; $STILLMAP_POOL_BYTES */
  uint64_t reserve_bytes;       /* memory made ready for detaches while a lease is live, beside memory_budget; 0: none,
                                   but up to 64 MiB of what earlier detaches left; $STILLMAP_RESERVE_BYTES */
  uint64_t memory_budget;       /* private memory of all snapshots; half of the machine's; $STILLMAP_MEMORY_BUDGET */
  int signal;                   /* real-time signal of the warden; the highest unused one; $STILLMAP_SIGNAL */
  const char* temporary_folder; /* tried first for private temporary files, before the folder of the file,
                                   the root of its mount, /var/tmp and /tmp (not where these are tmpfs);
                                   $STILLMAP_TMPDIR */
  uint64_t copy_max;            /* largest file that is copied where it could be mapped; where copying is cheaper on this
                                   machine (some 512 KiB, 8 MiB where the same process does it again and again); 1:
                                   none; $STILLMAP_COPY_MAX */
} still_settings;

/* Before the first open; later: EBUSY. */
STILL_API int still_configure(const still_settings* settings);

/* What the library found out about a file, what it meant to do, and what happened. Opens the file as
 * still_open does, with the same plan, and keeps the snapshot; still_explanation_free closes both. */
typedef struct still_explanation still_explanation;

typedef struct still_step {
  still_backing backing;
  int taken;          /* 1: this way was taken */
  int tried;          /* 1: it was in the plan and was tried; 0: passed over before */
  int error;          /* what came back when it was tried, else 0 */
  const char* reason; /* why taken, passed over, or given up */
} still_step;

/* Returns 0 also where the open failed: see still_explanation_error. Errors: EINVAL, E2BIG, ENOMEM. */
STILL_API int still_explain(const char* path, const still_options* options, still_explanation** out);
STILL_API size_t still_explanation_facts(const still_explanation* explanation); /* how many */
STILL_API const char* still_explanation_fact_name(const still_explanation* explanation, size_t index);
STILL_API const char* still_explanation_fact_value(const still_explanation* explanation, size_t index);
STILL_API size_t still_explanation_steps(const still_explanation* explanation); /* how many, in order of the plan */
STILL_API int still_explanation_step(const still_explanation* explanation, size_t index, still_step* step);
STILL_API int still_explanation_error(const still_explanation* explanation);            /* of the open; 0: success */
STILL_API const char* still_explanation_message(const still_explanation* explanation);  /* of the failure, or "" */
STILL_API still_snapshot* still_explanation_snapshot(const still_explanation* explanation); /* not shared; or NULL */
STILL_API void still_explanation_free(still_explanation* explanation);

#ifdef __cplusplus
}
#endif
#endif
