#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`still cp` as a user meets it: each exit status, what becomes of TARGET when something fails, and copies of a
file that is rewritten without pause: one that is called whole must be of one generation.

Usage: cp.py PATH_OF_STILL, under with-filesystems."""

import os
import pty
import resource
import signal
import subprocess
import sys
import tempfile
import time

still = os.path.abspath(sys.argv[1])
failures = 0
os.umask(0o022)
GIB = 1 << 30


def check(condition, what):
    global failures
    if not condition:
        failures += 1
        print("FAILED:", what)


def cp(*words, **more):
    done = subprocess.run([still, "cp", *words], capture_output=True, timeout=120, **more)
    return done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")


def write(path, data, mode=None):
    with open(path, "wb") as file:
        file.write(data)
    if mode is not None:
        os.chmod(path, mode)


def read(path):
    with open(path, "rb") as file:
        return file.read()


def untouched(folder, names, target, data, what):
    check(sorted(os.listdir(folder)) == sorted(names), f"{what}: nothing is left behind: {os.listdir(folder)}")
    check(read(target) == data, f"{what}: TARGET is untouched")


def allocated(path, size):
    """Zeros that are no hole."""
    with open(path, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, size)


def until(condition, what):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.001)


def files(folder, system):
    # On an overlay nothing proves a copy whole: docs/guarantees.md.
    made = 3 if system == "overlay" else 0
    source, target = os.path.join(folder, "source"), os.path.join(folder, "target")
    data = os.urandom(3_000_001)
    write(source, data, 0o755)

    status, out, err = cp(source, target)
    check((status, out, err != "") == (made, "", made == 3), f"a plain copy: {status} {out} {err}")
    check(read(target) == data, "a plain copy has the bytes")
    check(os.stat(target).st_mode & 0o7777 == 0o755, "a new file has the mode of the source")
    os.umask(0o077)
    check(cp(source, target + "2")[0] == made and os.stat(target + "2").st_mode & 0o7777 == 0o700, "less the umask")
    os.umask(0o022)
    os.unlink(target + "2")

    # Replaced, not written into: who has the old file keeps the old bytes.
    os.chmod(target, 0o640)
    os.link(target, target + ".old")
    write(source, b"new" * 100)
    check(cp(source, target)[0] == made and read(target) == b"new" * 100, "an existing TARGET gets the new bytes")
    check(os.stat(target).st_mode & 0o7777 == 0o640, "an existing TARGET keeps its mode")
    check(read(target + ".old") == data, "a replaced file is left alone")
    os.unlink(target + ".old")

    write(source, b"")
    check(cp(source, target)[0] == made and read(target) == b"", "an empty file")
    write(source, b"bytes")

    # Holes stay holes, also at the end.
    write(source, b"begin")
    with open(source, "r+b") as file:
        file.seek(70_000_000)
        file.write(b"middle")
    os.truncate(source, 200_000_001)
    check(cp(source, target)[0] == made and os.path.getsize(target) == 200_000_001, "a sparse file has its size")
    check(subprocess.run(["cmp", source, target]).returncode == 0, "a sparse file has its bytes")
    check(os.stat(target).st_blocks * 512 < 1_000_000, f"a sparse file stays sparse: {os.stat(target).st_blocks}")
    write(source, b"bytes")

    inside = os.path.join(folder, "inside")
    os.mkdir(inside)
    check(cp(source, inside)[0] == made and read(os.path.join(inside, "source")) == b"bytes", "a folder as TARGET")
    check(cp(source, inside + "/")[0] == made, "a folder with a slash")
    os.symlink("inside/source", os.path.join(folder, "link"))
    write(source, b"through the link")
    check(cp(source, os.path.join(folder, "link"))[0] == made, "a symbolic link as TARGET")
    check(os.path.islink(os.path.join(folder, "link")), "the link stays one")
    check(read(os.path.join(inside, "source")) == b"through the link", "what it leads to is replaced")
    check(cp("./[a,b]", target, cwd=folder)[0] == 1, "no file of that name")
    write(os.path.join(folder, "[a,b]"), b"brackets")
    check(cp("[a,b]", "[c,d]", cwd=folder)[0] == made and read(os.path.join(folder, "[c,d]")) == b"brackets", "brackets")
    for name in ("inside/source", "link", "[a,b]", "[c,d]"):
        os.unlink(os.path.join(folder, name))

    # Failures.
    write(target, b"old")
    names = os.listdir(folder)
    for words, why in (
        ((source, source), "same file"),
        ((source, os.path.join(folder, ".", "source")), "same file"),
        ((source + ".missing", target), "No such file"),
        ((source, os.path.join(folder, "missing", "target")), "No such file"),
        ((inside, target), "directory"),
        ((source, target + "/"), "directory"),
        ((source, "/dev/null"), "not a regular file"),
        ((source, ""), "No such file"),
    ):
        status, out, err = cp(*words)
        check(status == 1 and err.startswith("still: ") and why in err, f"{words}: {status} {err}")
        untouched(folder, names, target, b"old", words)
    os.link(source, source + ".hard")
    check(cp(source, source + ".hard")[0] == 1, "two names of one file")
    os.unlink(source + ".hard")
    check(cp(source)[0] == 2 and cp()[0] == 2 and cp(source, target, target)[0] == 2, "usage")
    check(cp("--require=best", source, target)[0] == 2, "an unknown level")
    check(cp("--help")[0] == 0, "--help")
    untouched(folder, names, target, b"old", "usage")

    # What is no regular file is read to its end.
    check(cp("-", target, input=b"from a pipe" * 100_000)[0] == 0, "standard input: a pipe")
    check(read(target) == b"from a pipe" * 100_000, "standard input: its bytes")
    with open(source, "rb") as file:
        os.lseek(file.fileno(), 8, os.SEEK_SET)
        check(cp("-", target, stdin=file)[0] == made and read(target) == b"the link", "standard input: a file from where it stands")
    check(cp("-", folder, input=b"")[0] == 1, "standard input has no name for a folder")
    fifo = os.path.join(folder, "fifo")
    os.mkfifo(fifo)
    with subprocess.Popen([still, "cp", fifo, target]) as copying:
        write(fifo, b"through a fifo")
    check(copying.returncode == 0 and read(target) == b"through a fifo", "a named pipe")
    os.unlink(fifo)
    status, out, err = cp("/proc/self/status", target)
    check(status == 3 and "torn" in err and read(target).startswith(b"Name:"), f"a file of the kernel's: {status} {err}")
    check(cp("--quiet", "/proc/self/status", target) == (3, "", ""), "a torn copy, quietly")
    write(target, b"old")
    status, out, err = cp("--require=verified", "/proc/self/status", target)
    check(status == 1 and err, f"a level that cannot be had: {status} {err}")
    untouched(folder, names, target, b"old", "a level that cannot be had")


def full(folder):
    """No room for the copy: a limit on file sizes, and a full file system."""
    source, target = os.path.join(folder, "source"), os.path.join(folder, "target")
    write(source, b"x" * 4_000_000)
    write(target, b"old")
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
    status, out, err = cp(source, target, preexec_fn=limit)
    check(status == 1 and "File too large" in err, f"a file too large: {status} {err}")
    untouched(folder, ["source", "target"], target, b"old", "a file too large")
    if os.geteuid() != 0:
        print("skip: not root: no full file system")
        return
    small = os.path.join(folder, "small")
    os.mkdir(small)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", small], check=True)
    try:
        target = os.path.join(small, "target")
        write(target, b"old")
        status, out, err = cp(source, target)
        check(status == 1 and "No space left" in err, f"a full file system: {status} {err}")
        untouched(small, ["target"], target, b"old", "a full file system")
    finally:
        subprocess.run(["umount", small], check=True)


WRITER = """
import os, sys, time
size, hold = int(sys.argv[2]), sys.argv[3] == "hold"
fd = os.open(sys.argv[1], os.O_WRONLY)
print("ready", flush=True)
generation = 0
while True:
    generation = generation % 250 + 1
    os.pwrite(fd, bytes([generation]) * size, 0)
    if not hold:
        os.close(fd)
        time.sleep(0.02)
        fd = os.open(sys.argv[1], os.O_WRONLY)
"""


def rewritten(folder, system, size, hold, rounds):
    source, target = os.path.join(folder, "source"), os.path.join(folder, "target")
    write(source, b"\0" * size)
    writer = subprocess.Popen([sys.executable, "-c", WRITER, source, str(size), hold], stdout=subprocess.PIPE)
    seen = {0: 0, 3: 0}
    try:
        writer.stdout.readline()
        for _ in range(rounds):
            status, out, err = cp(source, target)
            check(status in seen, f"{system}: a file that is rewritten is copied: {status} {err}")
            data = read(target)
            check(len(data) == size, f"{system}: all of it")
            check(status != 0 or len(set(data)) == 1, f"{system}: a whole copy is of one generation: {set(data)}")
            check((status == 3) == ("torn" in err), f"{system}: a torn copy is said to be one: {err}")
            seen[status] = seen.get(status, 0) + 1
        if hold != "hold" and system != "overlay":
            check(seen[0] > 0, f"{system}: between a writer's visits a copy is whole")
        if hold == "hold" and system == "tmpfs":
            check(seen[0] == 0, "tmpfs: with a writer at work nothing proves a copy whole")
            write(target, b"old")
            status, out, err = cp("--require=point_in_time", source, target)
            check(status == 1 and err, f"insisted on a level: {status} {err}")
            untouched(folder, ["source", "target"], target, b"old", "insisted on a level")
    finally:
        writer.kill()
        writer.wait()
    print(f"{system}, {size} bytes, writer {hold}: {seen[0]} whole, {seen[3]} torn")


def in_the_middle(folder, act):
    """Copies a large file, and calls act(pid, source) while its bytes are being written."""
    source, target = os.path.join(folder, "source"), os.path.join(folder, "target")
    allocated(source, GIB)
    write(target, b"old")
    copying = subprocess.Popen([still, "cp", source, target], stderr=subprocess.PIPE)

    def begun():
        for fd in os.listdir(f"/proc/{copying.pid}/fd"):
            try:
                if "(deleted)" in os.readlink(f"/proc/{copying.pid}/fd/{fd}"):
                    if 0 < os.stat(f"/proc/{copying.pid}/fd/{fd}").st_size < GIB // 2:
                        return True
            except FileNotFoundError:
                pass
        return copying.poll() is not None

    until(begun, "the copy begins")
    act(copying.pid, source)
    err = copying.communicate(timeout=120)[1].decode()
    untouched(folder, ["source", "target"], target, b"old", f"{act.__name__}: {copying.returncode} {err}")
    os.unlink(source)
    return copying.returncode, err


def terminated(pid, source):
    os.kill(pid, signal.SIGTERM)


def interrupted(pid, source):
    os.kill(pid, signal.SIGINT)


def truncated(pid, source):
    os.close(os.open(source, os.O_RDONLY | os.O_TRUNC))


def progress(folder):
    source, target = os.path.join(folder, "source"), os.path.join(folder, "target")
    allocated(source, GIB)
    shown = b""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(still, [still, "cp", source, target])
    try:
        while part := os.read(terminal, 4096):
            shown += part
    except OSError:  # how a terminal ends
        pass
    check(os.waitpid(pid, 0)[1] == 0, "a copy on a terminal")
    check(b" of 1073.7 MB" in shown and b"%" in shown, f"progress on a terminal: {shown[:200]}")
    check(shown.endswith(b"\r\x1b[K"), f"the line is gone at the end: {shown[-40:]}")


systems = {name: os.environ.get("STILLMAP_TEST_" + name.upper()) for name in ("ext4", "tmpfs", "xfs", "btrfs", "overlay", "scratch")}
for system, root in systems.items():
    if not root:
        continue
    with tempfile.TemporaryDirectory(dir=root) as folder:
        files(folder, system)
    with tempfile.TemporaryDirectory(dir=root) as folder:
        full(folder)
    with tempfile.TemporaryDirectory(dir=root) as folder:
        rewritten(folder, system, 200_000, "hold", 15)
        rewritten(folder, system, 3_000_000, "hold", 15)
        rewritten(folder, system, 3_000_000, "now and then", 15)
with tempfile.TemporaryDirectory(dir=systems["tmpfs"]) as folder:
    status, err = in_the_middle(folder, terminated)
    check(status == -signal.SIGTERM, f"SIGTERM ends it: {status} {err}")
    status, err = in_the_middle(folder, interrupted)
    check(status == -signal.SIGINT, f"SIGINT ends it: {status} {err}")
    status, err = in_the_middle(folder, truncated)
    check(status == 1 and "taken away" in err, f"the bytes are taken away: {status} {err}")
    progress(folder)
sys.exit(1 if failures else 0)
