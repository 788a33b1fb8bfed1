#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A file truncated by open(O_RDONLY|O_TRUNC) while `still grep` searches it: told, status 2, no death by signal.

The search is held up by its own output, a pipe that is not read, until the file is truncated."""

import os
import subprocess
import sys
import tempfile

still = sys.argv[1]
with tempfile.NamedTemporaryFile(dir=os.environ.get("STILLMAP_TEST_EXT4") or ".") as file:
    for _ in range(64):
        file.write(b"a line with a needle in it\n" * 40000)
    file.flush()
    os.fsync(file.fileno())
    path = file.name
    # Every descriptor for writing must go, or the file is copied.
    os.link(path, path + ".kept")
try:
    path += ".kept"
    search = subprocess.Popen([still, "grep", "-n", "-j1", "needle", path], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    search.stdout.read(1)  # it has begun, and the pipe will fill up
    os.close(os.open(path, os.O_RDONLY | os.O_TRUNC))
    out, err = search.communicate()
    lines = (b"?" + out).split(b"\n")[:-1]
    assert search.returncode == 2, (search.returncode, err)
    assert b"truncated while it was searched" in err, err
    assert all(b"a line with a needle in it" in line for line in lines[1:-1]), "a line that was never there"
finally:
    os.unlink(path)
