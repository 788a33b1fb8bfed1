#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Measures what a writer pays for readers and the other way round, and writes the tables and pictures of
docs/denial-of-service.md, between its markers. Started by tools/bench denial, which makes the file systems."""

import argparse
import json
import os
import pathlib
import platform
import subprocess

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

from measured import GIB, MIB, run, size_name, verdict  # noqa: E402

BEGIN, END = "<!-- made by tools/bench denial: begin -->", "<!-- made by tools/bench denial: end -->"
SYSTEMS = {"ext4": "EXT4", "tmpfs": "TMPFS", "XFS": "XFS", "btrfs": "BTRFS"}
BOUND = {("ext4", "none"): 0.8, ("ext4", "reserve"): 0.55, ("tmpfs", "none"): 1.3, ("tmpfs", "reserve"): 1.0}


def measure(build, repetitions, most):
    """Waits by (file system, reserve) and then by (name, bytes), in microseconds."""
    result = {}
    for name, variable in SYSTEMS.items():
        folder = os.environ.get(f"STILLMAP_TEST_{variable}")
        if folder is None:
            continue
        copies = name in ("ext4", "tmpfs")
        for reserve, value in (("none", 1), ("reserve", GIB)) if copies else (("none", 1),):
            os.environ["STILLMAP_RESERVE_BYTES"] = str(value)
            os.environ["STILLMAP_BENCH_MOST"] = str(min(most, GIB) if copies else most)
            result[name, reserve] = run(f"{build}/bench_writer_wait", folder, f"--benchmark_repetitions={repetitions}", "--benchmark_min_time=0.05")
    return result


def wait_tables(waits):
    lines = []
    for (system, reserve), times in waits.items():
        lines += [f"**{system}**, {'no reserve' if reserve == 'none' else 'a reserve of 1 GiB'}:", "",
                  "| size | memcpy to fresh huge pages | wait, mapping touched | wait, never touched | touched ÷ memcpy | spread |", "|---|---|---|---|---|---|"]
        for size in sorted({size for _, size in times}):
            base, touched, never = (times[name, size] for name in ("memcpy_to_fresh_huge_pages", "writer_wait_touched", "writer_wait_untouched"))
            bound = BOUND.get((system, reserve)) if 64 * MIB <= size <= GIB else None
            lines.append(f"| {size_name(size)} | {base[0] / 1e3:.2f} | {touched[0] / 1e3:.2f} | {never[0] / 1e3:.2f} | "
                         f"{verdict(touched[0] / base[0], bound)} | {max(base[1], touched[1]):.0%} |")
        if system in ("XFS", "btrfs"):
            flat = [times["writer_wait_untouched", size][0] / 1e3 for _, size in times if _ == "writer_wait_untouched" and size >= 64 * MIB]
            lines += ["", f"Never touched, from 64 MiB on: at most {max(flat):.2f} ms (wanted ≤ 1), dearest ÷ cheapest "
                      f"{verdict(max(flat) / min(flat), 1.5)}."]
        lines.append("")
    return lines


def ms(value):
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"


def other_tables(found):
    again, many = found["readers_that_lease_again_ms"], found["many_leases"]
    never, pause, will_not = found["reader_that_never_answers_ms"], found["writer_without_pause_ms"], found["writer_that_will_not_wait_ms"]
    lines = ["| what | median | 99 % | most |", "|---|---|---|---|"]

    def row(what, values):
        lines.append(f"| {what} | {ms(values['median'])} ms | {ms(values['p99'])} ms | {ms(values['most'])} ms |")

    if never:
        row("a writer's wait for a reader that never answers, `lease-break-time` set to 1 s", never)
    row("a writer's wait for one reader that leases a 64 MiB file again and again", again["1"])
    row("... for four such readers", again["4"])
    row(f"an O_NONBLOCK writer of a leased 64 MiB file, trying every millisecond, is through after "
        f"({will_not['refused']:.1f} times refused with EAGAIN)", will_not)
    how = ", ".join(f"{name} {count}" for name, count in pause["how"].items())
    row(f"a reader's open of a 64 MiB file, `torn` accepted, while a writer opens and writes it without a pause ({how} of {pause['count']}; "
        f"at most {pause['private_most'] >> 20} MiB of private memory)", pause)
    if many:
        alone, among = many["break_alone_us"]["median"], many["break_among_us"]["median"]
        first, last = many["open_first_us"]["median"], many["open_last_us"]["median"]
        lines += ["", f"{many['files']:,} leases in one process:", "", "| | | |", "|---|---|---|",
                  f"| opening the last 200 ÷ the first 200 | {last:.1f} ÷ {first:.1f} µs | {verdict(last / first, 1.5)} |",
                  f"| a break answered among all ÷ alone | {among:.0f} ÷ {alone:.0f} µs | {verdict(among / alone, 2.0)} |",
                  f"| all broken at once, 16 signals pending at most | {many['storm_s']:.2f} s | {many['storm_kept']:,} of {many['files']:,} kept |"]
    return lines + [""]


def picture(waits, folder):
    folder.mkdir(exist_ok=True)
    figure, panels = plt.subplots(1, 2, figsize=(11, 4.4), sharey=True)
    base = waits["ext4", "none"] if ("ext4", "none") in waits else next(iter(waits.values()))

    def series(times, name):
        points = sorted((size, value[0] / 1e3) for (n, size), value in times.items() if n == name)
        return [p[0] for p in points], [p[1] for p in points]

    for panel, name, title in zip(panels, ("writer_wait_touched", "writer_wait_untouched"), ("every page was read before", "no page was touched")):
        for (system, reserve), times in waits.items():
            label = system + (" with reserve" if reserve == "reserve" else "")
            panel.plot(*series(times, name), marker="o", markersize=3.5, linestyle="--" if reserve == "reserve" else "-", label=label)
        panel.plot(*series(base, "memcpy_to_fresh_huge_pages"), color="grey", linewidth=1, linestyle=":", label="one memcpy, fresh huge pages")
        panel.set(xscale="log", yscale="log", title=title, xlabel="size of the file")
        ticks = [4096 << i for i in range(0, 21, 4)]
        panel.set_xticks(ticks, [size_name(t) for t in ticks], rotation=30)
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("a writer waits, ms (median)")
    panels[1].legend(fontsize=8)
    figure.suptitle("How long open(O_WRONLY) waits while a leased snapshot is made private")
    figure.tight_layout()
    for kind in ("svg", "png"):
        figure.savefig(folder / f"writer-wait.{kind}", dpi=130, metadata={"Date": None} if kind == "svg" else None)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--most", type=int, default=4 * GIB)
    given = parser.parse_args()
    page = pathlib.Path(given.out)
    text = page.read_text()
    waits = measure(given.build, given.repetitions, given.most)
    folder = os.environ.get("STILLMAP_TEST_EXT4", ".")
    environment = {name: value for name, value in os.environ.items() if name != "STILLMAP_RESERVE_BYTES"}
    done = subprocess.run([f"{given.build}/bench_denial"], check=True, capture_output=True, text=True, env={**environment, "STILLMAP_BENCH_DIR": folder})
    made = [BEGIN, "",
            f"Made by `tools/bench denial`: medians of {given.repetitions} repetitions in random order, milliseconds from `open(O_WRONLY)` to its return; "
            f"spread is the interquartile range of the noisier of the two compared. Linux {platform.release()}, {os.cpu_count()} cores, "
            "ext4, XFS and btrfs on loop devices, page cache warm. On ext4 and tmpfs the bytes are copied, on XFS and btrfs cloned.", "",
            *wait_tables(waits), "![a writer's wait by size](figures/writer-wait.svg)", "", *other_tables(json.loads(done.stdout)), END]
    picture(waits, page.parent / "figures")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    page.write_text(before + "\n".join(made) + after)
    print("\n".join(made))


if __name__ == "__main__":
    main()
