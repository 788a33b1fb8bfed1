// SPDX-License-Identifier: Apache-2.0
//
// Writers of every kind that std has, from this process and from another, against every way of holding: the bytes
// are equal afterwards, the text is the text, and nothing faults. Not one `unsafe` is needed to see that.
#![forbid(unsafe_code)]

mod support;

use std::fs;
use std::io::ErrorKind;
use std::thread;

use stillmap::live::{Mapping, Mode};
use stillmap::{Advice, Backing, Consistency, Error, ErrorCode, Snapshot, SnapshotOptions, State};
use support::{pattern, strike, Deed, Folder, Writer, DEEDS};

/// No test: the other process, when `Writer` starts it.
#[test]
fn child_that_writes() {
    Writer::child();
}

/// Small: read; odd: a part of a page; large enough for leases, clones and huge pages.
const SIZES: [usize; 4] = [1, 4096, 70_001, 3 << 20];

fn ways(level: Consistency) -> Vec<(&'static str, SnapshotOptions)> {
    let options = || {
        let mut options = Snapshot::options();
        options.require(level);
        options
    };
    let mut paged = Snapshot::options();
    paged.require(Consistency::Torn).backing(Backing::Paged);
    vec![
        ("default", options()),
        ("leases", options().leases(true).clone()),
        ("leased", options().leases(true).backing(Backing::Leased).clone()),
        ("cloned", options().backing(Backing::Cloned).clone()),
        ("copied", options().backing(Backing::Copied).clone()),
        ("spilled", options().backing(Backing::Spilled).clone()),
        ("paged", paged),
    ]
}

/// Every way that this file system has, each deed, each size: `act` does the deed.
fn hold_still(mut act: impl FnMut(Deed, &std::path::Path)) {
    let content = pattern(SIZES[3]); // that of a shorter file is its beginning
    for folder in Folder::all() {
        let path = folder.join("file");
        let mut held = 0;
        for (name, options) in ways(folder.level) {
            for deed in DEEDS {
                for len in SIZES {
                    let content = &content[..len];
                    fs::write(&path, content).unwrap();
                    let snapshot = match options.open(&path) {
                        Ok(snapshot) => snapshot,
                        Err(error) if error.kind() == ErrorKind::Unsupported && name != "default" => continue,
                        Err(error) => panic!("{name}, {}: {error}", path.display()),
                    };
                    // What is fetched when it is touched first must be, before a writer comes.
                    if snapshot.how() == Backing::Paged {
                        snapshot.advise(Advice::PopulateRead).unwrap();
                    }
                    let other = snapshot.clone();
                    let address = snapshot.as_ptr();
                    let text = snapshot.text().unwrap();

                    act(deed, &path);

                    assert!(snapshot[..] == *content, "{name} {deed:?} {len}: {snapshot:?}");
                    assert!(std::str::from_utf8(text.as_bytes()).is_ok());
                    assert!(text.as_bytes() == &other[..]);
                    assert_eq!(snapshot.as_ptr(), address);
                    assert_ne!(snapshot.current(), State::Lost);
                    assert_eq!(snapshot.lost_bytes(), 0);
                    assert!(snapshot.changed(), "{name} {deed:?} {len}");
                    drop(snapshot);
                    assert!(other[..] == *content);
                    held += 1;
                    let _ = fs::remove_file(&path);
                }
            }
        }
        eprintln!("{}: held {held} times", folder.join("").display());
        assert!(held >= DEEDS.len() * SIZES.len());
    }
}

#[test]
fn bytes_are_equal_after_writers_of_another_process() {
    let mut writer = Writer::start("child_that_writes");
    hold_still(|deed, path| writer.strike(deed, path));
}

#[test]
fn bytes_are_equal_after_writers_of_this_process() {
    hold_still(strike);
}

#[test]
fn canary_the_same_writers_show_in_a_live_view() {
    let folder = Folder::new();
    let mut writer = Writer::start("child_that_writes");
    let path = folder.file("file", 70_000);
    let mapping = Mapping::open(&path, Mode::Read).unwrap();
    let look = || {
        let mut bytes = vec![0; 70_000];
        mapping.as_atomic_bytes().copy_to(0, &mut bytes).map(|()| bytes)
    };
    assert_eq!(look().unwrap(), pattern(70_000));
    writer.strike(Deed::Write, &path);
    assert_eq!(look().unwrap(), vec![b'#'; 70_000]);
    writer.strike(Deed::Shrink, &path);
    assert_eq!(look().unwrap()[69_999], 0);
    writer.strike(Deed::TruncatingOpen, &path);
    assert!(look().is_err());
}

#[test]
fn readers_see_one_content_while_a_writer_never_stops() {
    const LEN: usize = 1 << 20;
    for folder in Folder::all() {
        let path = folder.file("file", LEN);
        let mut options = Snapshot::options();
        options.require(Consistency::Torn).leases(true); // whatever it is that was read, it stays
        let (path, options) = (&path, &options);
        let mut writer = Writer::start("child_that_writes");
        let stop = std::sync::atomic::AtomicBool::new(false);
        thread::scope(|scope| {
            let readers: Vec<_> = (0..2)
                .map(|_| {
                    scope.spawn(|| {
                        let mut rounds = 0;
                        while !stop.load(std::sync::atomic::Ordering::Relaxed) || rounds < 3 {
                            let snapshot = options.open(path).unwrap();
                            let before = snapshot.to_vec();
                            thread::yield_now();
                            assert!(snapshot[..] == before[..], "{snapshot:?}");
                            rounds += 1;
                        }
                    })
                })
                .collect();
            for round in 0..40 {
                writer.strike([Deed::Write, Deed::RenameOver, Deed::Append][round % 3], path);
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            readers.into_iter().for_each(|reader| reader.join().unwrap());
        });
    }
}

#[test]
fn no_lease_outlives_a_strict_open() {
    let folder = Folder::new();
    let path = folder.file("file", 3 << 20);
    let snapshot = Snapshot::options().require(folder.level).open(&path).unwrap();
    assert_ne!(snapshot.how(), Backing::Leased);
    let refused = Snapshot::options().backing(Backing::Leased).open(&path).unwrap_err();
    assert_eq!(Error::of(&refused).unwrap().code(), ErrorCode::Unsupported);
}

#[test]
fn a_detach_keeps_bytes_and_address() {
    let folder = Folder::new();
    let path = folder.file("file", 3 << 20);
    let mut options = Snapshot::options();
    let snapshot = match options.leases(true).backing(Backing::Leased).open(&path) {
        Ok(snapshot) => snapshot,
        Err(error) => return eprintln!("skip: {error}"),
    };
    assert_eq!((snapshot.current(), snapshot.private_bytes()), (State::Shared, 0));
    let bytes: &[u8] = &snapshot;
    snapshot.detach().unwrap();
    assert_eq!(snapshot.how(), Backing::Leased);
    assert_eq!(snapshot.current(), State::Private);
    assert!(snapshot.private_bytes() >= 3 << 20);
    strike(Deed::Write, &path);
    assert!(bytes == &pattern(3 << 20)[..]);
    stillmap::detach_all().unwrap();
}
