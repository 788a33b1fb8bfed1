// SPDX-License-Identifier: Apache-2.0
#![forbid(unsafe_code)]

mod support;

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::process::{Command, Stdio};
use std::thread;

use stillmap::{Advice, Backing, Consistency, Error, ErrorCode, Snapshot};
use support::{pattern, Folder};

#[test]
fn it_is_a_slice_of_the_file() {
    let folder = Folder::new();
    let path = folder.file("file", 10_000);
    let snapshot = Snapshot::options().require(folder.level).open(&path).unwrap();
    assert_eq!(snapshot.len(), 10_000);
    assert_eq!(&snapshot[..], &pattern(10_000)[..]);
    assert_eq!(snapshot.as_ref(), &*snapshot);
    assert!(snapshot.when() >= folder.level);
    assert_eq!(
        snapshot.iter().filter(|byte| **byte == b'a').count(),
        pattern(10_000).iter().filter(|b| **b == b'a').count()
    );
    let mut read = Vec::new();
    (&snapshot[..]).read_to_end(&mut read).unwrap();
    assert_eq!(read, pattern(10_000));
    assert!(format!("{snapshot:?}").contains("len: 10000"));
    assert_eq!(stillmap::version(), env!("CARGO_PKG_VERSION"));
}

#[test]
fn an_empty_file_is_an_empty_slice() {
    let folder = Folder::new();
    let path = folder.file("file", 0);
    let snapshot = Snapshot::options().require(folder.level).padding(64).open(&path).unwrap();
    assert!(snapshot.is_empty());
    assert_eq!(snapshot.text().unwrap(), "");
    assert_eq!(snapshot.with_padding(), [0; 64]);
}

#[test]
fn text_is_validated() {
    let folder = Folder::new();
    let path = folder.join("file");
    let open = || Snapshot::options().require(folder.level).open(&path).unwrap();
    for good in ["", "plain", "Grüße, 世界, 🦀", "\u{10FFFF}\u{0}"] {
        fs::write(&path, good).unwrap();
        assert_eq!(open().text().unwrap(), good);
    }
    // cut short, overlong, a surrogate, beyond the last code point, never a byte of UTF-8
    for bad in [&b"abc\xe4\xb8"[..], b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xff"] {
        assert!(std::str::from_utf8(bad).is_err());
        fs::write(&path, bad).unwrap();
        let snapshot = open();
        for _ in 0..2 {
            let error = snapshot.text().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidData);
            assert!(error.to_string().contains("UTF-8"), "{error}");
        }
        assert_eq!(&snapshot[..], bad);
    }
}

#[test]
fn options_give_a_range_and_padding() {
    let folder = Folder::new();
    let path = folder.file("file", 10_000);
    let mut options = Snapshot::options();
    options.require(folder.level).offset(4097).len(100).padding(64);
    let snapshot = options.open(&path).unwrap();
    assert_eq!(&snapshot[..], &pattern(10_000)[4097..4197]);
    assert_eq!(&snapshot.with_padding()[..100], &snapshot[..]);
    assert_eq!(snapshot.with_padding()[100..], [0; 64]);
    let rest = Snapshot::options().require(folder.level).offset(9_999).open(&path).unwrap();
    assert_eq!(rest.len(), 1);
    assert!(rest.with_padding().len() == 1);
    for (offset, len) in [(10_001, 1), (0, 10_001)] {
        let error = Snapshot::options().offset(offset).len(len).open(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(Error::of(&error).unwrap().raw_os_error().is_some());
    }
    assert_eq!(Snapshot::options().len(0).open(&path).unwrap_err().kind(), ErrorKind::InvalidInput);
}

#[test]
fn an_open_file_will_do_and_is_left_as_it_is() {
    let folder = Folder::new();
    let path = folder.file("file", 5000);
    let mut file = File::open(&path).unwrap();
    let mut start = [0; 10];
    file.read_exact(&mut start).unwrap();
    let snapshot = Snapshot::options().require(folder.level).map(&file).unwrap();
    let same = Snapshot::options().require(folder.level).from_file(&file).unwrap();
    assert_eq!(&snapshot[..], &pattern(5000)[..]);
    assert_eq!(&snapshot[..], &same[..]);
    let mut rest = Vec::new();
    file.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, &pattern(5000)[10..]);
}

#[test]
fn a_pipe_is_read_to_its_end() {
    let mut cat = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    cat.stdin.take().unwrap().write_all(b"through a pipe").unwrap();
    let snapshot = Snapshot::from_file(cat.stdout.take().unwrap()).unwrap();
    assert_eq!(snapshot.text().unwrap(), "through a pipe");
    assert!(cat.wait().unwrap().success());
}

#[test]
fn errors_have_a_kind_a_text_and_what_is_inside() {
    let folder = Folder::new();
    let missing = Snapshot::open(folder.join("missing")).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    assert!(missing.to_string().contains("missing"), "{missing}");
    let inner = missing.get_ref().unwrap().downcast_ref::<Error>().unwrap();
    assert_eq!(inner.code(), ErrorCode::Os(2));
    assert_eq!(inner.raw_os_error(), Some(2));
    let cause = std::error::Error::source(inner).unwrap().downcast_ref::<std::io::Error>().unwrap();
    assert_eq!(cause.raw_os_error(), Some(2));

    let path = folder.file("file", 10_000);
    for unprotected in [Backing::Trusted, Backing::Cooperative] {
        let error = Snapshot::options().backing(unprotected).open(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains("unsafe"), "{error}");
    }
    let torn = Snapshot::options().backing(Backing::Paged).require(Consistency::PointInTime).open(&path).unwrap_err();
    assert!(Error::of(&torn).is_some());
    assert!(torn.to_string().contains("file"), "{torn}");
    assert_eq!(Snapshot::open("a\0b").unwrap_err().kind(), ErrorKind::InvalidInput);
    assert!(Error::of(&std::io::Error::from_raw_os_error(2)).is_none());
}

#[test]
fn owners_share_and_threads_read() {
    let folder = Folder::new();
    let path = folder.file("file", 3 << 20);
    let first = Snapshot::options().require(folder.level).open(&path).unwrap();
    let address = first.as_ptr() as usize;
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let own = first.share();
            thread::spawn(move || {
                assert_eq!(own.as_ptr() as usize, address);
                assert!(own.text().is_ok());
                own.iter().map(|byte| u64::from(*byte)).sum::<u64>()
            })
        })
        .collect();
    drop(first); // the last of them closes it
    let sums: HashSet<u64> = threads.into_iter().map(|one| one.join().unwrap()).collect();
    assert_eq!(sums.len(), 1);
}

#[test]
fn refresh_is_free_where_nothing_changed() {
    let folder = Folder::new();
    let path = folder.file("file", 100_000);
    let old = Snapshot::options().require(folder.level).open(&path).unwrap();
    if folder.level == Consistency::Verified {
        assert!(!old.changed());
        assert_eq!(old.refresh().unwrap().as_ptr(), old.as_ptr());
        for _ in 0..1000 {
            std::mem::forget(old.refresh().unwrap());
        }
    }
    fs::write(&path, "newer").unwrap();
    assert!(old.changed());
    let newer = old.refresh().unwrap();
    assert_eq!(&newer[..], b"newer");
    assert_eq!(old.len(), 100_000);
}

#[test]
fn an_identity_is_a_key() {
    let folder = Folder::new();
    let path = folder.file("file", 5000);
    let open = || Snapshot::options().require(folder.level).open(&path).unwrap();
    let (one, two) = (open(), open());
    assert_eq!(one.identity(), two.identity());
    assert_eq!(one.identity().length, 5000);
    assert_ne!(one.identity().inode, 0);
    fs::remove_file(&path).unwrap();
    fs::write(&path, pattern(5001)).unwrap();
    assert_ne!(open().identity(), one.identity());
}

#[test]
fn advice_is_taken() {
    let folder = Folder::new();
    let path = folder.file("file", 1 << 20);
    let snapshot = Snapshot::options().require(folder.level).populate().open(&path).unwrap();
    for advice in [Advice::Sequential, Advice::Random, Advice::WillNeed, Advice::PopulateRead, Advice::HugePage] {
        snapshot.advise(advice).unwrap();
        snapshot.advise_range(advice, 4096, 10_000).unwrap();
        snapshot.advise_range(advice, 1 << 20, 0).unwrap();
        assert!(snapshot.advise_range(advice, 1 << 20, 1).is_err());
    }
    assert_eq!(&snapshot[..], &pattern(1 << 20)[..]);
}

#[test]
fn many_are_opened_at_one_instant() {
    let folder = Folder::new();
    let paths: Vec<_> = (1..5).map(|i| folder.file(&format!("file{i}"), i * 3000)).collect();
    let level = if folder.level == Consistency::Torn { Consistency::Torn } else { Consistency::PointInTime };
    let all = Snapshot::options().require(level).open_many(&paths).unwrap();
    assert_eq!(all.iter().map(|one| one.len()).collect::<Vec<_>>(), [3000, 6000, 9000, 12000]);
    assert!(all.iter().all(|one| one.when() >= level && one[..] == pattern(one.len())[..]));
    assert!(Snapshot::open_many::<&str>(&[]).unwrap().is_empty());
    let missing = folder.join("missing");
    let error = Snapshot::open_many(&[&paths[0], &missing]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("missing"), "{error}");
}
