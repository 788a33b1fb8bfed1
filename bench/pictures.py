# SPDX-License-Identifier: Apache-2.0
"""The pictures of docs/benchmarks.md."""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

from measured import size_name, summary  # noqa: E402

# The library thick, its rivals thin: name, colour, width, dashes.
LINES = {
    "raw_mmap": ("raw mmap", "tab:blue", 1.3, "-"),
    "mmap_populate": ("mmap, MAP_POPULATE", "tab:cyan", 1.0, "--"),
    "boost": ("Boost mapped_file", "tab:purple", 1.0, ":"),
    "read_recycled": ("read, recycled memory", "tab:green", 1.3, "-"),
    "read_fresh": ("read, fresh memory", "tab:olive", 1.0, "--"),
    "still_torn": ("still torn", "tab:orange", 2.0, "--"),
    "still_auto": ("still auto (verified)", "tab:red", 2.4, "-"),
}


def save(figure, folder, name):
    figure.tight_layout()
    for kind in ("svg", "png"):
        figure.savefig(folder / f"{name}.{kind}", dpi=130, metadata={"Date": None} if kind == "svg" else None)
    plt.close(figure)


def scan(system, times, folder):
    figure, panels = plt.subplots(1, 2, figsize=(13, 4.8), sharey=True)
    for panel, how, title in zip(panels, ("whole", "pieces"), ("written in one go", "written in pieces of 4 KiB")):
        sizes = sorted({key[3] for key in times if key[0] == "scan"})
        base = {size: min(times["scan", way, how, size][0] for way in ("raw_mmap", "read_recycled")) for size in sizes}
        panel.axhline(1, color="black", linewidth=0.8)
        for way, (label, colour, width, dashes) in LINES.items():
            points = [(size, times["scan", way, how, size][0] / base[size]) for size in sizes if ("scan", way, how, size) in times]
            panel.plot(*zip(*points), label=label, color=colour, linewidth=width, linestyle=dashes, marker="o", markersize=width + 1)
        panel.set(xscale="log", yscale="log", title=title, xlabel="size of the file")
        panel.set_xticks(sizes, [size_name(size) for size in sizes], rotation=35, ha="right")
        panel.set_yticks([1, 1.5, 2, 3, 5, 10, 20], ["1", "1.5", "2", "3", "5", "10", "20"])
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("time ÷ the cheaper of raw mmap and read")
    panels[1].legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    figure.suptitle(f"{system}: open, add up every byte, close (median; 1 is the lower envelope)")
    save(figure, folder, f"envelope-{system}")


def tree(found, folder):
    ways = [way for way in LINES if way in next(iter(found.values()))["tree"]["ms"]]
    figure, panel = plt.subplots(figsize=(7.5, 4))
    width = 0.8 / len(ways)
    for i, way in enumerate(ways):
        label, colour, _, _ = LINES[way]
        heights = [summary(one["tree"]["ms"][way])[0] for one in found.values()]
        bars = panel.bar([at + (i - (len(ways) - 1) / 2) * width for at in range(len(found))], heights, width * 0.92, label=label, color=colour)
        panel.bar_label(bars, [f"{height:.0f}" for height in heights], fontsize=7)
    panel.set_xticks(range(len(found)), list(found))
    panel.set_ylabel("ms (median)")
    panel.grid(axis="y", alpha=0.3)
    panel.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    panel.set_title(f"{next(iter(found.values()))['tree']['files']:,} small files: open, read or map, close each")
    save(figure, folder, "envelope-tree")


def alive(levels, folder):
    figure, panel = plt.subplots(figsize=(7.5, 4))
    lines = {**LINES, "still_leased": ("still leased", "tab:brown", 1.6, "-")}
    for way in levels[0]["rates"]:
        label, colour, width, _ = lines[way]
        for threads, dashes in (("1", "-"), ("2", "--")):
            panel.plot(range(len(levels)), [summary(level["rates"][way][threads])[0] / 1e3 for level in levels], color=colour, linestyle=dashes,
                       linewidth=width, marker="o", markersize=4, label=f"{label}, {threads} thread{'s' if threads == '2' else ''}")
    panel.set_xticks(range(len(levels)), [f"{level['alive']:,}" for level in levels])
    panel.set(xlabel="leased snapshots alive meanwhile", ylabel="thousand opens per second (median)")
    panel.set_ylim(bottom=0)
    panel.grid(alpha=0.3)
    panel.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    panel.set_title("Opening, reading and closing files of 4 KiB")
    save(figure, folder, "envelope-alive")


def draw(found, folder):
    for system, one in found.items():
        scan(system, one["scan"], folder)
    tree(found, folder)
    alive(next(iter(found.values()))["alive"], folder)
