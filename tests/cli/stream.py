#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A stream far larger than the memory budget: its bytes go to a private file as they arrive, every line is there in
the end, and the memory that cannot be taken back (RssAnon) stays near the budget.

Usage: stream.py PATH_OF_STILL [MIB]"""

import os
import subprocess
import sys
import threading

still = sys.argv[1]
mib = int(sys.argv[2]) if len(sys.argv) > 2 else 512
BUDGET_MIB = 64
LINE = b"a line of text, of which there are many more, thirty-two a KiB..."[:31] + b"\n"


def anonymous_mib(pid):
    with open(f"/proc/{pid}/status") as file:
        return max(int(line.split()[1]) for line in file if line.startswith("RssAnon")) >> 10


block = LINE * (1 << 15)  # 1 MiB
search = subprocess.Popen([still, "grep", "-c", "of text", "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          env={**os.environ, "STILLMAP_MEMORY_BUDGET": str(BUDGET_MIB << 20)})
answer = []
reader = threading.Thread(target=lambda: answer.append(search.stdout.read()))
reader.start()
most = 0
for written in range(mib):
    search.stdin.write(block)
    if written % 16 == 0:
        most = max(most, anonymous_mib(search.pid))
search.stdin.close()
reader.join()
assert search.wait() == 0
assert int(answer[0]) == mib << 15, f"lines found: {answer[0]}"
print(f"{mib} MiB through a pipe under a budget of {BUDGET_MIB} MiB: at most {most} MiB of anonymous memory")
assert most < BUDGET_MIB * 2 + 32, f"{most} MiB"
