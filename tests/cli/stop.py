#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Ctrl-Z while `still grep` holds a lease: it stops, but first lets go of the lease, so that a writer who comes
while it is stopped waits for nobody; and it goes on with the bytes that it had."""

import os
import signal
import subprocess
import sys
import tempfile
import time

still = sys.argv[1]
LINE = b"a line with a needle in it\n"


def state(pid):
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]


def leases(inode):
    with open("/proc/locks") as file:
        return sum(f":{inode} " in line and "LEASE" in line for line in file)


def until(condition, what):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.01)


with tempfile.TemporaryDirectory(dir=os.environ.get("STILLMAP_TEST_EXT4")) as folder:
    path = os.path.join(folder, "file")
    with open(path, "wb") as file:
        file.write(LINE * 2000000)
    inode = os.stat(path).st_ino
    # Held up by its own output, a pipe that nobody reads yet.
    search = subprocess.Popen([still, "grep", "-j1", "needle", path], stdout=subprocess.PIPE)
    try:
        search.stdout.read(1)
        assert leases(inode) == 1, "the file is searched under a lease"
        os.kill(search.pid, signal.SIGTSTP)
        until(lambda: state(search.pid) == "T", "it stops")
        assert leases(inode) == 0, "no lease is left when it stops"
        with open(path, "r+b") as file:  # would wait for the break time, 45 s
            file.write(b"#" * 50_000_000)
        os.kill(search.pid, signal.SIGCONT)
        rest = b"a" + search.stdout.read()
        assert search.wait(60) == 0
        assert rest == LINE * 2000000, "the lines are those of before the writer"
    finally:
        search.kill()
        search.wait()
