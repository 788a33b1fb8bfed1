// SPDX-License-Identifier: Apache-2.0
//
// The C interface, as include/stillmap/stillmap.h declares it, and the few system calls of live views. By hand,
// so that nothing is needed to build but cargo; `tests` below compares the constants with the header.
#![allow(non_camel_case_types)]

use std::os::raw::{c_char, c_int, c_long, c_uint, c_ulong, c_void};

pub const STILL_TORN: c_int = 1;
pub const STILL_VERIFIED: c_int = 2;
pub const STILL_POINT_IN_TIME: c_int = 3;

pub const STILL_AUTO: c_int = 0;
pub const STILL_SEALED: c_int = 1;
pub const STILL_LEASED: c_int = 2;
pub const STILL_CLONED: c_int = 3;
pub const STILL_COPIED: c_int = 4;
pub const STILL_PAGED: c_int = 5;
pub const STILL_SPILLED: c_int = 6;
pub const STILL_COOPERATIVE: c_int = 7;
pub const STILL_TRUSTED: c_int = 8;

pub const STILL_SHARED: c_int = 1;
pub const STILL_PRIVATE: c_int = 2;
pub const STILL_LOST: c_int = 3;

pub const STILL_ERROR_BASE: c_int = 10000;
pub const STILL_ERROR_BUSY_WRITER: c_int = 10001;
pub const STILL_ERROR_UNSUPPORTED: c_int = 10002;
pub const STILL_ERROR_OVER_BUDGET: c_int = 10003;
pub const STILL_ERROR_CHANGING: c_int = 10004;
pub const STILL_ERROR_LOST: c_int = 10005;

pub const STILL_ACCESS_DEFAULT: c_int = 0;
pub const STILL_ACCESS_SEQUENTIAL: c_int = 1;
pub const STILL_ACCESS_RANDOM: c_int = 2;

pub const STILL_FORK_ABSENT: c_int = 0;
pub const STILL_FORK_CARRY: c_int = 1;

pub const STILL_STRICT: c_uint = 1 << 0;
pub const STILL_SYNCED: c_uint = 1 << 1;
pub const STILL_POPULATE: c_uint = 1 << 2;

pub const STILL_ADVISE_SEQUENTIAL: c_int = 1;
pub const STILL_ADVISE_RANDOM: c_int = 2;
pub const STILL_ADVISE_WILLNEED: c_int = 3;
pub const STILL_ADVISE_POPULATE: c_int = 4;
pub const STILL_ADVISE_HUGEPAGE: c_int = 5;

/// Opaque: known by its address alone.
#[repr(C)]
pub struct still_snapshot {
    _private: [u8; 0],
}

#[repr(C)]
pub struct still_options {
    pub size: usize,
    pub backing: c_int,
    pub require: c_int,
    pub offset: u64,
    pub length: u64,
    pub memory_budget: u64,
    pub access: c_int,
    pub fork: c_int,
    pub flags: c_uint,
    pub padding: u32,
}

#[repr(C)]
#[derive(Default)]
pub struct still_identity_t {
    pub size: u32,
    pub exact: u32,
    pub device: u64,
    pub inode: u64,
    pub length: u64,
    pub birth_ns: u64,
    pub ctime_ns: u64,
    pub generation: u64,
}

extern "C" {
    pub fn still_open(path: *const c_char, options: *const still_options, out: *mut *mut still_snapshot) -> c_int;
    pub fn still_open_fd(fd: c_int, options: *const still_options, out: *mut *mut still_snapshot) -> c_int;
    pub fn still_open_many(
        paths: *const *const c_char,
        count: usize,
        options: *const still_options,
        out: *mut *mut still_snapshot,
    ) -> c_int;
    pub fn still_data(snapshot: *const still_snapshot) -> *const c_void;
    pub fn still_size(snapshot: *const still_snapshot) -> usize;
    pub fn still_how(snapshot: *const still_snapshot) -> c_int;
    pub fn still_when(snapshot: *const still_snapshot) -> c_int;
    pub fn still_current(snapshot: *const still_snapshot) -> c_int;
    pub fn still_close(snapshot: *mut still_snapshot);
    pub fn still_changed(snapshot: *const still_snapshot) -> c_int;
    pub fn still_refresh(snapshot: *const still_snapshot, newer: *mut *mut still_snapshot) -> c_int;
    pub fn still_identity(snapshot: *const still_snapshot, identity: *mut still_identity_t) -> c_int;
    pub fn still_advise(snapshot: *mut still_snapshot, offset: u64, length: u64, advice: c_int) -> c_int;
    pub fn still_private_bytes(snapshot: *const still_snapshot) -> u64;
    pub fn still_lost_bytes(snapshot: *const still_snapshot) -> u64;
    pub fn still_detach(snapshot: *mut still_snapshot) -> c_int;
    pub fn still_validate_utf8(snapshot: *const still_snapshot) -> c_int;
    pub fn still_message() -> *const c_char;
    pub fn still_strerror(error: c_int) -> *const c_char;
    pub fn still_version() -> *const c_char;
}

// --- the system's, for live views; the values are those of Linux on every 64-bit machine that Rust has ---

pub const PROT_READ: c_int = 1;
pub const PROT_WRITE: c_int = 2;
pub const MAP_SHARED: c_int = 1;
pub const SC_PAGESIZE: c_int = 30;
pub const O_NOCTTY: c_int = 0o400;

pub const EIO: c_int = 5;
pub const EACCES: c_int = 13;
pub const EISDIR: c_int = 21;
pub const EINVAL: c_int = 22;
pub const ERANGE: c_int = 34;
#[cfg(not(any(target_arch = "mips64", target_arch = "sparc64")))]
pub const EOVERFLOW: c_int = 75;
#[cfg(target_arch = "mips64")]
pub const EOVERFLOW: c_int = 79;
#[cfg(target_arch = "sparc64")]
pub const EOVERFLOW: c_int = 92;
#[cfg(not(any(target_arch = "mips64", target_arch = "sparc64")))]
pub const EILSEQ: c_int = 84;
#[cfg(target_arch = "mips64")]
pub const EILSEQ: c_int = 88;
#[cfg(target_arch = "sparc64")]
pub const EILSEQ: c_int = 122;

#[repr(C)]
pub struct iovec {
    pub base: *mut c_void,
    pub len: usize,
}

/// Its beginning; the rest, 104 bytes at most, is only room.
#[cfg(not(target_arch = "s390x"))]
#[repr(C)]
pub struct statfs {
    pub kind: c_long,
    pub block_bytes: c_long,
    pub rest: [u64; 16],
}
#[cfg(target_arch = "s390x")]
#[repr(C)]
pub struct statfs {
    pub kind: c_uint,
    pub block_bytes: c_uint,
    pub rest: [u64; 16],
}

extern "C" {
    pub fn mmap(addr: *mut c_void, length: usize, prot: c_int, flags: c_int, fd: c_int, offset: i64) -> *mut c_void;
    pub fn munmap(addr: *mut c_void, length: usize) -> c_int;
    pub fn process_vm_readv(
        pid: c_int,
        local: *const iovec,
        local_count: c_ulong,
        remote: *const iovec,
        remote_count: c_ulong,
        flags: c_ulong,
    ) -> isize;
    pub fn process_vm_writev(
        pid: c_int,
        local: *const iovec,
        local_count: c_ulong,
        remote: *const iovec,
        remote_count: c_ulong,
        flags: c_ulong,
    ) -> isize;
    pub fn gettid() -> c_int;
    pub fn sysconf(name: c_int) -> c_long;
    pub fn fstatfs(fd: c_int, into: *mut statfs) -> c_int;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The values of the header's enumerators, in order, whether written out or counted.
    fn header() -> std::collections::HashMap<String, i64> {
        let text = std::fs::read_to_string(env!("STILLMAP_HEADER")).unwrap();
        let mut bare = String::new();
        let mut rest = text.as_str();
        while let Some(start) = rest.find("/*") {
            bare.push_str(&rest[..start]);
            rest = &rest[start + rest[start..].find("*/").unwrap() + 2..];
        }
        bare.push_str(rest);
        let mut found = std::collections::HashMap::new();
        for list in bare.split("enum").skip(1) {
            let inner = &list[list.find('{').unwrap() + 1..list.find('}').unwrap()];
            let mut next = 0;
            for item in inner.split(',').map(str::trim).filter(|item| !item.is_empty()) {
                let (name, value) =
                    item.split_once('=').map_or((item, None), |(name, value)| (name.trim(), Some(value.trim())));
                if let Some(value) = value {
                    next = match value.split_once("<<") {
                        Some((one, by)) => {
                            assert_eq!(one.trim(), "1u");
                            1 << by.trim().parse::<i64>().unwrap()
                        }
                        None => value.parse().unwrap(),
                    };
                }
                found.insert(name.to_string(), next);
                next += 1;
            }
        }
        found
    }

    #[test]
    fn the_constants_are_those_of_the_header() {
        let header = header();
        macro_rules! same {
            ($($name:ident)*) => { $( assert_eq!(header[stringify!($name)], i64::from($name), stringify!($name)); )* };
        }
        same!(STILL_TORN STILL_VERIFIED STILL_POINT_IN_TIME);
        same!(STILL_AUTO STILL_SEALED STILL_LEASED STILL_CLONED STILL_COPIED STILL_PAGED STILL_SPILLED);
        same!(STILL_COOPERATIVE STILL_TRUSTED STILL_SHARED STILL_PRIVATE STILL_LOST);
        same!(STILL_ERROR_BASE STILL_ERROR_BUSY_WRITER STILL_ERROR_UNSUPPORTED STILL_ERROR_OVER_BUDGET);
        same!(STILL_ERROR_CHANGING STILL_ERROR_LOST);
        same!(STILL_ACCESS_DEFAULT STILL_ACCESS_SEQUENTIAL STILL_ACCESS_RANDOM STILL_FORK_ABSENT STILL_FORK_CARRY);
        same!(STILL_STRICT STILL_SYNCED STILL_POPULATE);
        same!(STILL_ADVISE_SEQUENTIAL STILL_ADVISE_RANDOM STILL_ADVISE_WILLNEED STILL_ADVISE_POPULATE);
        same!(STILL_ADVISE_HUGEPAGE);
    }

    #[test]
    fn the_structures_have_the_size_of_version_0_1() {
        // The library refuses a smaller one, and a larger one whose surplus is not zero.
        assert_eq!(std::mem::size_of::<still_options>(), 56);
        assert_eq!(std::mem::size_of::<still_identity_t>(), 56);
    }
}
