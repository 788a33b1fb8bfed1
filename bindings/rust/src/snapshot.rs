// SPDX-License-Identifier: Apache-2.0
//
// The owner of one share of a still_snapshot. All of what makes `&[u8]` true is the library's work; what is left
// to this file is that no slice outlives its share (it borrows from the owner), and that a handle is closed once.
use crate::error::check;
use crate::ffi;
use crate::options::{Backing, Consistency, SnapshotOptions};
use std::fmt;
use std::io;
use std::ops::Deref;
use std::os::raw::c_int;
use std::os::unix::io::AsFd;
use std::path::Path;
use std::ptr::{self, NonNull};
use std::slice;
use std::str;
use std::sync::Arc;

/// A file's bytes, which hold still: a byte once observed never changes, whatever this or any other process does to
/// the file. An owner, as `Vec<u8>` is; a slice, as `&[u8]` is, by `Deref`. The address never changes either, also
/// when the snapshot itself is moved.
///
/// Bytes live as long as their snapshot, not longer:
///
/// ```no_run
/// # use stillmap::Snapshot;
/// let file = Snapshot::open("data")?;
/// let bytes: &[u8] = &file;
/// println!("{}", bytes[0]);
/// drop(file);
/// # std::io::Result::Ok(())
/// ```
/// ```compile_fail,E0505
/// # use stillmap::Snapshot;
/// let file = Snapshot::open("data")?;
/// let bytes: &[u8] = &file;
/// drop(file);
/// println!("{}", bytes[0]);
/// # std::io::Result::Ok(())
/// ```
///
/// and so does text:
///
/// ```no_run
/// # use stillmap::Snapshot;
/// fn first_line(file: &Snapshot) -> std::io::Result<&str> {
///     Ok(file.text()?.lines().next().unwrap_or(""))
/// }
/// ```
/// ```compile_fail,E0515
/// # use stillmap::Snapshot;
/// fn first_line(file: Snapshot) -> std::io::Result<&'static str> {
///     Ok(file.text()?.lines().next().unwrap_or(""))
/// }
/// ```
///
/// No one writes to them:
///
/// ```no_run
/// # use stillmap::Snapshot;
/// let file = Snapshot::open("data")?;
/// let mut own = file.to_vec();
/// own[0] = 1;
/// # std::io::Result::Ok(())
/// ```
/// ```compile_fail,E0594
/// # use stillmap::Snapshot;
/// let mut file = Snapshot::open("data")?;
/// file[0] = 1;
/// # std::io::Result::Ok(())
/// ```
///
/// To give up protection takes an `unsafe`:
///
/// ```no_run
/// # use stillmap::Snapshot;
/// // SAFETY: the file lies in a folder of our own, and is written before this program starts.
/// let file = unsafe { Snapshot::options().trusted() }.open("data")?;
/// # std::io::Result::Ok(())
/// ```
/// ```compile_fail,E0133
/// # use stillmap::Snapshot;
/// let file = Snapshot::options().trusted().open("data")?;
/// # std::io::Result::Ok(())
/// ```
#[derive(Clone)]
pub struct Snapshot {
    // Counts owners here, and has one share: the library counts to 2^32, which safe code could overflow by forgetting
    // clones; Arc aborts before.
    share: Arc<Share>,
}

struct Share {
    handle: NonNull<ffi::still_snapshot>,
    // still_data and still_size, which never change, so that an index is no call.
    first: NonNull<u8>,
    len: usize,
    padding: u32,
}

// SAFETY: the C interface: "every function may be called from any thread", closing by the last owner included; no
// function leaves anything behind in the thread that called it, but for its error message, which is copied at once.
unsafe impl Send for Share {}
// SAFETY: "one snapshot may be read from any number of threads without locks". What changes behind a `&Snapshot`
// (the state, what is known of its UTF-8) is atomic in the library; its bytes never change, and where a detach puts
// other memory in their place it does so in one step, with the same bytes.
unsafe impl Sync for Share {}

// Snapshot is Send and Sync because Arc<Share> then is.
const _: fn() = || {
    fn both<T: Send + Sync + 'static>() {}
    both::<Snapshot>();
};

impl Drop for Share {
    fn drop(&mut self) {
        // SAFETY: our share, given up once; every slice of it borrowed from an owner that is gone.
        unsafe { ffi::still_close(self.handle.as_ptr()) }
    }
}

/// What keeps the bytes at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum State {
    /// The file's own pages, guarded.
    Shared,
    /// Memory of our own.
    Private,
    /// Some could not be kept: an access to these faults. Bytes never change.
    Lost,
}

/// Advice about how bytes will be used; names as in memmap2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Advice {
    /// Read from front to back.
    Sequential,
    /// Read here and there.
    Random,
    /// Needed soon: begin to read ahead.
    WillNeed,
    /// Have them present when the call returns. Gives an error where they cannot be (Linux 5.14).
    PopulateRead,
    /// Prefer huge pages.
    HugePage,
}

/// A key for caches: the file's identity and stamps as they were when the bytes were taken.
///
/// Equal keys, both [`exact`](Identity::exact), prove equal bytes for the same range of the file; others prove nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Identity {
    /// Whether the key proves anything.
    pub exact: bool,
    /// The device that the file lies on.
    pub device: u64,
    /// Its inode.
    pub inode: u64,
    /// The file's length in bytes.
    pub length: u64,
    /// When the file was made, in nanoseconds since 1970; 0 where the file system does not know.
    pub birth_ns: u64,
    /// When it was last changed.
    pub ctime_ns: u64,
    /// 0: reserved.
    pub generation: u64,
}

impl Snapshot {
    /// A snapshot of the file that `path` names, with the default options: whole, at least
    /// [`Consistency::Verified`], and strict: no lease outlives this call.
    ///
    /// What is no regular file (a pipe, a file in /proc) is read to its end. A relative path is resolved now. Errors:
    /// those of [`File::open`](std::fs::File::open), and [`ErrorCode`](crate::ErrorCode). Cost: a read into recycled
    /// memory, or what [`how`](Snapshot::how) says; with [`leases`](SnapshotOptions::leases) a mapping.
    pub fn open<P: AsRef<Path>>(path: P) -> io::Result<Snapshot> {
        SnapshotOptions::new().open(path)
    }

    /// Options to open with.
    pub fn options() -> SnapshotOptions {
        SnapshotOptions::new()
    }

    /// A snapshot of the whole of an open file, which is left as it is (also its position) and may be closed at once.
    /// A pipe or a terminal is read from where it stands to its end.
    pub fn from_file<F: AsFd>(file: F) -> io::Result<Snapshot> {
        SnapshotOptions::new().from_file(file)
    }

    /// [`from_file`](Snapshot::from_file), under the name that memmap2 gives it.
    pub fn map<F: AsFd>(file: F) -> io::Result<Snapshot> {
        SnapshotOptions::new().from_file(file)
    }

    /// Snapshots of several files, in their order, all or none. With [`Consistency::PointInTime`] asked for by
    /// [`SnapshotOptions::open_many`]: all of one instant.
    pub fn open_many<P: AsRef<Path>>(paths: &[P]) -> io::Result<Vec<Snapshot>> {
        SnapshotOptions::new().open_many(paths)
    }

    /// # Safety
    ///
    /// `handle` is a share that nobody else closes, of a snapshot opened with `padding`. Its bytes hold still, by the
    /// library's promise or by that of the caller of an unsafe fn.
    pub(crate) unsafe fn owning(handle: *mut ffi::still_snapshot, padding: u32) -> Snapshot {
        let handle = NonNull::new(handle).expect("a snapshot where the open succeeded");
        // SAFETY: the handle is ours; still_data is never null.
        let (first, len) = unsafe {
            let first = ffi::still_data(handle.as_ptr()) as *mut u8;
            (NonNull::new_unchecked(first), ffi::still_size(handle.as_ptr()))
        };
        Snapshot { share: Arc::new(Share { handle, first, len, padding }) }
    }

    fn get(&self) -> *mut ffi::still_snapshot {
        self.share.handle.as_ptr()
    }

    /// The bytes as text, looked at once: a later call costs nothing, for they hold still. Where they are not UTF-8:
    /// an error of kind [`InvalidData`](io::ErrorKind::InvalidData).
    pub fn text(&self) -> io::Result<&str> {
        // SAFETY: the handle is ours.
        check(unsafe { ffi::still_validate_utf8(self.get()) })?;
        // SAFETY: valid, and it stays so: these bytes do not change.
        Ok(unsafe { str::from_utf8_unchecked(self) })
    }

    /// The bytes and the zeros behind them that [`SnapshotOptions::padding`] asked for.
    pub fn with_padding(&self) -> &[u8] {
        let Share { first, len, padding, .. } = *self.share;
        // SAFETY: as in `deref`; `padding` bytes behind the last one are promised to be there, and zero.
        unsafe { slice::from_raw_parts(first.as_ptr(), len + padding as usize) }
    }

    /// Another owner of the same bytes, at the cost of an atomic increment: no byte is copied. As `clone`.
    #[must_use]
    pub fn share(&self) -> Snapshot {
        self.clone()
    }

    /// The way taken by the open. Never changes: a detach shows in [`current`](Snapshot::current).
    pub fn how(&self) -> Backing {
        // SAFETY: the handle is ours.
        Backing::of(unsafe { ffi::still_how(self.get()) })
    }

    /// Which moment the bytes come from.
    pub fn when(&self) -> Consistency {
        // SAFETY: the handle is ours.
        Consistency::of(unsafe { ffi::still_when(self.get()) })
    }

    /// What keeps the bytes at this moment.
    pub fn current(&self) -> State {
        // SAFETY: the handle is ours.
        match unsafe { ffi::still_current(self.get()) } {
            ffi::STILL_SHARED => State::Shared,
            ffi::STILL_PRIVATE => State::Private,
            ffi::STILL_LOST => State::Lost,
            other => panic!("stillmap: a state {other} that this version does not know"),
        }
    }

    /// False only where it is proved that the path still names this file, and the file still has these bytes. A
    /// snapshot of an open file leaves the path out, and where it is a copy always says true. Three to six system
    /// calls.
    pub fn changed(&self) -> bool {
        // SAFETY: the handle is ours.
        unsafe { ffi::still_changed(self.get()) != 0 }
    }

    /// A snapshot taken now with the same options, if [`changed`](Snapshot::changed) says so; else another owner of
    /// the same bytes, at no further cost. This one stays as it is.
    pub fn refresh(&self) -> io::Result<Snapshot> {
        let mut newer = ptr::null_mut();
        // SAFETY: the handle is ours; `newer` is set where it gives 0.
        check(unsafe { ffi::still_refresh(self.get(), &mut newer) })?;
        if newer == self.get() {
            // SAFETY: the share that was just given; ours keeps the snapshot alive.
            unsafe { ffi::still_close(newer) };
            return Ok(self.clone());
        }
        // SAFETY: a share of its own, of a snapshot with the same options.
        Ok(unsafe { Snapshot::owning(newer, self.share.padding) })
    }

    /// A key for caches.
    pub fn identity(&self) -> Identity {
        let mut known =
            ffi::still_identity_t { size: std::mem::size_of::<ffi::still_identity_t>() as u32, ..Default::default() };
        // SAFETY: the handle is ours, and the structure says its size. It can only fail for a size that the library
        // does not know, which build.rs has ruled out; the key then is not exact.
        unsafe { ffi::still_identity(self.get(), &mut known) };
        Identity {
            exact: known.exact != 0,
            device: known.device,
            inode: known.inode,
            length: known.length,
            birth_ns: known.birth_ns,
            ctime_ns: known.ctime_ns,
            generation: known.generation,
        }
    }

    /// madvise(2) for all of it, right whatever keeps the bytes. A hint; [`Advice::PopulateRead`] alone can fail.
    pub fn advise(&self, advice: Advice) -> io::Result<()> {
        self.advise_range(advice, 0, self.len())
    }

    /// The same for a part. Beyond the end: an error.
    pub fn advise_range(&self, advice: Advice, offset: usize, len: usize) -> io::Result<()> {
        if len == 0 && offset <= self.len() {
            return Ok(()); // where C's 0 means "to the end"
        }
        let advice: c_int = match advice {
            Advice::Sequential => ffi::STILL_ADVISE_SEQUENTIAL,
            Advice::Random => ffi::STILL_ADVISE_RANDOM,
            Advice::WillNeed => ffi::STILL_ADVISE_WILLNEED,
            Advice::PopulateRead => ffi::STILL_ADVISE_POPULATE,
            Advice::HugePage => ffi::STILL_ADVISE_HUGEPAGE,
        };
        // SAFETY: the handle is ours; advice changes no byte.
        check(unsafe { ffi::still_advise(self.get(), offset as u64, len as u64, advice) })
    }

    /// Bytes of private memory that it holds now: 0 while the file's own pages serve.
    pub fn private_bytes(&self) -> u64 {
        // SAFETY: the handle is ours.
        unsafe { ffi::still_private_bytes(self.get()) }
    }

    /// Bytes that could not be kept, or fetched: an access to them faults. 0 in every state but [`State::Lost`].
    pub fn lost_bytes(&self) -> u64 {
        // SAFETY: the handle is ours.
        unsafe { ffi::still_lost_bytes(self.get()) }
    }

    /// Makes the bytes private now, at the same address, and gives the lease up once all snapshots of the file in this
    /// process are private. Anything not leased: `Ok`. For a program that is about to be stopped, or wants no writer
    /// to wait for it any more.
    pub fn detach(&self) -> io::Result<()> {
        // SAFETY: the handle is ours. Slices stay valid: same address, same bytes, no moment without.
        check(unsafe { ffi::still_detach(self.get()) })
    }
}

/// [`Snapshot::detach`] for every leased snapshot of this process.
pub fn detach_all() -> io::Result<()> {
    // SAFETY: NULL means all of them.
    check(unsafe { ffi::still_detach(ptr::null_mut()) })
}

impl Deref for Snapshot {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: the bytes are there, never move and never change while the share lives, and the slice borrows from
        // an owner of it.
        unsafe { slice::from_raw_parts(self.share.first.as_ptr(), self.share.len) }
    }
}

impl AsRef<[u8]> for Snapshot {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_struct("Snapshot")
            .field("len", &self.len())
            .field("how", &self.how())
            .field("when", &self.when())
            .field("current", &self.current())
            .finish()
    }
}
