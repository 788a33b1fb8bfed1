#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs one example again and again while another process rewrites its file, back and forth between two contents, each
with one write(2). Every answer has to be the answer for one of the two, and both have to be seen. That the writer is
wild enough is seen through plain mmap: it has to show a mixture of the two.

    test.py EXAMPLE BINARY
"""

import json
import mmap
import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

example, binary = sys.argv[1:]
ANSWERS = 40
PATIENCE_SECONDS = 60

# Opens, writes and closes; so a reader sees it now at work, now absent.
WRITER = """
import os, sys, time
path, *others = sys.argv[1:]
contents = [open(other, 'rb').read() for other in others]
print('started', flush=True)
while True:
    for content in contents:
        fd = os.open(path, os.O_WRONLY)
        os.pwrite(fd, content, 0)
        os.close(fd)
        time.sleep(0.005)
"""


def records(word):
    return b"".join(struct.pack("=Q24s", 3 * i, b"%s-%d" % (word, i)) for i in range(1 << 16))


def listing(count, width):
    """A JSON array of so many entries, filled up with spaces to one size whatever their number."""
    entries = [{"name": "ä" * width, "bytes": i} for i in range(count)]
    text = json.dumps(entries, ensure_ascii=False).encode()
    return text[:-1] + b" " * (1_500_000 - len(text)) + b"]"


# What the file holds by turns, always of one size, and what the example says about each.
cases = {
    "csv_fields": (
        [], [b"aa,bb,c\n" * 200_000, b'longer,b\n' * 177_777 + b'"1,2,3"'],
        [b"200000 rows, 600000 fields, the longest is aa\n",
         b'177778 rows, 355555 fields, the longest is "1,2,3"\n']),
    "json_total": (
        [], [listing(20_000, 5), listing(10_000, 20)],
        [b"20000 entries, 199990000 bytes\n", b"10000 entries, 49995000 bytes\n"]),
    "lookup": (
        ["0", "3", "98301", "196605", "1", "196608"], [records(b"red"), records(b"blue")],
        [b"0 red-0\n3 red-1\n98301 red-32767\n196605 red-65535\n1 is not there\n196608 is not there\n",
         b"0 blue-0\n3 blue-1\n98301 blue-32767\n196605 blue-65535\n1 is not there\n196608 is not there\n"]),
    "map_snapshot": (
        [], [b"x" * 99 + b"\n" + b"four\n" * 200_000, b"y" * 199 + b"\n" + b"nineteen letters ..\n" * 49_995],
        [b"200001 lines, the longest is line 1 with 99 bytes\n",
         b"49996 lines, the longest is line 1 with 199 bytes\n"]),
    "serve": ([], [b"a" * 3_000_000, b"b" * 3_000_000], [b"a" * 3_000_000, b"b" * 3_000_000]),
}


def run(path, arguments):
    """One answer, or None where the file was being written and the example said so."""
    done = subprocess.run([binary, path, *arguments], capture_output=True, timeout=PATIENCE_SECONDS)
    if done.returncode == 1 and (b"open for writing" in done.stderr or b"keeps changing" in done.stderr):
        return None
    if done.returncode != 0:
        sys.exit(f"exit status {done.returncode}: {done.stderr.decode(errors='replace')}")
    return done.stdout


def fetch(name):
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE_SECONDS)
        client.connect(name)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # slow: the file changes before all is sent
        with client.makefile("rb") as reply:
            head = reply.readline()
            if not head:
                return None  # in a hundred tries the writer was there
            body = reply.read()
            return body if len(body) == int(head) else b"cut off"


def collect(ask, answers, expected):
    """Asks until there are enough answers and each of the two contents was seen."""
    end = time.monotonic() + PATIENCE_SECONDS
    while len(answers) < ANSWERS or not all(one in answers for one in expected):
        if time.monotonic() > end:
            sys.exit(f"{len(answers)} answers, of {len(set(answers))} kinds, in {PATIENCE_SECONDS} s")
        answer = ask()
        if answer is None:
            continue
        if answer not in expected:
            sys.exit(f"an answer that neither content has: {answer[:200]!r}")
        answers.append(answer)


def await_mixture(path, contents):
    """The canary: what the examples are to be spared."""
    end = time.monotonic() + PATIENCE_SECONDS
    looks = 0
    while time.monotonic() < end:
        looks += 1
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as plain:
            if plain[:] not in contents:
                print(f"plain mmap shows a mixture at look {looks}")
                return
    sys.exit("plain mmap never shows a mixture: the writer proves nothing")


arguments, contents, expected = cases[example]
assert len({len(content) for content in contents}) == 1, [len(content) for content in contents]
with tempfile.TemporaryDirectory(dir=os.environ.get("STILLMAP_TEST_EXT4")) as folder:
    path = os.path.join(folder, "file")
    names = []
    for i, content in enumerate(contents):
        names.append(os.path.join(folder, f"content-{i}"))
        with open(names[-1], "wb") as file:
            file.write(content)
    with open(path, "wb") as file:
        file.write(contents[0])

    # Alone first: the right answer, and whether this file system can hold still at all.
    if example != "serve":
        done = subprocess.run([binary, path, *arguments], capture_output=True)
        if b"not to be had" in done.stderr:
            print(f"skip: {done.stderr.decode()}")
            sys.exit(77)
        assert done.stdout == expected[0], done

    running = [subprocess.Popen([sys.executable, "-c", WRITER, path, *names], stdout=subprocess.PIPE)]
    try:
        running[0].stdout.readline()
        await_mixture(path, contents)
        answers = []
        if example == "serve":
            name = os.path.join(tempfile.mkdtemp(dir=folder), "s")
            server = subprocess.Popen([binary, path, name])
            running.append(server)
            while not os.path.exists(name):
                assert server.poll() is None, "the server ended"
                time.sleep(0.01)
            clients = [threading.Thread(target=collect, args=(lambda: fetch(name), answers, expected))
                       for _ in range(3)]
            for client in clients:
                client.start()
            for client in clients:
                client.join()
            assert len(answers) >= ANSWERS and set(answers) == set(expected), "a client gave up"
        else:
            collect(lambda: run(path, arguments), answers, expected)
        assert all(process.poll() is None for process in running), "the writer or the server ended"
        print(f"{len(answers)} answers while the file was rewritten, each of one content:",
              *(answers.count(one) for one in expected))
    finally:
        for process in running:
            process.kill()
            process.wait()
