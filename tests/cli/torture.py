#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`still torture` on ext4 and tmpfs: plain mappings are harmed, stillmap's are not, and nothing is left behind, also
after a signal. The harm is the test's canary: without it the run ends with a status of its own.

Usage: torture.py PATH_OF_STILL, under with-filesystems."""

import json
import os
import pty
import signal
import subprocess
import sys
import tempfile
import time

still = os.path.abspath(sys.argv[1])
failures = 0


def check(condition, what):
    global failures
    if not condition:
        failures += 1
        print("FAILED:", what)


def until(condition, what):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.01)


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(child) for child in file.read().split()]


def whole_run(folder, system):
    done = subprocess.run([still, "torture", "--seconds", "6", "--json", folder], capture_output=True, timeout=150)
    err = done.stderr.decode(errors="replace")
    check(done.returncode == 0, f"{system}: exit status {done.returncode}: {err}")
    told = json.loads(done.stdout)
    rows = {row["way"]: row for row in told["rows"]}
    for name, row in rows.items():
        if not row["here"]:
            print(f"{system}: {name}: not here: {row['last_refusal']}")
            check(row["stillmap"] and row["last_refusal"], f"{system}: {name}: a way that is not here has its reason")
            continue
        print(f"{system}: {name}: {row['snapshots']} snapshots, {row['changed_bytes']} bytes changed, "
              f"{row['signals']} signals, {row['failed_closed']} failed closed")
        check(row["snapshots"] > 0, f"{system}: {name} took snapshots")
        check(row["killed"] == 0, f"{system}: {name}: no reader was killed")
        check(row["writer_p99_ms"] >= row["writer_median_ms"] > 0, f"{system}: {name}: what writers waited")
        if name.startswith("mmap"):
            check(row["changed_bytes"] > 0 and not row["stillmap"], f"{system}: {name} is harmed")
            check(row["private_bytes_max"] == 0, f"{system}: {name} takes no memory")
        else:
            check(row["changed_bytes"] == 0 and row["signals"] == 0, f"{system}: {name} holds still")
    for name in ("mmap MAP_SHARED", "mmap MAP_PRIVATE", "read", "stillmap auto", "stillmap leased", "stillmap copied"):
        check(name in rows and rows[name]["here"], f"{system}: {name} is compared")
    kinds = [kind for kind in told["kinds"] if kind["changes"] > 0]
    check(len(kinds) >= 18, f"{system}: kinds of writers at work: {len(kinds)}")
    check(all(kind["changes"] > 0 or kind.get("not_here") for kind in told["kinds"]), f"{system}: each works or is not here")
    check(told["promise_kept"] and told["storm_proved"] and told["verdict"], f"{system}: the verdict")


def ended_early(folder, number):
    running = subprocess.Popen([still, "torture", "--seconds", "100", folder], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    until(lambda: len(children(running.pid)) == 3, "two writers and a reader")
    made = children(running.pid)
    running.send_signal(number)
    check(running.wait(60) == -number, f"signal {number} ends it: {running.returncode}")
    if number == signal.SIGKILL:  # the one that leaves the folder; its children end all the same
        until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in made), "no child outlives it")
    else:
        check(not any(os.path.exists(f"/proc/{pid}") for pid in made), f"signal {number}: no child is left")


def on_a_terminal(folder):
    shown = b""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(still, [still, "torture", "--seconds", "2", folder])
    try:
        while part := os.read(terminal, 4096):
            shown += part
    except OSError:  # how a terminal ends
        pass
    os.waitpid(pid, 0)
    check(b" s left; " in shown, f"a live line: {shown[:200]}")
    for words in (b"mmap MAP_SHARED", b"stillmap auto", b"changed bytes", b"changes of "):
        check(words in shown, f"a table with {words}: {shown[-2000:]}")


for system in ("ext4", "tmpfs"):
    root = os.environ.get("STILLMAP_TEST_" + system.upper())
    if not root:
        print(f"skip: no {system}")
        continue
    with tempfile.TemporaryDirectory(dir=root) as folder:
        there = os.path.join(folder, "0")
        with open(there, "wb") as file:
            file.write(b"a file that was there before" * 100_000)
        before = os.stat(there)
        whole_run(folder, system)
        for number in (signal.SIGINT, signal.SIGTERM):
            ended_early(folder, number)
        on_a_terminal(folder)
        check(os.listdir(folder) == ["0"], f"{system}: nothing is left behind: {os.listdir(folder)}")
        after = os.stat(there)
        same = all(getattr(before, name) == getattr(after, name) for name in ("st_ino", "st_size", "st_mtime_ns", "st_ctime_ns", "st_atime_ns"))
        check(same, f"{system}: a file that was there before is untouched")
        ended_early(folder, signal.SIGKILL)
for words in (("--seconds", "none"), ("--seconds", "0"), (".", "..")):
    check(subprocess.run([still, "torture", *words], capture_output=True).returncode == 2, f"usage: {words}")
missing = subprocess.run([still, "torture", "/nowhere/at/all"], capture_output=True)
check(missing.returncode == 2 and b"No such file" in missing.stderr, "no such directory")
sys.exit(1 if failures else 0)
