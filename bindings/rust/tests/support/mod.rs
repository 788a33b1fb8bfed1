// SPDX-License-Identifier: Apache-2.0
//
// Folders to test in, and a child process that writes: the test's own program once more, told by its environment
// what to do (std::process::Command alone; nothing here is unsafe).
#![allow(dead_code)] // each test program uses a part

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use stillmap::{Consistency, Snapshot};

/// A folder of its own, removed at the end.
pub struct Folder {
    path: PathBuf,
    /// The level to be had there: torn alone on overlayfs and the like.
    pub level: Consistency,
}

impl Folder {
    /// On each file system that is there: those that tests/support/with-filesystems made, else the one for temporary
    /// files.
    pub fn all() -> Vec<Folder> {
        let mut found: Vec<Folder> = ["EXT4", "TMPFS", "XFS", "BTRFS", "OVERLAY"]
            .iter()
            .filter_map(|name| env::var_os(format!("STILLMAP_TEST_{name}")))
            .map(|path| Folder::under(Path::new(&path)))
            .collect();
        if found.is_empty() {
            found.push(Folder::new());
        }
        found
    }

    /// On one.
    pub fn new() -> Folder {
        let named = ["STILLMAP_TEST_EXT4", "STILLMAP_TEST_SCRATCH", "CARGO_TARGET_TMPDIR"];
        let place = named.iter().find_map(env::var_os).map_or_else(env::temp_dir, PathBuf::from);
        Folder::under(&place)
    }

    fn under(place: &Path) -> Folder {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = place.join(format!("stillmap-rust-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        let probe = path.join("probe");
        fs::write(&probe, "probe").unwrap();
        let verified = Snapshot::open(&probe).is_ok();
        if !verified {
            eprintln!("note: {} gives no level but torn", path.display());
        }
        fs::remove_file(&probe).unwrap();
        Folder { path, level: if verified { Consistency::Verified } else { Consistency::Torn } }
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// A file of `len` bytes that do not repeat soon.
    pub fn file(&self, name: &str, len: usize) -> PathBuf {
        let path = self.join(name);
        fs::write(&path, pattern(len)).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

pub fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| b'a' + ((i ^ (i >> 8) ^ (i >> 16)) % 26) as u8).collect()
}

/// What a writer does to a file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Deed {
    Write,
    Append,
    Shrink,
    TruncatingOpen,
    RenameOver,
    Unlink,
}

pub const DEEDS: [Deed; 6] =
    [Deed::Write, Deed::Append, Deed::Shrink, Deed::TruncatingOpen, Deed::RenameOver, Deed::Unlink];

/// Does it, and returns when it is done.
pub fn strike(deed: Deed, path: &Path) {
    let open = || fs::OpenOptions::new().write(true).open(path).unwrap();
    match deed {
        Deed::Write => {
            let mut file = open();
            let len = file.metadata().unwrap().len() as usize;
            file.write_all(&vec![b'#'; len]).unwrap();
        }
        Deed::Append => fs::OpenOptions::new().append(true).open(path).unwrap().write_all(&[b'#'; 9000]).unwrap(),
        Deed::Shrink => {
            let file = open();
            let len = file.metadata().unwrap().len();
            file.set_len(len / 2).unwrap();
            file.set_len(len).unwrap(); // zeros where bytes were
        }
        Deed::TruncatingOpen => fs::write(path, [b'#'; 5000]).unwrap(),
        Deed::RenameOver => {
            let other = path.with_extension("other");
            fs::write(&other, [b'#'; 7000]).unwrap();
            fs::rename(&other, path).unwrap();
        }
        Deed::Unlink => fs::remove_file(path).unwrap(),
    }
}

/// Another process that does deeds on demand.
pub struct Writer {
    child: Child,
    answers: BufReader<std::process::ChildStdout>,
}

const ROLE: &str = "STILLMAP_RUST_TEST_ROLE";

impl Writer {
    /// The program of this test once more, of which it runs the test `child` alone.
    pub fn start(child: &str) -> Writer {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", child, "--nocapture", "--test-threads=1"])
            .env(ROLE, "writer")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        Writer { child, answers }
    }

    /// Asks for one deed, and returns when it is done.
    pub fn strike(&mut self, deed: Deed, path: &Path) {
        let index = DEEDS.iter().position(|one| *one == deed).unwrap();
        writeln!(self.child.stdin.as_mut().unwrap(), "{index} {}", path.display()).unwrap();
        self.answer();
    }

    fn answer(&mut self) {
        let mut line = String::new();
        while !line.ends_with("struck\n") {
            line.clear();
            assert_ne!(self.answers.read_line(&mut line).unwrap(), 0, "the writer died");
        }
    }

    /// The child's side; returns at once where this process is no child.
    pub fn child() {
        if env::var_os(ROLE).is_none() {
            return;
        }
        let mut line = String::new();
        while std::io::stdin().read_line(&mut line).unwrap() != 0 {
            let (index, path) = line.trim_end().split_once(' ').unwrap();
            strike(DEEDS[index.parse::<usize>().unwrap()], Path::new(path));
            println!("struck");
            line.clear();
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.child.stdin.take()); // the end of its orders
        let _ = self.child.wait();
    }
}
