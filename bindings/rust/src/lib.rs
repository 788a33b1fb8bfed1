// SPDX-License-Identifier: Apache-2.0

//! File mappings that hold still: `&[u8]` of a file that nobody can change under you, without `unsafe`.
//!
//! ```no_run
//! let file = stillmap::Snapshot::open("data.json")?;
//! std::fs::write("data.json", "changed")?;   // or another process: write, truncate, rename, unlink
//! let bytes: &[u8] = &file;                  // the bytes of before, as long as `file` lives
//! let text: &str = file.text()?;             // UTF-8, validated once, valid for ever
//! # std::io::Result::Ok(())
//! ```
//!
//! [`Snapshot`] is that; [`SnapshotOptions`] says which moment the bytes must come from, a range, a budget. [`live`]
//! is the other family, for memory whose bytes are meant to change.
//!
//! # What is promised
//!
//! *Stability*: a byte once observed never changes; what cannot be kept faults (SIGBUS or SIGSEGV), and never reads
//! a different byte. *Consistency*, which [`Snapshot::when`] reports: at least what [`SnapshotOptions::require`]
//! asks for, by default [`Consistency::Verified`], or the open fails and says who is in the way. Neither is ever
//! weakened silently. `docs/guarantees.md` of stillmap has the promise in full, each line with its test.
//!
//! # Why no `unsafe` is asked of you
//!
//! A `&[u8]` says that its bytes do not change. Over a plain mapping no caller can know that, for any process may
//! write to the file; hence the `unsafe` of every other way to map one. A snapshot lies in memory or in a nameless file
//! of our own, or the file cannot change; so [`Snapshot::open`] is safe. It holds no lease afterwards (`STILL_STRICT`):
//! [`SnapshotOptions::leases`] lets it, and says what that leaves to others.
//!
//! Outside of it, as of every process's memory: root writing the block device, and who writes this process's memory
//! from outside (`/proc/PID/mem`, ptrace). The standard library draws the same line.

#![deny(missing_docs, unsafe_op_in_unsafe_fn)]

mod error;
mod ffi;
pub mod live;
mod options;
mod snapshot;

pub use error::{Error, ErrorCode};
pub use options::{Access, Backing, Consistency, Fork, SnapshotOptions};
pub use snapshot::{detach_all, Advice, Identity, Snapshot, State};

/// The version of the library that is linked: "0.1.0".
pub fn version() -> &'static str {
    // SAFETY: static and NUL-terminated.
    let version = unsafe { std::ffi::CStr::from_ptr(ffi::still_version()) };
    version.to_str().unwrap_or_default()
}

/// Compiles what the README shows.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
