# SPDX-License-Identifier: Apache-2.0
"""What the pages of measurements share: running a program of Google Benchmark, medians, and how figures are written."""

import json
import os
import subprocess
import tempfile

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


def run(program, folder, *options, environment=None):
    """(median, spread) in microseconds by the benchmark's name, split at its slashes. Repetitions of all come in random
    order; what could not be had is left out."""
    with tempfile.NamedTemporaryFile(suffix=".json") as out:
        subprocess.run(
            [program, "--benchmark_enable_random_interleaving=true", f"--benchmark_out={out.name}", "--benchmark_out_format=json", *options],
            check=True, env={**os.environ, "STILLMAP_BENCH_DIR": folder, **(environment or {})}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        rows = json.load(out)["benchmarks"]
    times = {}
    for row in rows:
        if row["run_type"] != "iteration":
            continue
        if row.get("error_occurred"):
            raise SystemExit(f"{row['name']}: {row['error_message']}")
        parts = (part for part in row["name"].split("/") if ":" not in part and not part.endswith("_time"))
        unit = {"ns": 1e-3, "us": 1, "ms": 1e3}[row["time_unit"]]
        times.setdefault(tuple(int(part) if part.isdigit() else part for part in parts), []).append(row["real_time"] * unit)
    return {key: summary(values) for key, values in times.items()}


def summary(values):
    """The median, and the interquartile range in parts of it."""
    values = sorted(values)

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
