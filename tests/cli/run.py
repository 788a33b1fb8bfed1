#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`still run` as its help and docs/still-run.md promise it: which mappings are held and which are left alone, by
option and by file; exit statuses; what is refused. The programs are small Pythons that map files; what became of a
mapping is seen from outside: whether it shows what another process wrote afterwards, and in the report."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time

still = os.path.abspath(sys.argv[1])
python = "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else sys.executable
failures = 0

# Maps argv[1] as argv[2] says, waits for a line, and prints the first byte of the mapping.
MAPPER = """
import mmap, os, sys
path, how = sys.argv[1:3]
fd = os.memfd_create("x") if path == "memfd" else os.open(path, os.O_RDWR if "rdwr" in how else os.O_RDONLY)
if path == "memfd": os.write(fd, b"a" * 8192)
if "unlinked" in how: os.unlink(path)
flags = mmap.MAP_PRIVATE if "private" in how else mmap.MAP_SHARED
prot = mmap.PROT_READ | (mmap.PROT_WRITE if "writable" in how else 0)
m = mmap.mmap(fd, 0, flags=flags, prot=prot)
if "unlinked" in how or path == "memfd":
    other = os.open("/proc/self/fd/%d" % fd, os.O_WRONLY)
    print("mapped", flush=True)
    sys.stdin.readline()
    os.pwrite(other, b"b" * 8192, 0)
else:
    print("mapped", flush=True)
    sys.stdin.readline()
print(m[:1].decode(), flush=True)
"""


def check(condition, what):
    global failures
    if not condition:
        failures += 1
        print("FAILED:", what)


def run(*words, **more):
    done = subprocess.run([still, "run", *words], capture_output=True, timeout=60, text=True, **more)
    return done.returncode, done.stdout, done.stderr


def seen(path, how, *options, prefix=()):
    """The byte that a mapping of `how` shows after another process has put b in place of a; and the report."""
    if path != "memfd":
        with open(path, "wb") as file:
            file.write(b"a" * 8192)
    child = subprocess.Popen([*prefix, still, "run", "--report", *options, "--", python, "-c", MAPPER, path, how],
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "mapped\n", child.stderr.read()
    if path != "memfd" and "unlinked" not in how:
        with open(path, "r+b") as file:
            file.write(b"b" * 8192)
    out, err = child.communicate("go\n", timeout=60)
    return out.strip(), err


def expect(held, path, how, *options, **more):
    byte, report = seen(path, how, *options, **more)
    check(byte == ("a" if held else "b"), f"{how} of {path} under {options}: {byte}\n{report}")
    return report


with tempfile.TemporaryDirectory(dir=os.environ.get("STILLMAP_TEST_EXT4")) as folder:
    path = os.path.join(folder, "file.bin")

    # Scopes. A writable shared mapping is never held.
    for scope, private, shared, shared_rdwr, unlinked in (
        ("snapshot", False, False, False, False),
        ("private", True, False, False, False),
        ("readonly", True, True, False, False),
        ("all", True, True, True, True),
    ):
        option = f"--mappings={scope}"
        expect(shared, path, "shared", option)
        expect(shared_rdwr, path, "shared rdwr", option)
        expect(unlinked, path, "shared unlinked", option)
        expect(False, path, "shared rdwr writable", option)
        # Without us a private mapping may show either; it is looked at where it must hold.
        if private:
            expect(True, path, "private", option)
            expect(True, path, "private rdwr writable", option)
    check(re.search(r"1  copied, torn", expect(True, path, "shared")), "the report says how")
    check("open for writing" in expect(False, path, "shared rdwr"), "the report says why not")
    check("left alone" in expect(False, "memfd", "shared"), "a memfd is left alone")

    # Files by name, and by path.
    expect(True, path, "shared", "--only=*.bin")
    expect(False, path, "shared", "--only=*.txt")
    expect(False, path, "shared", "--except=*.txt", "--except=file.*")
    expect(False, path, "shared", f"--except={folder}/*")
    expect(True, path, "shared", "--except=/nowhere/*")

    # /dev/shm is left alone; other folders are not, though /dev/shm be one like them.
    shm = f"/dev/shm/still-run-test-{os.getpid()}"
    try:
        check("in /dev/shm" in expect(False, shm, "shared"), "/dev/shm is left alone")
    finally:
        os.path.exists(shm) and os.unlink(shm)
    if os.geteuid() == 0:
        # There /dev/shm is a folder of the very file system that the file lies on.
        os.makedirs(os.path.join(folder, "dev", "shm"))
        plain = ("unshare", "--mount", "--propagation", "private", "sh", "-c", 'mount --bind "$0" /dev && exec "$@"', os.path.join(folder, "dev"))
        expect(True, path, "shared", prefix=plain)

    # What is over the budget goes to a private file.
    os.environ["STILLMAP_MEMORY_BUDGET"] = "4095"
    check(re.search(r"1  (cloned|spilled), ", expect(True, path, "shared")), "over budget: to a file")
    del os.environ["STILLMAP_MEMORY_BUDGET"]

    # The command's own status, and a shell's for what cannot be run.
    check(run("--", "sh", "-c", "exit 7")[0] == 7, "the exit status")
    check(run("--report", "--", "sh", "-c", "exit 7")[0] == 7, "... with a report")
    check(run("--report", "--", "sh", "-c", "kill -9 $$")[0] == 128 + 9, "... of a death by signal")
    check(run("--", "no-such-command")[0] == 127, "what is not there")
    check(run("--", folder + "/file.bin")[0] == 126, "what cannot be run")
    check(run()[0] == 2 and run("--mappings=some", "--", "true")[0] == 2, "mistakes in the command line")
    status, _, err = run("--", "/sbin/ldconfig", "--version")
    check(status == 126 and "linked statically" in err, f"what no preload reaches is refused: {err}")
    check(run("sh", "-c", "test -n \"$LD_PRELOAD\"")[0] == 0, "-- may be left out")

    # A level that cannot be had is an error of mmap.
    with open(path, "r+b") as file:
        file.write(b"a" * 8192)
        status, _, err = run("--require=point_in_time", "--", python, "-c",
                             f"import mmap; f = open({path!r}, 'rb'); mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)")
        check(status == 1 and ("Errno 11" in err or "BlockingIOError" in err), f"EAGAIN beside a writer: {status} {err}")

    # What is sent to `still run --report` reaches the command, and nothing is left behind.
    temporary = os.path.join(folder, "tmp")
    os.mkdir(temporary)
    child = subprocess.Popen([still, "run", "--report", "--", "sleep", "100"], env={**os.environ, "TMPDIR": temporary}, stderr=subprocess.PIPE)
    end = time.monotonic() + 30
    while open(f"/proc/{child.pid}/task/{child.pid}/children").read() == "" and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(0.2)  # until it waits: an earlier signal ends it as any program
    child.send_signal(signal.SIGTERM)
    child.communicate(timeout=30)
    check(child.returncode == 128 + signal.SIGTERM, f"SIGTERM is passed on: {child.returncode}")
    check(os.listdir(temporary) == [], "the report's file is gone")

sys.exit(1 if failures else 0)
