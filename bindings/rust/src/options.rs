// SPDX-License-Identifier: Apache-2.0
//
// What is asked of a snapshot: a builder over still_options, with strictness turned round: no leases unless they
// are asked for, so that what is safe to call is also safe against who stops this process.
use crate::error::{check, invalid};
use crate::ffi;
use crate::snapshot::Snapshot;
use std::ffi::CString;
use std::io;
use std::os::raw::{c_char, c_int};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::io::{AsFd, AsRawFd};
use std::path::Path;
use std::ptr;

/// Which moment the bytes come from, weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Consistency {
    /// Every byte holds still, yet pages may come from different instants.
    Torn,
    /// No change was detected while the bytes were taken.
    Verified,
    /// All bytes are the file at one instant during the open.
    PointInTime,
}

/// The way a snapshot is kept from changing. `docs/design.md` of stillmap describes each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Backing {
    /// The file cannot change; mapped directly.
    Sealed,
    /// Mapped directly under a read lease; copied away before a writer gets in. See [`SnapshotOptions::leases`].
    Leased,
    /// A reflink of the file without a name (btrfs, XFS, bcachefs), mapped.
    Cloned,
    /// Read into private memory.
    Copied,
    /// Pages fetched once, when first touched, for what is too large to copy; [`Consistency::Torn`] alone. A page
    /// that cannot be read any more then is lost: the access faults. A system call that is given a page not fetched
    /// yet may fail with EFAULT: [`Advice::PopulateRead`](crate::Advice::PopulateRead) first.
    Paged,
    /// Copied into a private temporary file, for more than the memory budget.
    Spilled,
    /// The file's own pages under advisory locks. See [`SnapshotOptions::cooperative`].
    Cooperative,
    /// The file's own pages, unprotected. See [`SnapshotOptions::trusted`].
    Trusted,
}

/// How the bytes will be read. A hint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Access {
    /// Nothing is known.
    Default,
    /// From front to back.
    Sequential,
    /// Here and there.
    Random,
}

/// What a child made by fork(2) finds at the address of a leased or paged mapping. A [`std::process::Command`]
/// finds nothing of either kind: it executes another program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fork {
    /// Nothing: an access faults. Costs nothing.
    Absent,
    /// The bytes: they are made private before each fork, while writers wait.
    Carry,
}

impl Consistency {
    pub(crate) fn of(value: c_int) -> Self {
        match value {
            ffi::STILL_VERIFIED => Consistency::Verified,
            ffi::STILL_POINT_IN_TIME => Consistency::PointInTime,
            _ => Consistency::Torn, // a level that this version does not know promises nothing more
        }
    }
    fn value(self) -> c_int {
        match self {
            Consistency::Torn => ffi::STILL_TORN,
            Consistency::Verified => ffi::STILL_VERIFIED,
            Consistency::PointInTime => ffi::STILL_POINT_IN_TIME,
        }
    }
}

const BACKINGS: [(Backing, c_int); 8] = [
    (Backing::Sealed, ffi::STILL_SEALED),
    (Backing::Leased, ffi::STILL_LEASED),
    (Backing::Cloned, ffi::STILL_CLONED),
    (Backing::Copied, ffi::STILL_COPIED),
    (Backing::Paged, ffi::STILL_PAGED),
    (Backing::Spilled, ffi::STILL_SPILLED),
    (Backing::Cooperative, ffi::STILL_COOPERATIVE),
    (Backing::Trusted, ffi::STILL_TRUSTED),
];

impl Backing {
    pub(crate) fn of(value: c_int) -> Self {
        let known = BACKINGS.iter().find(|(_, number)| *number == value);
        // build.rs has made sure that the library is of this minor version, whose backings these are.
        known.unwrap_or_else(|| panic!("stillmap: a backing {value} that this version does not know")).0
    }
    fn value(self) -> c_int {
        BACKINGS.iter().find(|(one, _)| *one == self).map_or(ffi::STILL_AUTO, |(_, number)| *number)
    }
}

/// What is asked of a snapshot. Made by [`Snapshot::options`]; one may open any number of files.
///
/// ```no_run
/// use stillmap::{Consistency, Snapshot};
/// let header = Snapshot::options().require(Consistency::PointInTime).offset(512).len(4096).open("disk.img")?;
/// # std::io::Result::Ok(())
/// ```
#[derive(Clone, Debug)]
pub struct SnapshotOptions {
    backing: Option<Backing>,
    unprotected: bool, // trusted() or cooperative() asked for it
    require: Option<Consistency>,
    offset: u64,
    len: Option<usize>,
    memory_budget: u64,
    access: Access,
    fork: Fork,
    leases: bool,
    synced: bool,
    populate: bool,
    padding: u32,
}

impl Default for SnapshotOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl SnapshotOptions {
    /// The whole file, [`Consistency::Verified`], no lease that outlives the open.
    pub fn new() -> Self {
        SnapshotOptions {
            backing: None,
            unprotected: false,
            require: None,
            offset: 0,
            len: None,
            memory_budget: 0,
            access: Access::Default,
            fork: Fork::Absent,
            leases: false,
            synced: false,
            populate: false,
            padding: 0,
        }
    }

    /// The weakest level accepted; where it cannot be had, the open fails and says why. Not given:
    /// [`Consistency::Verified`].
    ///
    /// In a container files usually lie on overlayfs, where only [`Consistency::Torn`] is to be had.
    pub fn require(&mut self, level: Consistency) -> &mut Self {
        self.require = Some(level);
        self
    }

    /// The first byte, on a page or not. Beyond the end of the file: an error.
    pub fn offset(&mut self, offset: u64) -> &mut Self {
        self.offset = offset;
        self
    }

    /// How many bytes; not given: to the end of the file. Beyond its end, or 0: an error.
    pub fn len(&mut self, len: usize) -> &mut Self {
        self.len = Some(len);
        self
    }

    /// Zero bytes promised behind the last one, which [`Snapshot::with_padding`] shows: 64 for simdjson, 1 for a NUL.
    pub fn padding(&mut self, bytes: u32) -> &mut Self {
        self.padding = bytes;
        self
    }

    /// How the bytes will be read.
    pub fn access(&mut self, access: Access) -> &mut Self {
        self.access = access;
        self
    }

    /// What a forked child finds.
    pub fn fork(&mut self, fork: Fork) -> &mut Self {
        self.fork = fork;
        self
    }

    /// Bytes of private memory that a copy or a detach of this snapshot may take before it goes to a temporary file.
    pub fn memory_budget(&mut self, bytes: u64) -> &mut Self {
        self.memory_budget = bytes;
        self
    }

    /// Maps the pages in before the open returns.
    pub fn populate(&mut self) -> &mut Self {
        self.populate = true;
        self
    }

    /// Keeps a lease only after fdatasync(2) under it. For [`SnapshotOptions::leases`].
    pub fn synced(&mut self) -> &mut Self {
        self.synced = true;
        self
    }

    /// Insists on one way of holding still, or an error. [`Backing::Leased`] also needs
    /// [`leases(true)`](SnapshotOptions::leases). [`Backing::Trusted`] and [`Backing::Cooperative`] are refused here:
    /// they have functions of their own, which are `unsafe`.
    pub fn backing(&mut self, backing: Backing) -> &mut Self {
        self.backing = Some(backing);
        self.unprotected = false;
        self
    }

    /// Lets the snapshot hold a read lease: large files are then mapped, not copied, at no cost in memory; a writer
    /// waits until the bytes are made private in place.
    ///
    /// Off by default, for a lease leaves this to others: while this process is **stopped** (SIGSTOP, a debugger, the
    /// freezer) for longer than `/proc/sys/fs/lease-break-time`, 45 s, a waiting writer is let in, and threads that
    /// go on may see changed bytes before the library takes access away. What else a lease cannot keep off, all of it
    /// by the hand of a privileged or an unusual writer, is listed under `leased` in `docs/guarantees.md`. If you
    /// cannot rule a stop out, call [`Snapshot::detach`] before it, or leave this off.
    pub fn leases(&mut self, allowed: bool) -> &mut Self {
        self.leases = allowed;
        self
    }

    /// The file's own pages, unprotected: what every mmap library gives. Never chosen by itself.
    /// [`Consistency::Torn`] where no level is given; a higher one is refused.
    ///
    /// # Safety
    ///
    /// For every snapshot that these options, or a clone of them, open, and for each that comes of it by `clone`,
    /// `share` or `refresh`: as long as it lives, nobody, in this process or another, may write to the file (write(2),
    /// a store through another mapping, `fallocate`) or truncate it. A write changes the bytes behind a `&[u8]`, and
    /// makes a `&str` from [`Snapshot::text`] invalid UTF-8: undefined behaviour both. A truncation makes an access
    /// raise SIGBUS, or read zeros.
    pub unsafe fn trusted(&mut self) -> &mut Self {
        self.backing = Some(Backing::Trusted);
        self.unprotected = true;
        self
    }

    /// The file's own pages under shared advisory locks (flock(2) and F_OFD_SETLK), for the snapshot's life. Never
    /// chosen by itself. A lock that is held already refuses the open ([`ErrorCode::BusyWriter`](crate::ErrorCode)).
    /// [`Consistency::Torn`] where no level is given; a higher one is refused.
    ///
    /// # Safety
    ///
    /// As for [`trusted`](SnapshotOptions::trusted), but that a peer may write or truncate who takes an exclusive lock
    /// first and holds it until done. What breaks it: any writer that takes no lock; who stores through a mapping
    /// after giving its lock up; network file systems whose locks do not reach all peers; code in this process that
    /// closes descriptors which are not its own, for that gives the lock up.
    pub unsafe fn cooperative(&mut self) -> &mut Self {
        self.backing = Some(Backing::Cooperative);
        self.unprotected = true;
        self
    }

    /// A snapshot of the file that `path` names. See [`Snapshot::open`].
    pub fn open<P: AsRef<Path>>(&self, path: P) -> io::Result<Snapshot> {
        let path = c_path(path.as_ref())?;
        let options = self.c()?;
        let mut handle = ptr::null_mut();
        // SAFETY: path and options are valid for the call; `handle` is set where it gives 0.
        check(unsafe { ffi::still_open(path.as_ptr(), &options, &mut handle) })?;
        // SAFETY: one share, ours; padded as asked; protected, or the caller of an unsafe fn answers for it.
        Ok(unsafe { Snapshot::owning(handle, self.padding) })
    }

    /// A snapshot of an open file. See [`Snapshot::from_file`].
    pub fn from_file<F: AsFd>(&self, file: F) -> io::Result<Snapshot> {
        let options = self.c()?;
        let mut handle = ptr::null_mut();
        // SAFETY: the descriptor is borrowed for the call, which leaves it as it is.
        check(unsafe { ffi::still_open_fd(file.as_fd().as_raw_fd(), &options, &mut handle) })?;
        // SAFETY: as in `open`.
        Ok(unsafe { Snapshot::owning(handle, self.padding) })
    }

    /// [`from_file`](SnapshotOptions::from_file), under the name that memmap2 gives it.
    pub fn map<F: AsFd>(&self, file: F) -> io::Result<Snapshot> {
        self.from_file(file)
    }

    /// Snapshots of several files, all or none. See [`Snapshot::open_many`].
    pub fn open_many<P: AsRef<Path>>(&self, paths: &[P]) -> io::Result<Vec<Snapshot>> {
        let options = self.c()?;
        let paths = paths.iter().map(|path| c_path(path.as_ref())).collect::<io::Result<Vec<CString>>>()?;
        let names: Vec<*const c_char> = paths.iter().map(|path| path.as_ptr()).collect();
        let mut handles = vec![ptr::null_mut(); names.len()];
        // SAFETY: both arrays have names.len() places; all handles are set where it gives 0.
        check(unsafe { ffi::still_open_many(names.as_ptr(), names.len(), &options, handles.as_mut_ptr()) })?;
        // SAFETY: as in `open`, for each.
        Ok(handles.into_iter().map(|handle| unsafe { Snapshot::owning(handle, self.padding) }).collect())
    }

    fn c(&self) -> io::Result<ffi::still_options> {
        if matches!(self.backing, Some(Backing::Trusted | Backing::Cooperative)) && !self.unprotected {
            return Err(invalid("a backing without protection is asked for by an unsafe fn: trusted(), cooperative()"));
        }
        if self.len == Some(0) {
            return Err(invalid("a length of 0; leave len() out for the rest of the file"));
        }
        let flag = |on: bool, flag| if on { flag } else { 0 };
        Ok(ffi::still_options {
            size: std::mem::size_of::<ffi::still_options>(),
            backing: self.backing.map_or(ffi::STILL_AUTO, Backing::value),
            require: self.require.map_or(0, Consistency::value),
            offset: self.offset,
            length: self.len.map_or(0, |len| len as u64),
            memory_budget: self.memory_budget,
            access: match self.access {
                Access::Default => ffi::STILL_ACCESS_DEFAULT,
                Access::Sequential => ffi::STILL_ACCESS_SEQUENTIAL,
                Access::Random => ffi::STILL_ACCESS_RANDOM,
            },
            fork: match self.fork {
                Fork::Absent => ffi::STILL_FORK_ABSENT,
                Fork::Carry => ffi::STILL_FORK_CARRY,
            },
            flags: flag(!self.leases, ffi::STILL_STRICT)
                | flag(self.synced, ffi::STILL_SYNCED)
                | flag(self.populate, ffi::STILL_POPULATE),
            padding: self.padding,
        })
    }
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| invalid("a path with a NUL in it"))
}

// What the tests in tests/ cannot show, for they have no unsafe.
#[cfg(test)]
mod tests {
    use super::*;
    use crate::State;

    #[test]
    fn unprotected_ways_are_taken_where_they_are_asked_for() {
        let path = std::env::temp_dir().join(format!("stillmap-unprotected-{}", std::process::id()));
        std::fs::write(&path, "nobody writes here").unwrap();
        let (mut trusted, mut cooperative) = (SnapshotOptions::new(), SnapshotOptions::new());
        // SAFETY: a file of our own, which is not written to while the snapshots live.
        unsafe {
            trusted.trusted();
            cooperative.cooperative();
        }
        for (options, backing) in [(&trusted, Backing::Trusted), (&cooperative, Backing::Cooperative)] {
            let snapshot = options.open(&path).unwrap();
            assert_eq!((snapshot.how(), snapshot.when()), (backing, Consistency::Torn));
            assert_eq!(snapshot.current(), State::Shared);
            assert_eq!(snapshot.text().unwrap(), "nobody writes here");
        }
        // Asked for by its name afterwards, it is refused again; another way asks for protection.
        assert!(trusted.backing(Backing::Trusted).open(&path).is_err());
        assert_eq!(
            cooperative.backing(Backing::Copied).require(Consistency::Torn).open(&path).unwrap().how(),
            Backing::Copied
        );
        std::fs::remove_file(&path).unwrap();
    }
}
