// SPDX-License-Identifier: Apache-2.0

//! Live views: the bytes of a shared mapping as they are at this moment, and other ones a moment later. For what
//! snapshots are no answer to: memory shared with another process, a file that is followed, a device.
//!
//! ```no_run
//! use std::sync::atomic::Ordering::{Acquire, Release};
//! use stillmap::live::{Mapping, Mode};
//!
//! let shared = Mapping::open("/dev/shm/queue", Mode::ReadWrite)?;
//! let bytes = shared.as_writable_atomic_bytes()?;
//! let head: u32 = bytes.load(0, Acquire)?;
//! let mut message = [0; 256];
//! bytes.copy_to(64, &mut message)?;        // an error, and no signal, where the file was truncated
//! bytes.store(4, head, Release)?;
//! # std::io::Result::Ok(())
//! ```
//!
//! Which view: [`AtomicBytes`] for memory shared with other threads or processes, [`CellBytes`] for one thread that
//! needs no order, [`Registers`] for devices. Each has a `Writable` twin, which only a [`Mode::ReadWrite`] mapping gives.
//!
//! **Promise.** Every access is checked against the view's size, and for alignment where one access is promised. No
//! view gives a `&[u8]`. Copies into owned memory (`copy_to`) and from it (`copy_from`) say EFAULT where the file was
//! truncated.
//!
//! **No promise.** A single access (`load`, `store`, `get`, `set`, `read`, `write`) to a page behind the end of a
//! truncated file raises SIGBUS, as with every mmap(2). Up to the end of its last page such a file reads as zeros, in
//! copies too, and what is stored there is lost. Copies may tear anywhere: a value of several bytes that others store
//! is for `load`.
//!
//! **Errors.** errno values as [`io::Error::raw_os_error`]. ERANGE: beyond the view. EINVAL: misaligned, or an order
//! that the operation cannot have. EACCES: the mapping is read-only. What is refused reads and writes nothing.
//!
//! **Cost.** An access is a few comparisons and one instruction. A copy is two system calls, gettid(2) and
//! process_vm_readv(2) or process_vm_writev(2) on ourselves, and the bytes. A container that forbids these says EPERM
//! or ENOSYS; single accesses still work.
//!
//! # Views and their mapping
//!
//! A view is a place and a size, copied freely, and borrows from its mapping:
//!
//! ```no_run
//! # use stillmap::live::{Mapping, Mode};
//! # use std::sync::atomic::Ordering::Relaxed;
//! let mapping = Mapping::open("counter", Mode::Read)?;
//! let bytes = mapping.as_atomic_bytes();
//! println!("{}", bytes.load::<u64>(0, Relaxed)?);
//! drop(mapping);
//! # std::io::Result::Ok(())
//! ```
//! ```compile_fail,E0505
//! # use stillmap::live::{Mapping, Mode};
//! # use std::sync::atomic::Ordering::Relaxed;
//! let mapping = Mapping::open("counter", Mode::Read)?;
//! let bytes = mapping.as_atomic_bytes();
//! drop(mapping);
//! println!("{}", bytes.load::<u64>(0, Relaxed)?);
//! # std::io::Result::Ok(())
//! ```
//!
//! Any number of threads may have atomic views; cells and registers are one thread's alone:
//!
//! ```no_run
//! # use stillmap::live::{Mapping, Mode};
//! # use std::sync::atomic::Ordering::Relaxed;
//! let mapping = Mapping::open("counter", Mode::Read)?;
//! let bytes = mapping.as_atomic_bytes();
//! std::thread::scope(|scope| { scope.spawn(move || bytes.load::<u8>(0, Relaxed).unwrap()); });
//! # std::io::Result::Ok(())
//! ```
//! ```compile_fail,E0277
//! # use stillmap::live::{Mapping, Mode};
//! let mut mapping = Mapping::open("counter", Mode::Read)?;
//! let bytes = mapping.as_cell_bytes();
//! std::thread::scope(|scope| { scope.spawn(move || bytes.get::<u8>(0).unwrap()); });
//! # std::io::Result::Ok(())
//! ```
//!
//! and not at the same time as atomic views of the same mapping:
//!
//! ```no_run
//! # use stillmap::live::{Mapping, Mode};
//! # use std::sync::atomic::Ordering::Relaxed;
//! let mut mapping = Mapping::open("counter", Mode::Read)?;
//! let one: u8 = mapping.as_atomic_bytes().load(0, Relaxed)?;
//! let two: u8 = mapping.as_cell_bytes().get(0)?;
//! # std::io::Result::Ok(())
//! ```
//! ```compile_fail,E0502
//! # use stillmap::live::{Mapping, Mode};
//! # use std::sync::atomic::Ordering::Relaxed;
//! let mut mapping = Mapping::open("counter", Mode::Read)?;
//! let atomics = mapping.as_atomic_bytes();
//! let two: u8 = mapping.as_cell_bytes().get(0)?;
//! let one: u8 = atomics.load(0, Relaxed)?;
//! # std::io::Result::Ok(())
//! ```
//!
//! Only a writable view stores:
//!
//! ```no_run
//! # use stillmap::live::{Mapping, Mode};
//! # use std::sync::atomic::Ordering::Relaxed;
//! Mapping::open("counter", Mode::ReadWrite)?.as_writable_atomic_bytes()?.store(0, 1u8, Relaxed)?;
//! # std::io::Result::Ok(())
//! ```
//! ```compile_fail,E0599
//! # use stillmap::live::{Mapping, Mode};
//! # use std::sync::atomic::Ordering::Relaxed;
//! Mapping::open("counter", Mode::ReadWrite)?.as_atomic_bytes().store(0, 1u8, Relaxed)?;
//! # std::io::Result::Ok(())
//! ```
//!
//! # What the language leaves open
//!
//! The mapping is memory that Rust did not allocate and that others change; atomic and volatile accesses are the two
//! that the language has for it, and every access here is one of them. That the compiler may merge or leave out relaxed
//! atomic accesses is in the language's books; none does. It says nothing yet of two threads that at the same time
//! access the same bytes with *different widths*, one of them storing: machines do the obvious; portable programs give
//! each place one width.

use crate::ffi;
use std::cell::Cell;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::os::raw::{c_int, c_ulong};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::io::{AsFd, AsRawFd, FromRawFd};
use std::path::Path;
use std::ptr;
use std::sync::atomic::{fence, AtomicU16, AtomicU32, AtomicU64, AtomicU8, Ordering};

/// What a mapping is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Reading.
    Read,
    /// Reading and writing. Such a mapping counts as a writer of its file: no snapshot of it can be leased meanwhile.
    ReadWrite,
}

fn refused<T>(number: c_int) -> io::Result<T> {
    Err(io::Error::from_raw_os_error(number))
}

// --- elements ---

mod sealed {
    /// A type of 1, 2, 4 or 8 bytes of which every pattern is a value, and the word that carries it.
    pub trait Bits: Copy {
        type Word: super::Word;
        fn to_word(self) -> Self::Word;
        fn from_word(word: Self::Word) -> Self;
    }
}
use sealed::Bits;

/// What a view may hold: integers, floats and arrays of bytes of 1, 2, 4 or 8 bytes: every pattern is a value, for
/// anybody may have written it.
pub trait Element: Bits {}

/// What can be added to.
pub trait Integer: Element {}

/// What a register may hold, and what carries an element: `u8`, `u16`, `u32`, `u64`.
pub trait Word: Element<Word = Self> + fmt::Debug + Eq {
    #[doc(hidden)]
    type Atomic: AtomicWord<Self>;
    #[doc(hidden)]
    const ZERO: Self;
}

#[doc(hidden)]
pub trait AtomicWord<W> {
    fn get(&self, order: Ordering) -> W;
    fn put(&self, value: W, order: Ordering);
    fn add(&self, value: W, order: Ordering) -> W;
    fn exchange(&self, expected: W, desired: W, order: Ordering, failure: Ordering) -> Result<W, W>;
}

macro_rules! words {
    ($($word:ty, $atomic:ty;)*) => { $(
        impl Bits for $word {
            type Word = $word;
            fn to_word(self) -> $word { self }
            fn from_word(word: $word) -> Self { word }
        }
        impl Element for $word {}
        impl Integer for $word {}
        impl Word for $word {
            type Atomic = $atomic;
            const ZERO: $word = 0;
        }
        impl AtomicWord<$word> for $atomic {
            fn get(&self, order: Ordering) -> $word { self.load(order) }
            fn put(&self, value: $word, order: Ordering) { self.store(value, order) }
            fn add(&self, value: $word, order: Ordering) -> $word { self.fetch_add(value, order) }
            fn exchange(&self, expected: $word, desired: $word, order: Ordering, failure: Ordering) -> Result<$word, $word> {
                self.compare_exchange(expected, desired, order, failure)
            }
        }
    )* };
}
words! { u8, AtomicU8; u16, AtomicU16; u32, AtomicU32; u64, AtomicU64; }

macro_rules! integers {
    ($($integer:ty as $word:ty;)*) => { $(
        impl Bits for $integer {
            type Word = $word;
            fn to_word(self) -> $word { self as $word }
            fn from_word(word: $word) -> Self { word as $integer }
        }
        impl Element for $integer {}
        impl Integer for $integer {}
    )* };
}
integers! { i8 as u8; i16 as u16; i32 as u32; i64 as u64; usize as u64; isize as u64; }

macro_rules! others {
    ($($other:ty as $word:ty: $to:expr, $from:expr;)*) => { $(
        impl Bits for $other {
            type Word = $word;
            fn to_word(self) -> $word { $to(self) }
            fn from_word(word: $word) -> Self { $from(word) }
        }
        impl Element for $other {}
    )* };
}
others! {
    f32 as u32: f32::to_bits, f32::from_bits;
    f64 as u64: f64::to_bits, f64::from_bits;
    [u8; 1] as u8: u8::from_ne_bytes, u8::to_ne_bytes;
    [u8; 2] as u16: u16::from_ne_bytes, u16::to_ne_bytes;
    [u8; 4] as u32: u32::from_ne_bytes, u32::to_ne_bytes;
    [u8; 8] as u64: u64::from_ne_bytes, u64::to_ne_bytes;
}

// --- what all views are: a place and a size ---

type Transfer = unsafe extern "C" fn(c_int, *const ffi::iovec, c_ulong, *const ffi::iovec, c_ulong, c_ulong) -> isize;

#[derive(Clone, Copy)]
struct View {
    first: *mut u8,
    size: usize,
    device: bool, // no regular file: the width of an access may matter
}

impl View {
    fn within(&self, offset: usize, bytes: usize) -> io::Result<()> {
        if bytes > self.size || offset > self.size - bytes {
            return refused(ffi::ERANGE);
        }
        Ok(())
    }

    /// The place of one T, within the view and aligned.
    fn place<T>(&self, offset: usize) -> io::Result<*mut T> {
        self.within(offset, std::mem::size_of::<T>())?;
        // Of the size, not of the type: u64 is aligned to 4 on some machines.
        if (self.first as usize + offset) % std::mem::size_of::<T>() != 0 {
            return refused(ffi::EINVAL);
        }
        Ok(self.first.wrapping_add(offset).cast())
    }

    fn atomic<W: Word>(&self, offset: usize) -> io::Result<&W::Atomic> {
        let place = self.place::<W::Atomic>(offset)?;
        // SAFETY: within the mapping, which outlives the view, and aligned. Only atomic views call this, and while
        // there is one the mapping is borrowed: no other view of it accesses these bytes in another way.
        Ok(unsafe { &*place })
    }

    /// As many bytes as can be had, by the kernel's hand: for a page that is gone it says EFAULT, where an access of
    /// our own would be a SIGBUS. `owned` is readable or writable, as `call` needs it, for `len` bytes.
    unsafe fn transfer(&self, call: Transfer, offset: usize, owned: *mut u8, len: usize) -> (usize, io::Result<()>) {
        if let Err(error) = self.within(offset, len) {
            return (0, Err(error));
        }
        // Our thread's number, not the process's: its memory is found also after the main thread has left.
        // SAFETY: no arguments.
        let own = unsafe { ffi::gettid() };
        let mut done = 0;
        while done < len {
            let ours = ffi::iovec { base: owned.wrapping_add(done).cast(), len: len - done };
            let theirs = ffi::iovec { base: self.first.wrapping_add(offset + done).cast(), len: len - done };
            // SAFETY: by the caller's word about `owned`; the other side is the kernel's to check.
            let count = unsafe { call(own, &ours, 1, &theirs, 1, 0) };
            match count {
                -1 => return (done, Err(io::Error::last_os_error())),
                0 => return (done, refused(ffi::EIO)),
                _ => done += count as usize,
            }
        }
        (done, Ok(()))
    }

    fn copy_out(&self, offset: usize, to: &mut [u8]) -> (usize, io::Result<()>) {
        // SAFETY: process_vm_readv writes into `to`, which is ours alone.
        unsafe { self.transfer(ffi::process_vm_readv, offset, to.as_mut_ptr(), to.len()) }
    }

    fn copy_in(&self, offset: usize, from: &[u8]) -> (usize, io::Result<()>) {
        // SAFETY: process_vm_writev reads from `from`; `*mut` is for iovec alone. What it writes to is a view that
        // can be written.
        unsafe { self.transfer(ffi::process_vm_writev, offset, from.as_ptr() as *mut u8, from.len()) }
    }

    // One byte after the other, volatile: for any offset.
    fn get_bytes<T: Bits>(&self, offset: usize) -> io::Result<T> {
        self.within(offset, std::mem::size_of::<T>())?;
        let mut word = <T::Word as Word>::ZERO;
        let to: *mut u8 = ptr::addr_of_mut!(word).cast();
        for i in 0..std::mem::size_of::<T>() {
            // SAFETY: within the view, and within `word`, an integer of the same size, of which any byte is valid.
            unsafe { *to.add(i) = self.first.wrapping_add(offset + i).read_volatile() };
        }
        Ok(T::from_word(word))
    }

    fn set_bytes<T: Bits>(&self, offset: usize, value: T) -> io::Result<()> {
        self.within(offset, std::mem::size_of::<T>())?;
        let word = value.to_word();
        let from: *const u8 = ptr::addr_of!(word).cast();
        for i in 0..std::mem::size_of::<T>() {
            // SAFETY: as in get_bytes; only writable views call this.
            unsafe { self.first.wrapping_add(offset + i).write_volatile(*from.add(i)) };
        }
        Ok(())
    }

    fn read<W: Word>(&self, offset: usize) -> io::Result<W> {
        let place = self.place::<W>(offset)?;
        // SAFETY: within the view and aligned; volatile, so exactly one access of this width.
        Ok(unsafe { place.read_volatile() })
    }

    fn write<W: Word>(&self, offset: usize, value: W) -> io::Result<()> {
        let place = self.place::<W>(offset)?;
        // SAFETY: as in `read`; only writable views call this.
        unsafe { place.write_volatile(value) };
        Ok(())
    }

    /// Whether a device's memory may be copied so: words of 32 bits alone.
    fn words_alone(&self, offset: usize, bytes: usize) -> io::Result<()> {
        self.within(offset, bytes)?;
        if ((self.first as usize + offset) | bytes) % 4 != 0 {
            return refused(ffi::EINVAL);
        }
        Ok(())
    }
}

/// All of it, or why not.
fn whole((_, result): (usize, io::Result<()>)) -> io::Result<()> {
    result
}

/// As read(2): how much, and an error only where that is nothing.
fn some((done, result): (usize, io::Result<()>)) -> io::Result<usize> {
    if done == 0 {
        result.map(|()| 0)
    } else {
        Ok(done)
    }
}

macro_rules! view {
    ($(#[$about:meta])* $name:ident, $(#[$about_writable:meta])* $writable:ident, $borrow:ty) => {
        $(#[$about])*
        #[derive(Clone, Copy)]
        pub struct $name<'a> {
            view: View,
            mapping: PhantomData<$borrow>,
        }

        $(#[$about_writable])*
        #[derive(Clone, Copy)]
        pub struct $writable<'a>($name<'a>);

        impl $name<'_> {
            /// Bytes.
            pub fn len(&self) -> usize { self.view.size }
            /// No bytes.
            pub fn is_empty(&self) -> bool { self.view.size == 0 }
        }
        impl<'a> Deref for $writable<'a> {
            type Target = $name<'a>;
            fn deref(&self) -> &$name<'a> { &self.0 }
        }
        impl fmt::Debug for $name<'_> {
            fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
                to.debug_struct(stringify!($name)).field("len", &self.len()).finish()
            }
        }
        impl fmt::Debug for $writable<'_> {
            fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
                to.debug_struct(stringify!($writable)).field("len", &self.len()).finish()
            }
        }
    };
}

macro_rules! copies {
    ($name:ident, $writable:ident) => {
        impl $name<'_> {
            /// Copies from the view into `to`: all of it, or an error. EFAULT: the file was truncated, or the storage
            /// could not read the page; what could be copied was.
            pub fn copy_to(&self, offset: usize, to: &mut [u8]) -> io::Result<()> {
                whole(self.view.copy_out(offset, to))
            }
            /// Copies as much as can be had, and says how much; an error where that is nothing.
            pub fn copy_some_to(&self, offset: usize, to: &mut [u8]) -> io::Result<usize> {
                some(self.view.copy_out(offset, to))
            }
        }
        impl $writable<'_> {
            /// Copies `from` into the view: all of it, or an error. EFAULT: the file was truncated.
            pub fn copy_from(&self, offset: usize, from: &[u8]) -> io::Result<()> {
                whole(self.0.view.copy_in(offset, from))
            }
            /// Copies as much as can be, and says how much; an error where that is nothing.
            pub fn copy_some_from(&self, offset: usize, from: &[u8]) -> io::Result<usize> {
                some(self.0.view.copy_in(offset, from))
            }
        }
    };
}

// --- atomic ---

view! {
    /// Bytes that other threads and processes may store to: every access is atomic. A `load` or `store` is one
    /// lock-free access, so never torn; its offset is aligned to its size, as counted from the start of the file.
    /// Orders mean between processes what they mean between threads.
    AtomicBytes,
    /// [`AtomicBytes`] that can be stored to.
    WritableAtomicBytes,
    &'a [AtomicU8]
}
copies!(AtomicBytes, WritableAtomicBytes);

// SAFETY: every access is atomic, or the kernel's copy; the mapping that is borrowed may itself be shared.
unsafe impl Send for AtomicBytes<'_> {}
// SAFETY: as above.
unsafe impl Sync for AtomicBytes<'_> {}

impl AtomicBytes<'_> {
    /// One element. Orders: Relaxed, Acquire, SeqCst.
    pub fn load<T: Element>(&self, offset: usize, order: Ordering) -> io::Result<T> {
        // On memory that cannot be written the language has relaxed loads alone; a fence makes them stronger.
        match order {
            Ordering::Relaxed | Ordering::Acquire => {}
            Ordering::SeqCst => fence(Ordering::SeqCst),
            _ => return refused(ffi::EINVAL),
        }
        let word = self.view.atomic::<T::Word>(offset)?.get(Ordering::Relaxed);
        if order != Ordering::Relaxed {
            fence(Ordering::Acquire);
        }
        Ok(T::from_word(word))
    }
}

impl<'a> WritableAtomicBytes<'a> {
    /// One element. Orders: Relaxed, Release, SeqCst.
    pub fn store<T: Element>(&self, offset: usize, value: T, order: Ordering) -> io::Result<()> {
        if !matches!(order, Ordering::Relaxed | Ordering::Release | Ordering::SeqCst) {
            return refused(ffi::EINVAL);
        }
        self.view.atomic::<T::Word>(offset)?.put(value.to_word(), order);
        Ok(())
    }

    /// The value before; wraps around.
    pub fn fetch_add<T: Integer>(&self, offset: usize, value: T, order: Ordering) -> io::Result<T> {
        Ok(T::from_word(self.view.atomic::<T::Word>(offset)?.add(value.to_word(), order)))
    }

    /// Compares bits. The inner result is as the standard library's: `Ok` with what was there, and `desired` was stored;
    /// `Err` with what is there instead.
    pub fn compare_exchange<T: Element>(
        &self,
        offset: usize,
        expected: T,
        desired: T,
        order: Ordering,
    ) -> io::Result<Result<T, T>> {
        // A failure stores nothing, so it has the loading half of the order.
        let failure = match order {
            Ordering::AcqRel => Ordering::Acquire,
            Ordering::Release => Ordering::Relaxed,
            other => other,
        };
        let found =
            self.view.atomic::<T::Word>(offset)?.exchange(expected.to_word(), desired.to_word(), order, failure);
        Ok(found.map(T::from_word).map_err(T::from_word))
    }

    /// All of them, as atomics of the standard library, which can also be stored to; hence of a writable view alone.
    pub fn as_slice(&self) -> &'a [AtomicU8] {
        if self.is_empty() {
            return &[];
        }
        // SAFETY: there are `size` bytes, mapped while 'a lasts, and meanwhile accessed by atomics alone.
        unsafe { std::slice::from_raw_parts(self.view.first.cast(), self.view.size) }
    }
}

// --- cells ---

view! {
    /// Bytes that one thread of this process looks at, while others outside of it may change them. No order and no
    /// atomicity: an element of several bytes is read byte by byte, at any offset, and may be torn. Two `get`s are two
    /// reads. Not `Send`: to give it to another thread give the [`Mapping`].
    CellBytes,
    /// [`CellBytes`] that can be stored to.
    WritableCellBytes,
    &'a [Cell<u8>]
}
copies!(CellBytes, WritableCellBytes);

impl CellBytes<'_> {
    /// One element.
    pub fn get<T: Element>(&self, offset: usize) -> io::Result<T> {
        self.view.get_bytes(offset)
    }
}

impl WritableCellBytes<'_> {
    /// One element.
    pub fn set<T: Element>(&self, offset: usize, value: T) -> io::Result<()> {
        self.view.set_bytes(offset, value)
    }
}

// --- registers ---

view! {
    /// A device's registers: `read` and `write` are one volatile access of exactly 8, 16, 32 or 64 bits, also where the
    /// value is not used, in the order of the program among themselves. No order against other memory, and no barrier:
    /// those are the driver's. Byte order is the machine's. Not `Send`, as [`CellBytes`].
    ///
    /// Copies: of a device, aligned accesses of 32 bits, one a word, lowest first, by this process itself: the kernel
    /// refuses to copy such memory. Of a regular file, as [`AtomicBytes::copy_to`], of no promised width. Both take
    /// multiples of 4 bytes at offsets aligned to 4 alone, so that code tested on a file is right on a device. A device
    /// whose memory goes away raises SIGBUS.
    Registers,
    /// [`Registers`] that can be written.
    WritableRegisters,
    &'a [Cell<u8>]
}

impl Registers<'_> {
    /// One access.
    pub fn read<W: Word>(&self, offset: usize) -> io::Result<W> {
        self.view.read(offset)
    }

    /// Copies from the view into `to`: all of it, or an error.
    pub fn copy_to(&self, offset: usize, to: &mut [u8]) -> io::Result<()> {
        self.view.words_alone(offset, to.len())?;
        if !self.view.device {
            return whole(self.view.copy_out(offset, to));
        }
        for (i, word) in to.chunks_exact_mut(4).enumerate() {
            word.copy_from_slice(&self.view.read::<u32>(offset + 4 * i)?.to_ne_bytes());
        }
        Ok(())
    }
}

impl WritableRegisters<'_> {
    /// One access.
    pub fn write<W: Word>(&self, offset: usize, value: W) -> io::Result<()> {
        self.view.write(offset, value)
    }

    /// Copies `from` into the view: all of it, or an error.
    pub fn copy_from(&self, offset: usize, from: &[u8]) -> io::Result<()> {
        self.view.words_alone(offset, from.len())?;
        if !self.view.device {
            return whole(self.view.copy_in(offset, from));
        }
        for (i, word) in from.chunks_exact(4).enumerate() {
            self.view.write(offset + 4 * i, u32::from_ne_bytes([word[0], word[1], word[2], word[3]]))?;
        }
        Ok(())
    }
}

// --- the mapping ---

/// Owner of a shared mapping; unmapped when dropped. Views borrow from it: atomic ones share it, cells and registers
/// have it alone.
pub struct Mapping {
    pages: *mut u8, // null: nothing is mapped, for an empty file
    pages_bytes: usize,
    view: View,
    writable: bool,
}

// SAFETY: a mapping is of the process, not of a thread, and can be unmapped from any.
unsafe impl Send for Mapping {}
// SAFETY: `&Mapping` gives atomic views alone.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// The whole of a regular file. Waits as open(2) does. For devices, which have no size: [`Mapping::from_file_range`].
    pub fn open<P: AsRef<Path>>(path: P, mode: Mode) -> io::Result<Mapping> {
        let mut how = OpenOptions::new();
        how.read(true).write(mode == Mode::ReadWrite).custom_flags(ffi::O_NOCTTY);
        Mapping::from_file(how.open(path)?, mode)
    }

    /// The whole of an open file, as long as it is now; what it grows by later is not seen. The file may be closed.
    pub fn from_file<F: AsFd>(file: F, mode: Mode) -> io::Result<Mapping> {
        Mapping::map(file, mode, 0, 0)
    }

    /// `len` bytes from `offset`, which need not lie on a page; 0: to the end of the file.
    ///
    /// Errors: EACCES where the file was not opened for this mode; EPERM where a seal forbids writing; ENODEV for what
    /// cannot be mapped; EISDIR; ERANGE beyond the end of a regular file; EOVERFLOW; EINVAL for a length of 0 of what is
    /// no regular file.
    pub fn from_file_range<F: AsFd>(file: F, mode: Mode, offset: u64, len: usize) -> io::Result<Mapping> {
        Mapping::map(file, mode, offset, len as u64)
    }

    fn map<F: AsFd>(file: F, mode: Mode, offset: u64, mut length: u64) -> io::Result<Mapping> {
        let fd = file.as_fd().as_raw_fd();
        // SAFETY: borrowed: the descriptor is open meanwhile, and never closed by this File. A duplicate would drop the
        // process's record locks when it is closed.
        let about = unsafe { ManuallyDrop::new(File::from_raw_fd(fd)) }.metadata()?;
        if about.is_dir() {
            return refused(ffi::EISDIR);
        }
        const OFFSET_MAX: u64 = i64::MAX as u64;
        if offset > OFFSET_MAX || length > OFFSET_MAX - offset {
            return refused(ffi::EOVERFLOW);
        }
        // SAFETY: a number in, a number out.
        let mut page = unsafe { ffi::sysconf(ffi::SC_PAGESIZE) } as u64;
        if about.is_file() {
            let end = about.len();
            if offset > end || length > end - offset {
                return refused(ffi::ERANGE);
            }
            if length == 0 {
                length = end - offset;
            }
            // hugetlbfs unmaps whole huge pages alone.
            let mut filesystem = ffi::statfs { kind: 0, block_bytes: 0, rest: [0; 16] };
            // SAFETY: there is room for all of it.
            if unsafe { ffi::fstatfs(fd, &mut filesystem) } != 0 {
                return Err(io::Error::last_os_error());
            }
            const HUGETLBFS_MAGIC: u32 = 0x9584_58f6;
            if filesystem.kind as u32 == HUGETLBFS_MAGIC {
                page = filesystem.block_bytes as u64;
            }
        } else if length == 0 {
            return refused(ffi::EINVAL);
        }
        let device = !about.is_file();
        let writable = mode == Mode::ReadWrite;
        let nothing = View { first: ptr::null_mut(), size: 0, device };
        if length == 0 {
            return Ok(Mapping { pages: ptr::null_mut(), pages_bytes: 0, view: nothing, writable });
        }
        let lead = offset % page;
        if length > OFFSET_MAX - lead - page {
            return refused(ffi::EOVERFLOW);
        }
        let bytes = (lead + length + page - 1) / page * page;
        let access = if writable { ffi::PROT_READ | ffi::PROT_WRITE } else { ffi::PROT_READ };
        // SAFETY: a new mapping, where nothing was.
        let pages =
            unsafe { ffi::mmap(ptr::null_mut(), bytes as usize, access, ffi::MAP_SHARED, fd, (offset - lead) as i64) };
        if pages as isize == -1 {
            return Err(io::Error::last_os_error());
        }
        let pages: *mut u8 = pages.cast();
        let view = View { first: pages.wrapping_add(lead as usize), size: length as usize, device };
        Ok(Mapping { pages, pages_bytes: bytes as usize, view, writable })
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.view.size
    }

    /// No bytes.
    pub fn is_empty(&self) -> bool {
        self.view.size == 0
    }

    /// Whether it gives writable views.
    pub fn writable(&self) -> bool {
        self.writable
    }

    fn check_writable(&self) -> io::Result<()> {
        if self.writable {
            Ok(())
        } else {
            refused(ffi::EACCES)
        }
    }

    /// A view for this and other threads.
    pub fn as_atomic_bytes(&self) -> AtomicBytes<'_> {
        AtomicBytes { view: self.view, mapping: PhantomData }
    }

    /// EACCES where the mode is not [`Mode::ReadWrite`].
    pub fn as_writable_atomic_bytes(&self) -> io::Result<WritableAtomicBytes<'_>> {
        self.check_writable()?;
        Ok(WritableAtomicBytes(self.as_atomic_bytes()))
    }

    /// A view for this thread alone.
    pub fn as_cell_bytes(&mut self) -> CellBytes<'_> {
        CellBytes { view: self.view, mapping: PhantomData }
    }

    /// EACCES where the mode is not [`Mode::ReadWrite`].
    pub fn as_writable_cell_bytes(&mut self) -> io::Result<WritableCellBytes<'_>> {
        self.check_writable()?;
        Ok(WritableCellBytes(self.as_cell_bytes()))
    }

    /// A view for this thread alone.
    pub fn as_registers(&mut self) -> Registers<'_> {
        Registers { view: self.view, mapping: PhantomData }
    }

    /// EACCES where the mode is not [`Mode::ReadWrite`].
    pub fn as_writable_registers(&mut self) -> io::Result<WritableRegisters<'_>> {
        self.check_writable()?;
        Ok(WritableRegisters(self.as_registers()))
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if !self.pages.is_null() {
            // SAFETY: what `map` mapped, once; no view is left, for they borrow.
            unsafe { ffi::munmap(self.pages.cast(), self.pages_bytes) };
        }
    }
}

impl fmt::Debug for Mapping {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_struct("Mapping").field("len", &self.len()).field("writable", &self.writable).finish()
    }
}
