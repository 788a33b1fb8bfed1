#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What `still run` costs a program whose files nobody touches: in pairs, in random order, ratio of medians.

  preload.py --build FOLDER_OF_THE_BUILD [--pairs N] [--count N] [--only NAME]...

- whole processes: `rg --mmap -c` on one file of 1 GiB in the page cache (aim: 1.03)
- calls: open, fstat, mmap, munmap, close of small files, of 4 to 16 KiB, pages read or not (aim: 1.2)
- calls: mmap and munmap of memory that is no file's (aim: nothing to be seen)

Files are made in $STILLMAP_BENCH_DIR (default: a fresh folder beside this tree) and removed."""

import argparse
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

FILES = 1000
LARGE_BYTES = 1 << 30


def seconds_of(command):
    begin = time.monotonic()
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return time.monotonic() - begin, done.stdout


def ns_told(command):
    return float(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout), b""


def compare(name, unit, scale, measure, command, prefix, pairs, aim):
    """One warm run of each, then pairs."""
    ways = {"bare": command, "held": [*prefix, *command]}
    answers = {way: measure(words)[1] for way, words in ways.items()}
    if answers["bare"] != answers["held"]:
        sys.exit(f"{name}: another answer under still run")
    taken = {"bare": [], "held": []}
    for _ in range(pairs):
        for way in random.sample(sorted(ways), 2):
            taken[way].append(measure(ways[way])[0] * scale)
    bare, held = (statistics.median(taken[way]) for way in ("bare", "held"))
    spread = {way: statistics.quantiles(values, n=4) for way, values in taken.items()}
    quartiles = " ".join(f"{way} {spread[way][0]:.4g}..{spread[way][2]:.4g}" for way in ("bare", "held"))
    print(f"{name:44} {bare:9.4g} {held:9.4g} {unit:4} {held / bare:7.3f}  aim {aim:5}  quartiles {quartiles}", flush=True)


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--build", required=True)
    options.add_argument("--pairs", type=int, default=21)
    options.add_argument("--count", type=int, default=100000)
    options.add_argument("--only", action="append")
    arguments = options.parse_args()
    wanted = arguments.only or [""]
    still = os.path.join(arguments.build, "cli", "still")
    calls = os.path.join(arguments.build, "bench", "bench_preload_calls")
    prefix = [still, "run", "--"]
    print(f"{arguments.pairs} pairs, medians")
    print(f"{'':44} {'mmap':>9} {'still run':>9} {'':4} {'ratio':>7}", flush=True)

    def chosen(name):
        return any(each in name for each in wanted)

    place = os.environ.get("STILLMAP_BENCH_DIR")
    beside = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    with tempfile.TemporaryDirectory(prefix="stillmap-bench.", dir=place or beside) as folder:
        if chosen("large") and shutil.which("rg"):
            path = os.path.join(folder, "large")
            piece = b"".join(b"line %07d of a text that nobody changes while it is read\n" % i for i in range(1 << 18))
            piece += b"one needle in a piece\n"
            with open(path, "wb") as file:
                while file.tell() < LARGE_BYTES:
                    file.write(piece)
                file.truncate(LARGE_BYTES)
                file.flush()
                os.fsync(file.fileno())
            compare("large: rg --mmap -c, 1 GiB", "ms", 1e3, seconds_of, ["rg", "--mmap", "-c", "one needle", path],
                    prefix, arguments.pairs, 1.03)
            os.unlink(path)
        small = os.path.join(folder, "small")
        os.mkdir(small)
        for i in range(FILES):
            with open(os.path.join(small, str(i)), "wb") as file:
                file.write(os.urandom(random.randrange(4096, 16385)))
        os.sync()
        for kind, name, aim in (("touch", "small: 4 to 16 KiB, every page read", 1.2),
                                ("untouched", "small: 4 to 16 KiB, not read", 1.2),
                                ("anonymous", "anonymous: 16 KiB", 1.0)):
            if chosen(name):
                words = [calls, kind, small, str(FILES), str(arguments.count)] if kind != "anonymous" \
                    else [calls, kind, "-", "0", str(arguments.count)]
                compare(name, "ns", 1, ns_told, words, prefix, arguments.pairs, aim)


if __name__ == "__main__":
    main()
