#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Measures the lower envelope: what it costs to get at a file's bytes in stillmap's ways, beside raw mmap and read,
and writes docs/benchmarks.md and its pictures. Started by tools/bench, which makes the file systems.

What must be reached stands beside each ratio; what is missed is marked as missed, and counted at the top."""

import argparse
import json
import os
import pathlib
import platform
import subprocess
import sys
import time

import pictures
from measured import GIB, KIB, MIB, run, size_name, summary, verdict

SYSTEMS = {"ext4": "EXT4", "tmpfs": "TMPFS", "XFS": "XFS", "btrfs": "BTRFS"}
WRITTEN = {"whole": "written in one go", "pieces": "written in pieces of 4 KiB"}
WAYS = {"raw_mmap": "raw mmap", "mmap_populate": "... with MAP_POPULATE", "boost": "Boost", "read_recycled": "read, recycled memory",
        "read_fresh": "read, fresh memory", "still_auto": "still auto", "still_torn": "still torn", "still_leased": "leased",
        "still_copied": "copied", "still_cloned": "cloned", "still_spilled": "spilled", "still_paged": "paged"}
OPEN_US = 1.5  # what the proof of a level may cost on top of the cheapest way that has none


class Bounds:
    """Writes ratios with their bound, and remembers which were missed."""

    def __init__(self):
        self.count, self.missed = 0, []

    def hold(self, what, ratio, bound):
        if bound is not None:
            self.count += 1
            if ratio > bound:
                self.missed.append(f"{what}: {ratio:.3f} (≤ {bound})")
        return verdict(ratio, bound)

    def lines(self):
        if not self.missed:
            return [f"All {self.count} bounds are reached.", ""]
        return [f"**{len(self.missed)} of {self.count} bounds are missed:**", "", *(f"- {each}" for each in self.missed), ""]


def table(head, rows):
    return ["| " + " | ".join(head) + " |", "|---" * len(head) + "|", *("| " + " | ".join(row) + " |" for row in rows), ""]


def number(us):
    """Three figures of a time in microseconds, with its unit from a millisecond on."""
    value, unit = (us, "") if us < 1000 else (us / 1e3, " ms")
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f}{unit}"


def envelope(times, key):
    """What still auto is measured against at this size, and the bound of the ratio."""
    _, how, size = key
    raw, read = times["scan", "raw_mmap", how, size][0], times["scan", "read_recycled", how, size][0]
    if size < 16 * KIB:
        return read, 1.5
    return (min(raw, read) + OPEN_US, 1.05) if size <= 16 * MIB else (raw, 1.05)


def scan_tables(system, times, bounds):
    lines = []
    have = [way for way in WAYS if any(key[:2] == ("scan", way) for key in times)]
    sizes = sorted({key[3] for key in times if key[0] == "scan"})
    for how, name in WRITTEN.items():
        rows = []
        for size in sizes:
            what, cells = f"{system}, {name}, {size_name(size)}", []
            for way in have:
                found = times.get(("scan", way, how, size))
                cells.append("" if found is None else number(found[0]))
            against, bound = envelope(times, ("still_auto", how, size))
            auto, torn = (times["scan", way, how, size][0] for way in ("still_auto", "still_torn"))
            torn_bound = 1.15 if size < 16 * KIB else None
            spread = max(times["scan", way, how, size][1] for way in ("raw_mmap", "read_recycled", "still_auto"))
            rows.append([size_name(size), *cells, bounds.hold(f"{what}, auto", auto / against, bound),
                         bounds.hold(f"{what}, torn", torn / against, torn_bound), f"{spread:.0%}"])
        lines += [f"**{system}, {name}**", "", *table(["size", *(WAYS[way] for way in have), "auto ÷ bound's base", "torn ÷ base", "spread"], rows)]
    return lines


def calls_rows(system, one):
    """The library beside the system calls that it cannot do without."""
    calls, scan = one["calls"], one["scan"]
    read = calls["calls", "read", "whole", 4 * KIB][0]
    auto, torn, loop = (scan["scan", way, "whole", 4 * KIB][0] for way in ("still_auto", "still_torn", "read_recycled"))
    alone = {what: calls["calls", what, "whole", 4 * KIB][0] for what in ("torn", "verified", "leased")}
    yield [system, number(read), *(f"{number(us)} ({us / read:.2f})" for us in alone.values()), f"{torn / loop:.2f}", f"{auto / loop:.2f}",
           f"{max(value[1] for value in calls.values()):.0%}"]


def halves_rows(system, times, bounds):
    for how, name in WRITTEN.items():
        for size in sorted({key[3] for key in times if key[0] == "halves"}):
            one = times["scan", "still_auto", how, size][0]
            raw, read, auto, torn = (times["halves", way, how, size] for way in ("raw_mmap", "read_recycled", "still_auto", "still_torn"))
            yield [system, name, size_name(size), number(raw[0]), number(read[0]), number(auto[0]), number(torn[0]),
                   bounds.hold(f"{system}, {name}, {size_name(size)}, two threads", auto[0] / raw[0], 1.05), f"{one / auto[0]:.2f}",
                   f"{max(raw[1], auto[1]):.0%}"]


def fresh_rows(system, times):
    for size in sorted({key[3] for key in times if key[0] == "fresh"}):
        for way in ("still_auto", "still_torn"):
            rested, fresh, held = (times.get((what, way, "whole", size)) for what in ("scan", "fresh", "written"))
            yield [system, size_name(size), WAYS[way], number(rested[0]), number(fresh[0]), number(held[0]) if held else "refused",
                   f"{fresh[0] / rested[0]:.2f}", f"{held[0] / rested[0]:.2f}" if held else "", f"{max(fresh[1], held[1] if held else 0):.0%}"]


def access_rows(system, times, bounds):
    for what, name in (("kept", "20,000 random pages, mapping kept"), ("opened", "... with open, faults, close"), ("sparse", "one byte of every MiB, with open and close")):
        raw, read, auto, torn = (times[what, way] for way in ("raw_mmap", "read_recycled", "still_auto", "still_torn"))
        bound = None if what == "sparse" else 1.05
        yield [system, name, *(number(each[0]) for each in (raw, read, auto, torn)), bounds.hold(f"{system}, {name}, auto", auto[0] / raw[0], bound),
               bounds.hold(f"{system}, {name}, torn", torn[0] / raw[0], bound), f"{max(raw[1], auto[1], torn[1]):.0%}"]


def tree_rows(system, found, bounds):
    ms = {way: summary(values) for way, values in found["ms"].items()}
    read, raw = ms["read_recycled"], ms["raw_mmap"]
    for way, bound in (("still_torn", 1.15), ("still_auto", 1.5)):
        one = ms[way]
        what = f"{system}, {found['files']:,} small files, {WAYS[way]}"
        yield [system, WAYS[way], *(f"{each[0]:.0f}" for each in (read, raw, one)), bounds.hold(f"{what} ÷ read", one[0] / read[0], bound),
               bounds.hold(f"{what} ÷ raw mmap", one[0] / raw[0], 0.4), f"{read[0] / raw[0]:.2f}", f"{max(read[1], raw[1], one[1]):.0%}"]


def alive_rows(levels):
    for way in levels[0]["rates"]:
        for threads in ("1", "2"):
            rates = [summary(level["rates"][way][threads]) for level in levels]
            yield [WAYS[way], threads, *(f"{rate[0] / 1e3:.0f}" for rate in rates), f"{rates[-1][0] / rates[0][0]:.2f}", f"{max(rate[1] for rate in rates):.0%}"]


def live_rows(system, memory, bounds):
    for what in ("leased", "copied"):
        one = memory[what]
        own = max(one["heap"], one["anonymous"] - (4 * KIB if what == "copied" else 0))
        yield [system, what, f"{one['heap']:.0f}", f"{one['anonymous']:.0f}", f"{one['path']}",
               bounds.hold(f"{system}, a live {what} snapshot takes {own:.0f} bytes, ÷ 256", own / 256, 1)]


def taken_table(system, memory):
    sizes = sorted({int(size) for way in memory["ways"].values() for size in way})

    def cells(taken):
        for size in sizes:
            one = taken.get(str(size))
            yield "" if one is None else f"{one['anonymous'] / KIB:,.0f}"
            yield "" if one is None or one["reported"] is None else f"{one['reported'] / KIB:,.0f}"

    return table([system, *(f"{size_name(size)}: {what}" for size in sizes for what in ("grew", "reported"))],
                 [[WAYS[way], *cells(memory["ways"][way])] for way in WAYS if way in memory["ways"]])


def systems():
    """Name and folder of each file system there is; without root the host's alone."""
    found = {name: os.environ.get(f"STILLMAP_TEST_{variable}") for name, variable in SYSTEMS.items()}
    found = {name: folder for name, folder in found.items() if folder}
    if found:
        return found
    folder = os.environ.get("STILLMAP_TEST_SCRATCH", ".")
    kind = subprocess.run(["findmnt", "-n", "-o", "FSTYPE", "-T", folder], capture_output=True, text=True, check=True).stdout.strip()
    return {kind: folder}


def measure(build, quick, most, only):
    """All figures, by file system."""
    found = {}
    small = {"STILLMAP_BENCH_QUICK": "1"} if quick else {}

    def say(what):
        print(f"{time.monotonic() - begin:4.0f} s  {what}", file=sys.stderr, flush=True)

    def many(what, folder):
        done = subprocess.run([f"{build}/bench_many", what], check=True, stdout=subprocess.PIPE, env={**os.environ, **small, "STILLMAP_BENCH_DIR": folder})
        return json.loads(done.stdout)

    begin = time.monotonic()
    where = systems()
    if only:
        where = {name: where[name] for name in only}
    beside = None
    overlay = os.environ.get("STILLMAP_TEST_OVERLAY")
    if overlay and "ext4" in where:
        # The library asks more about a file where an overlay's upper layer is on its file system: measured, then away.
        say("ext4 beside an overlay")
        beside = run(f"{build}/bench_scan", where["ext4"], "--benchmark_filter=scan/(read_recycled|still_auto|still_torn)/whole",
                     environment={**small, "STILLMAP_BENCH_MOST": str(64 * KIB)})
        subprocess.run(["umount", overlay], check=True)
    for name, folder in where.items():
        one = found[name] = {}
        say(f"{name}: scan")
        one["scan"] = run(f"{build}/bench_scan", folder, environment={**small, "STILLMAP_BENCH_MOST": str(most)})
        one["calls"] = run(f"{build}/bench_calls", folder)
        say(f"{name}: access")
        one["access"] = run(f"{build}/bench_access", folder, environment={"STILLMAP_BENCH_MOST": str(GIB if quick else 4 * GIB)})
        say(f"{name}: tree")
        one["tree"] = many("tree", folder)
        one["memory"] = many("memory", folder)
    first = next(iter(where))
    say(f"{first}: snapshots alive")
    found[first]["alive"] = many("alive", where[first])
    say("done")
    return {"seconds": time.monotonic() - begin, "beside": beside, "systems": found}


def page(measured, quick, load):
    bounds = Bounds()
    found = measured["systems"]
    first = next(iter(found))

    def rows(maker, key):
        return [row for system, one in found.items() for row in maker(system, one[key], bounds)]

    scan = [line for system, one in found.items() for line in
            (*scan_tables(system, one["scan"], bounds), f"![{system}: time by size](figures/envelope-{system}.svg)", "")]
    scan += ["### Two threads", "", "Half the bytes each, with the thread's start; read: each reads its half.", "",
             *table(["", "", "size", "raw mmap", "read, recycled", "still auto", "still torn", "auto ÷ raw mmap", "auto: one thread ÷ two", "spread"], rows(halves_rows, "scan")),
             "### A file that was just changed", "",
             "Less than 10 s ago, that is: a store through a mapping may still be under way. A copy is then taken under a lease; where there can "
             "be none, for somebody has the file open for writing, it is read twice and compared. Everything else on this page rested for 11 s.", "",
             *table(["", "size", "", "at rest", "just changed", "... and open for writing", "÷", "÷", "spread"],
                    [row for system, one in found.items() for row in fresh_rows(system, one["scan"])])]
    scan += ["### What the system calls alone cost", "",
             "4 KiB, made by hand without the library, with what each is to a loop of open, fstat, read, close: the least that a level can cost. "
             "*Torn* is open, statx, pread, close; *verified* the verifying order ([kernel.md](kernel.md)); *leased* the same under a lease while it is "
             "read, which is what tmpfs needs, for its time stamps witness nothing. Beside it, from the tables above, what the library makes of it: "
             "where a bound at small sizes is missed on tmpfs, setting up and giving back the lease is more than the bound allows.", "",
             *table(["", "read loop", "torn", "verified", "leased", "still torn ÷ read", "still auto ÷ read", "spread"],
                    [row for system, one in found.items() for row in calls_rows(system, one)])]
    if beside := measured["beside"]:
        plain = found["ext4"]["scan"]
        scan += ["### Beside an overlay", "", "On an ext4 on which an overlay has its upper layer (a host of containers) the library asks where each file lies.", "",
                 *table(["size", "", "without", "beside an overlay", "÷", "spread"],
                        [[size_name(key[3]), WAYS[key[1]], number(plain[key][0]), number(value[0]), f"{value[0] / plain[key][0]:.2f}", f"{value[1]:.0%}"]
                         for key, value in sorted(beside.items(), key=lambda item: (item[0][3], item[0][1]))])]
    head = ["", "raw mmap", "read, recycled", "still auto", "still torn", "auto ÷ raw mmap", "torn ÷ raw mmap", "spread"]
    access = table(["", *head], rows(access_rows, "access"))
    tree = table(["", "", "read loop, ms", "raw mmap, ms", "still, ms", "÷ read loop", "÷ raw mmap", "read loop ÷ raw mmap", "spread"], rows(tree_rows, "tree"))
    levels = found[first]["alive"]
    alive = table(["", "threads", *(f"{level['alive']:,} alive" for level in levels), "last ÷ first", "spread"], alive_rows(levels))
    live = table(["", "", "heap", "anonymous", "of it, the path", "÷ 256"], rows(live_rows, "memory"))
    taken = [line for name in dict.fromkeys((first, "XFS")) if name in found for line in taken_table(name, found[name]["memory"])]
    files = found[first]["tree"]["files"]
    return [
        "# Benchmarks", "",
        f"Made by `tools/bench{' --quick' if quick else ''}` in {measured['seconds'] / 60:.0f} minutes: all ways side by side, in random order, medians; "
        "spread is the interquartile range of the noisiest of those compared. "
        f"Linux {platform.release()}, {os.cpu_count()} cores, load average {load:.1f} before; ext4, XFS and btrfs on loop devices; page cache warm.", "",
        "Times are microseconds unless a cell says otherwise. Files rest for 11 s after they were written: one that changed less than 10 s ago is held under a lease or read twice "
        "(see [below](#a-file-that-was-just-changed)). *auto* is a plain `still_open`: level `verified`, way chosen by the library. "
        "*torn* is the same with `STILL_TORN` accepted.", "",
        "## What must be reached", "",
        "The base is the lower envelope of raw mmap and read into recycled memory.", "",
        f"- 4 KiB: auto ≤ 1.5, torn ≤ 1.15 of read. 16 KiB to 16 MiB: auto ≤ 1.05 of (the cheaper of the two + {OPEN_US} µs). Above, on one thread and two: auto ≤ 1.05 of raw mmap.",
        "- Random pages: ≤ 1.05 of raw mmap.",
        "- Small files: torn ≤ 1.15, auto ≤ 1.5 of the read loop, and both ≤ 0.4 of raw mmap.",
        "- A live snapshot: ≤ 256 bytes.", "",
        *bounds.lines(),
        "## Open, add up every byte, close", "",
        "Recycled memory was faulted in before; fresh memory is mapped anew each time. *Boost* is `mapped_file_source` of Boost.Iostreams. "
        "A file written in one go lies in large folios where the file system has them; one written in pieces lies in small ones.", "", *scan,
        "## Bytes here and there", "", f"A file of {size_name(GIB if quick else 4 * GIB)}, all holes, in the page cache; `STILL_ACCESS_RANDOM`; *read* is a `pread` each.", "", *access,
        f"## {files:,} small files", "", "In 100 folders, 1 to 8 KiB each: open, fstat, read or map, add up, close, one after the other. "
        "Where the read loop itself takes nearly 0.4 of raw mmap's time, 0.4 leaves next to nothing for the proof of a level: see "
        "[what the system calls alone cost](#what-the-system-calls-alone-cost).", "", *tree,
        "![small files](figures/envelope-tree.svg)", "",
        "## Snapshots alive", "", f"Thousands of opens per second of files of 4 KiB on {first}, each with reading and closing, while so many other leased snapshots are alive.", "", *alive,
        "![opens per second](figures/envelope-alive.svg)", "",
        "## Memory", "",
        "What a live snapshot of a file of 4 KiB takes, in bytes, of 10,000: on the heap (`mallinfo2`), and as anonymous memory grew "
        "(`smaps_rollup`). Divided by 256 is the larger of the two, without the copy of the file. A snapshot takes 176 bytes and its path; "
        "one that is leased also 128 for its mapping and 136 for its lease, in tables that the warden may look at at any time and that are "
        "never given back.", "", *live,
        "Memory taken while all bytes of a file are at hand, in KiB: how much the process's anonymous memory grew (threads and tables of the "
        "library's first use are in it), and what `still_private_bytes` says.", "", *taken]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", required=True)
    parser.add_argument("--out", type=pathlib.Path, help="the page; pictures go to figures/ beside it")
    parser.add_argument("--quick", action="store_true", help="one file system, up to 64 MiB, few repetitions, into the build's folder: to try it out")
    parser.add_argument("--most", type=int, help="the largest file that is scanned, in bytes")
    parser.add_argument("--systems", help=f"some of {','.join(SYSTEMS)}")
    given = parser.parse_args()
    if given.quick:
        given.most = given.most or 64 * MIB
        given.systems = given.systems or next(iter(systems()))
    out = given.out or pathlib.Path(f"{given.build}/quick/benchmarks.md" if given.quick else "docs/benchmarks.md")
    load = os.getloadavg()[0]
    measured = measure(given.build, given.quick, given.most or GIB, given.systems and given.systems.split(","))
    lines = page(measured, given.quick, load)
    (out.parent / "figures").mkdir(parents=True, exist_ok=True)
    pictures.draw(measured["systems"], out.parent / "figures")
    out.write_text("\n".join(lines).rstrip() + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
