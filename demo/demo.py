#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Searches a tree of real files while it is being rewritten, again and again: once over plain mmap (ripgrep with
--mmap), once with `still grep`, and says what became of each run.

A line shown for the word must hold the word. Every file exists in two versions that differ in the case of that word;
a search over plain mmap may find it, and show the line as it is a moment later."""

import argparse
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile

WORD = "struct"
SOURCES = ["/usr/include/linux", "/usr/include/x86_64-linux-gnu", "/usr/include/c++"]


def make_tree(folder):
    """A copy of the machine's own headers, and four logs as large as logs are."""
    texts = []
    for source in SOURCES:
        for path in sorted(pathlib.Path(source).rglob("*")):
            if path.is_file() and not path.is_symlink() and path.stat().st_size < 1 << 20:
                target = folder / "headers" / path.relative_to("/usr/include")
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
                texts.append(path.read_bytes())
    everything = b"".join(texts)
    for number in range(4):
        (folder / f"log{number}").write_bytes(everything[: 16 << 20] + b"\n")
    return sum(1 for path in folder.rglob("*") if path.is_file())


class Storms:
    def __init__(self, program, folder, count):
        self.processes = [
            subprocess.Popen([program, str(folder), WORD, str(turn), str(count)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for turn in range(count)
        ]
        for process in self.processes:
            if process.stdout.readline() != "ready\n":
                sys.exit("the storm did not start")

    def stop(self):
        return sum(int(process.communicate()[0]) for process in self.processes)


def search(command, folder):
    """Returns (signal or 0, lines shown, lines shown that do not hold the word)."""
    with tempfile.TemporaryFile() as shown:
        process = subprocess.run(command + [WORD, str(folder)], stdout=shown, stderr=subprocess.DEVNULL)
        shown.seek(0)
        lines = wrong = 0
        for line in shown:
            lines += 1
            wrong += WORD.encode() not in line.split(b":", 2)[-1]
    return (-process.returncode if process.returncode < 0 else 0), lines, wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--still", required=True)
    parser.add_argument("--storm", required=True)
    parser.add_argument("--runs", type=int, default=20)
    given = parser.parse_args()

    contestants = {"still grep": [given.still, "grep", "-n"]}
    if shutil.which("rg"):
        contestants = {"rg --mmap": ["rg", "--mmap", "--no-config", "-uuu", "-n", "--no-heading"], **contestants}

    with tempfile.TemporaryDirectory(prefix="stillmap-demo.") as name:
        folder = pathlib.Path(name)
        files = make_tree(folder)
        print(f"searching {files} files for '{WORD}', {given.runs} times each, while two writers rewrite and truncate them\n")
        results = {who: [] for who in contestants}
        storms = Storms(given.storm, folder, 2)
        try:
            for _ in range(given.runs):  # interleaved: both meet the same weather
                for who, command in contestants.items():
                    results[who].append(search(command, folder))
        finally:
            changes = storms.stop()

    print(f"{'':12}{'runs':>6}{'killed (SIGBUS)':>17}{'lines shown':>14}{'of them wrong':>15}{'whole answers':>15}")
    for who, runs in results.items():
        killed = sum(1 for died, _, _ in runs if died == signal.SIGBUS)
        wrong = sum(wrong for _, _, wrong in runs)
        whole = sum(1 for died, _, wrong in runs if died == 0 and wrong == 0)
        print(f"{who:12}{len(runs):>6}{killed:>17}{sum(lines for _, lines, _ in runs):>14}{wrong:>15}{whole:>15}")
    print(f"\nthe writers changed files {changes} times meanwhile; a wrong line is one shown for '{WORD}' that does not hold it")
    still = results["still grep"]
    return 0 if all(died == 0 and wrong == 0 and lines > 0 for died, lines, wrong in still) else 1


if __name__ == "__main__":
    sys.exit(main())
