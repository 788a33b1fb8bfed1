// SPDX-License-Identifier: Apache-2.0
#![forbid(unsafe_code)]

mod support;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::sync::atomic::Ordering::{self, AcqRel, Acquire, Relaxed, Release, SeqCst};
use std::thread;

use stillmap::live::{Mapping, Mode};
use support::Folder;

const ERANGE: i32 = 34;
const EINVAL: i32 = 22;
const EFAULT: i32 = 14;
const EACCES: i32 = 13;

fn number<T: std::fmt::Debug>(result: io::Result<T>) -> i32 {
    result.unwrap_err().raw_os_error().unwrap()
}

#[test]
fn what_one_mapping_stores_another_and_the_file_have() {
    let folder = Folder::new();
    let path = folder.file("file", 8192);
    let one = Mapping::open(&path, Mode::ReadWrite).unwrap();
    let two = Mapping::open(&path, Mode::Read).unwrap();
    let (write, read) = (one.as_writable_atomic_bytes().unwrap(), two.as_atomic_bytes());
    write.store(0, 0x1122_3344_5566_7788u64, Release).unwrap();
    assert_eq!(read.load::<u64>(0, Acquire).unwrap(), 0x1122_3344_5566_7788);
    assert_eq!(read.load::<[u8; 8]>(0, SeqCst).unwrap(), 0x1122_3344_5566_7788u64.to_ne_bytes());
    write.store(8, -1.5f32, SeqCst).unwrap();
    write.store(12, -7i32, Relaxed).unwrap();
    write.store(16, 2.5f64, Relaxed).unwrap();
    write.store(24, usize::MAX, Relaxed).unwrap();
    assert_eq!(read.load::<f32>(8, Relaxed).unwrap(), -1.5);
    assert_eq!(read.load::<i32>(12, Relaxed).unwrap(), -7);
    assert_eq!(read.load::<f64>(16, Relaxed).unwrap(), 2.5);
    assert_eq!(read.load::<usize>(24, Relaxed).unwrap(), usize::MAX);
    write.copy_from(8000, b"copied").unwrap();
    let mut back = [0; 6];
    read.copy_to(8000, &mut back).unwrap();
    assert_eq!(&back, b"copied");
    assert_eq!(&fs::read(&path).unwrap()[8000..8006], b"copied");
    write.as_slice()[8191].store(b'!', Relaxed);
    assert_eq!(read.load::<u8>(8191, Relaxed).unwrap(), b'!');
    assert_eq!((one.len(), one.writable(), two.writable()), (8192, true, false));
}

#[test]
fn offsets_and_orders_are_checked() {
    let folder = Folder::new();
    let path = folder.file("file", 100);
    let mut mapping = Mapping::open(&path, Mode::ReadWrite).unwrap();
    {
        let bytes = mapping.as_writable_atomic_bytes().unwrap();
        assert_eq!(number(bytes.load::<u8>(100, Relaxed)), ERANGE);
        assert_eq!(number(bytes.load::<u32>(98, Relaxed)), ERANGE);
        assert_eq!(number(bytes.load::<u64>(usize::MAX, Relaxed)), ERANGE);
        assert_eq!(number(bytes.load::<u32>(2, Relaxed)), EINVAL);
        assert_eq!(number(bytes.load::<u32>(0, Release)), EINVAL);
        assert_eq!(number(bytes.load::<u32>(0, AcqRel)), EINVAL);
        assert_eq!(number(bytes.store(0, 1u8, Acquire)), EINVAL);
        assert_eq!(number(bytes.store(1, 1u16, Relaxed)), EINVAL);
        assert_eq!(number(bytes.copy_to(1, &mut [0; 100])), ERANGE);
        assert_eq!(number(bytes.copy_from(100, &[0])), ERANGE);
        bytes.copy_to(100, &mut []).unwrap();
    }
    {
        let cells = mapping.as_writable_cell_bytes().unwrap();
        cells.set(1, 0x0102_0304u32).unwrap(); // any offset
        assert_eq!(cells.get::<u32>(1).unwrap(), 0x0102_0304);
        assert_eq!(number(cells.get::<u32>(97)), ERANGE);
        assert_eq!(number(cells.set(100, 1u8)), ERANGE);
        let mut four = [0; 4];
        cells.copy_to(1, &mut four).unwrap();
        assert_eq!(u32::from_ne_bytes(four), 0x0102_0304);
    }
    let registers = mapping.as_writable_registers().unwrap();
    registers.write(4, 0xdead_beefu32).unwrap();
    assert_eq!(registers.read::<u32>(4).unwrap(), 0xdead_beef);
    assert_eq!(number(registers.read::<u32>(5)), EINVAL);
    assert_eq!(number(registers.read::<u64>(96)), ERANGE);
    assert_eq!(number(registers.copy_to(2, &mut [0; 4])), EINVAL);
    assert_eq!(number(registers.copy_from(0, &[0; 3])), EINVAL);
    registers.copy_from(8, &[1, 2, 3, 4]).unwrap();
    assert_eq!(registers.read::<u32>(8).unwrap(), u32::from_ne_bytes([1, 2, 3, 4]));
    let mut eight = [0; 8];
    registers.copy_to(4, &mut eight).unwrap();
    assert_eq!(eight[4..], [1, 2, 3, 4]);
}

#[test]
fn threads_and_mappings_add_up() {
    let folder = Folder::new();
    let path = folder.join("counter");
    fs::write(&path, [0; 16]).unwrap();
    let mapping = Mapping::open(&path, Mode::ReadWrite).unwrap();
    let bytes = mapping.as_writable_atomic_bytes().unwrap();
    thread::scope(|scope| {
        for _ in 0..4 {
            let path = &path;
            scope.spawn(move || {
                let own = Mapping::open(path, Mode::ReadWrite).unwrap();
                let own = own.as_writable_atomic_bytes().unwrap();
                for _ in 0..1000 {
                    bytes.fetch_add(0, 1u64, Relaxed).unwrap();
                    own.fetch_add(0, 1u64, AcqRel).unwrap();
                    let mut seen = own.load::<u32>(8, Relaxed).unwrap();
                    while let Err(found) = own.compare_exchange(8, seen, seen + 1, Release).unwrap() {
                        seen = found;
                    }
                }
            });
        }
    });
    assert_eq!(bytes.load::<u64>(0, Acquire).unwrap(), 8000);
    assert_eq!(bytes.load::<u32>(8, Acquire).unwrap(), 4000);
    assert_eq!(bytes.fetch_add(12, u32::MAX, Ordering::SeqCst).unwrap(), 0);
    assert_eq!(bytes.fetch_add(12, 1u32, Ordering::SeqCst).unwrap(), u32::MAX);
    assert_eq!(bytes.load::<u32>(12, Relaxed).unwrap(), 0);
    assert_eq!(bytes.compare_exchange(12, 1u32, 2, AcqRel).unwrap(), Err(0));
}

#[test]
fn a_copy_from_a_truncated_file_is_an_error_and_no_signal() {
    let folder = Folder::new();
    let path = folder.file("file", 3 * 65_536);
    let mapping = Mapping::open(&path, Mode::ReadWrite).unwrap();
    let bytes = mapping.as_writable_atomic_bytes().unwrap();
    OpenOptions::new().write(true).open(&path).unwrap().set_len(65_536).unwrap();
    let mut all = vec![0; 3 * 65_536];
    assert_eq!(number(bytes.copy_to(0, &mut all)), EFAULT);
    assert_eq!(bytes.copy_some_to(0, &mut all).unwrap(), 65_536);
    assert_eq!(number(bytes.copy_some_to(65_536, &mut all[..1])), EFAULT);
    assert_eq!(number(bytes.copy_from(65_536, b"gone")), EFAULT);
    assert_eq!(bytes.copy_some_from(65_535, b"two").unwrap(), 1);
    assert_eq!(number(bytes.copy_some_from(65_536, b"gone")), EFAULT);
    bytes.copy_to(0, &mut all[..65_536]).unwrap();
}

#[test]
fn a_mapping_gives_what_its_mode_and_file_allow() {
    let folder = Folder::new();
    let path = folder.file("file", 10_000);
    let mut reading = Mapping::open(&path, Mode::Read).unwrap();
    assert_eq!(number(reading.as_writable_atomic_bytes()), EACCES);
    assert_eq!(number(reading.as_writable_cell_bytes()), EACCES);
    assert_eq!(number(reading.as_writable_registers()), EACCES);
    let file = File::open(&path).unwrap();
    assert_eq!(number(Mapping::from_file(&file, Mode::ReadWrite)), EACCES);
    let part = Mapping::from_file_range(&file, Mode::Read, 4097, 10).unwrap();
    let mut ten = [0; 10];
    part.as_atomic_bytes().copy_to(0, &mut ten).unwrap();
    assert_eq!(ten, support::pattern(10_000)[4097..4107]);
    assert_eq!(number(Mapping::from_file_range(&file, Mode::Read, 10_001, 0)), ERANGE);
    assert_eq!(number(Mapping::from_file_range(&file, Mode::Read, 0, 10_001)), ERANGE);
    assert_eq!(number(Mapping::from_file_range(&file, Mode::Read, u64::MAX, 1)), 75); // EOVERFLOW
    assert_eq!(number(Mapping::open(folder.join(""), Mode::Read)), 21); // EISDIR
    assert_eq!(Mapping::open(folder.join("missing"), Mode::Read).unwrap_err().kind(), io::ErrorKind::NotFound);
    let empty = folder.file("empty", 0);
    let mut empty = Mapping::open(&empty, Mode::ReadWrite).unwrap();
    assert!(empty.is_empty());
    assert!(empty.as_writable_atomic_bytes().unwrap().as_slice().is_empty());
    assert_eq!(number(empty.as_cell_bytes().get::<u8>(0)), ERANGE);
}
