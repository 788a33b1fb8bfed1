#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs the benchmarks in random order, several times, and writes ratios of medians as a page of documentation.

What must be reached stands beside each ratio; what is missed is marked as missed."""

import argparse
import json
import os
import pathlib
import platform
import subprocess
import tempfile

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


def run(program, repetitions, folder, pattern):
    """Medians and spreads (interquartile, relative) by (name, bytes), in microseconds."""
    with tempfile.NamedTemporaryFile(suffix=".json") as out:
        subprocess.run(
            [program, f"--benchmark_filter={pattern}", f"--benchmark_repetitions={repetitions}", "--benchmark_enable_random_interleaving=true",
             "--benchmark_min_time=0.05", f"--benchmark_out={out.name}", "--benchmark_out_format=json"],
            check=True, env={**os.environ, "STILLMAP_BENCH_DIR": folder}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        rows = json.load(out)["benchmarks"]
    times = {}
    for row in rows:
        if row["run_type"] != "iteration":
            continue
        if row.get("error_occurred"):
            raise SystemExit(f"{row['name']}: {row['error_message']}")
        name, size = row["name"].split("/")[:2]
        unit = {"ns": 1e-3, "us": 1, "ms": 1e3}[row["time_unit"]]
        times.setdefault((name, int(size)), []).append(row["real_time"] * unit)
    return {key: summary(sorted(values)) for key, values in times.items()}


def summary(values):
    def at(fraction):
        return values[round(fraction * (len(values) - 1))]

    return at(0.5), (at(0.75) - at(0.25)) / at(0.5)


def size_name(size):
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if size >= unit:
            return f"{size // unit} {name}"
    return f"{size} B"


def verdict(ratio, bound):
    return f"{ratio:.2f}" if bound is None else f"**{ratio:.2f}** (≤ {bound}{'' if ratio <= bound else ', missed'})"


def scan_bound(size):
    if size <= 128 * KIB:
        return 0.75
    return {256 * KIB: 0.9, MIB: 1.1, GIB: 1.03}.get(size)


def scan_page(times):
    names = ["raw_mmap", "read_recycled", "still_auto", "still_torn", "still_leased", "still_copied"]
    lines = ["| size | " + " | ".join(n.replace("_", " ") for n in names) + " | still auto ÷ raw mmap | spread |", "|---" * (len(names) + 3) + "|"]
    for size in sorted({size for _, size in times}):
        medians = [times.get((name, size)) for name in names]
        ratio = times["still_auto", size][0] / times["raw_mmap", size][0]
        cells = ["" if each is None else f"{each[0]:.1f}" for each in medians]
        spread = max(times[name, size][1] for name in ("raw_mmap", "still_auto"))
        lines.append(f"| {size_name(size)} | " + " | ".join(cells) + f" | {verdict(ratio, scan_bound(size))} | {spread:.0%} |")
    return lines


def wait_page(times):
    lines = ["| size | memcpy to fresh huge pages | wait, mapping touched | wait, never touched | touched ÷ memcpy | spread |", "|---|---|---|---|---|---|"]
    for size in sorted({size for _, size in times}):
        base, touched, untouched = (times[name, size] for name in ("memcpy_to_fresh_huge_pages", "writer_wait_touched", "writer_wait_untouched"))
        bound = 1.2 if size == 64 * MIB else None
        lines.append(f"| {size_name(size)} | {base[0] / 1e3:.2f} | {touched[0] / 1e3:.2f} | {untouched[0] / 1e3:.2f} | {verdict(touched[0] / base[0], bound)} | {max(base[1], touched[1]):.0%} |")
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--only", default=".*", help="pattern of benchmark names")
    given = parser.parse_args()
    folder = os.environ.get("STILLMAP_BENCH_DIR")
    with tempfile.TemporaryDirectory(prefix="stillmap-bench.", dir=folder or ".") as scratch:
        kind = subprocess.run(["findmnt", "-n", "-o", "FSTYPE", "-T", scratch], capture_output=True, text=True, check=True).stdout.strip()
        scan = run(f"{given.build}/bench_scan", given.repetitions, scratch, given.only)
        wait = run(f"{given.build}/bench_writer_wait", given.repetitions, scratch, given.only)
    page = [
        "# Benchmarks", "",
        "Made by `tools/bench`: Google Benchmark, random interleaving, one run; medians of "
        f"{given.repetitions} repetitions, spread = interquartile range of the noisier of the two compared. "
        f"Linux {platform.release()}, {os.cpu_count()} cores, {kind}, files written in one go, page cache warm.", "",
        "## Open, add up every byte, close", "", "Microseconds.", "", *scan_page(scan), "",
        "## What a writer waits for a leased snapshot to be detached", "",
        "Milliseconds, from `open(O_WRONLY)` to its return. Without a reserve of memory kept ready.", "", *wait_page(wait), "",
    ]
    pathlib.Path(given.out).write_text("\n".join(page))
    print("\n".join(page))


if __name__ == "__main__":
    main()
