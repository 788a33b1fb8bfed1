#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Programs that nobody changed, on files that change under them: harmed without `still run`, unharmed with it.

  clients.py PATH_OF_STILL [--runs N] [--only NAME]... [--early] [--seed N]

Each run starts a client (git, rg, ag, ld.lld, ...) on a fresh file, waits until /proc/PID/smaps shows that the
file is mapped and was read, and strikes from another process: truncates it, or writes another version over it,
last piece first, so that a reader who goes forward meets both. The answer must be that of the file as it was
mapped. A private copy bears no name there: the strike waits for memory of the file's size that is filled, and
for the first words of the client's output.

With --early the strikes under `still run` come at a random moment after the open, also before and during the
mapping. Then the new version is right as well, and harm is counted, but is no failure: a truncation between a
program's fstat and its mmap is nobody's to prevent, and a copy of what is being written is torn (--require=torn).

The runs without `still run` are the canary: one at least must be harmed (a death by signal, another exit status,
another answer), or the strikes prove nothing, and the test fails; it gets three times the runs for that. The
runs with `still run` must not be harmed once.

Also the other way round: SQLite's `mmap_size`, a shared mapping that is there to *see* what others write, must
go on seeing it; and CPython's own tests of its mmap module must pass.

A client that is not installed is skipped, and said so. Exit status: 0, 1 failed, 77 nothing could be run."""

import argparse
import hashlib
import mmap
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time

MIB = 1 << 20
PIECE = MIB
CLIENT_SECONDS_MAX = 120
EARLY_DELAY_MS_MAX = 40  # longer than a copy of the file takes
PAGE = os.sysconf("SC_PAGESIZE")
PYTHON = "/usr/bin/python3"  # Debian's own


# --- The striker: another process ---


def mappings(pid):
    """(bytes, bytes that are there, the rest of its line) of each."""
    with open(f"/proc/{pid}/smaps", encoding="utf-8", errors="replace") as maps:
        for line in maps:
            if found := re.match(r"([0-9a-f]+)-([0-9a-f]+) (.*)", line):
                size, rest = int(found[2], 16) - int(found[1], 16), found[3]
            elif line.startswith("Rss:"):
                yield size, int(line.split()[1]) * 1024, rest


def is_mapped(pid, paths, times=1):
    """And read: before that, mmap may not have returned."""
    found = [rest for _, there, rest in mappings(pid) if there > 0]
    return all(sum(rest.endswith(" " + path) for rest in found) >= times for path in paths)


def is_copied(pid, path, times):
    """Memory of the file's size, all of it there; and its output has begun, so that mmap has returned."""
    with open(f"/proc/{pid}/io", encoding="ascii") as io:
        if int(re.search(r"wchar: (\d+)", io.read())[1]) < PAGE:
            return False
    whole = -(-os.stat(path).st_size // PAGE) * PAGE
    return sum(size == whole <= there for size, there, _ in mappings(pid)) >= times


def is_open(pid, path):
    folder = f"/proc/{pid}/fd"
    for fd in os.listdir(folder):
        try:
            if os.readlink(f"{folder}/{fd}") == path:
                return True
        except FileNotFoundError:
            pass
    return False


def has_ended(pid):
    with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
        return stat.read().rpartition(")")[2].split()[0] in "ZX"


def strike(how, path, other):
    if how == "truncate":
        os.truncate(path, os.stat(path).st_size // 2)
        return
    with open(path, "r+b", buffering=0) as file:
        for at in reversed(range(0, len(other), PIECE)):
            os.pwrite(file.fileno(), other[at : at + PIECE], at)


def striker():
    """One line in: how, when (mapped, copied, or the ms after the open), how many times it must be mapped, pid,
    then path and version file, alternating. One line out: mapped, open or missed."""
    for line in sys.stdin:
        how, when, times, pid, *files = line.rstrip("\n").split("\t")
        paths, others = files[::2], []
        for name in files[1::2]:
            with open(name, "rb") as file:  # not read: that takes too long
                others.append(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        opened = None
        seen = "missed"
        try:
            # As long as it is ours to wait for, its /proc entry stays.
            while seen == "missed" and not has_ended(pid):
                if when in ("mapped", "copied"):
                    is_there = is_mapped(pid, paths, int(times)) if when == "mapped" else is_copied(pid, paths[0], int(times))
                    seen = "mapped" if is_there else seen
                elif opened is None:
                    opened = time.monotonic() if is_open(pid, paths[0]) else None
                elif time.monotonic() >= opened + float(when) / 1000:
                    seen = "open"
        except (FileNotFoundError, ProcessLookupError):
            pass
        if seen != "missed":
            for path, other in zip(paths, others):
                strike(how, path, other)
        print(seen, flush=True)


class Striker:
    def __enter__(self):
        self.process = subprocess.Popen([sys.executable, __file__, "--striker"], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait()

    def begin(self, how, when, times, pid, files):
        words = [how, when, str(times), str(pid)] + [word for pair in files for word in pair]
        self.process.stdin.write("\t".join(words) + "\n")
        self.process.stdin.flush()

    def end(self):
        return self.process.stdout.readline().strip()


# --- Inputs ---


def text(word, mib):
    """Lines, one in four of which has the needle, the version and a number; both versions begin alike."""
    pieces = []
    for block in range(mib * 16):
        lines = [f"needle {word} {block:06d} {i:03d} here\nthe quick brown fox\njumps over the lazy\ndog, over and over\n"
                 for i in range(700)]
        piece = "".join(lines).encode()[: 64 * 1024 - 1] + b"\n"
        pieces.append(piece)
    # What a program looks at before it maps the file is no part of the question.
    head = b"a head without it\n" * 512
    whole = b"".join(pieces)
    return head + whole[len(head) :]


def noise(seed, mib):
    return random.Random(seed).randbytes(mib * MIB)


def relocatable(folder, name, data):
    """An object with `data`, and so many symbols that linking it takes a while."""
    base = os.path.join(folder, name)
    with open(base + ".bin", "wb") as file:
        file.write(data)
    with open(base + ".S", "w", encoding="ascii") as file:
        entry = name.rpartition("-")[0]
        print(f'.section .rodata,"a"\n.globl data_{entry}\ndata_{entry}: .incbin "{base}.bin"', file=file)
        print(f'.text\n.globl {entry}\n{entry}: lea data_{entry}(%rip), %rax\nret', file=file)
        for i in range(20000):
            print(f'.section .text.{entry}{i},"ax"\n.globl {entry}{i}\n{entry}{i}: lea data_{entry}+{i}(%rip), %rax\nret', file=file)
    subprocess.run(["gcc", "-c", base + ".S", "-o", base + ".o"], check=True)
    os.unlink(base + ".bin")
    os.unlink(base + ".S")
    return base + ".o"


# --- Clients ---


class Client:
    """Named `name`; the program is `program`; files to strike: see `make`."""

    times = 1  # that it maps each file before it answers

    def __init__(self, name, program, how, copied=False):
        self.name, self.program, self.how = name, program, how
        self.copied = copied  # it maps private and writable: under still run that is a copy
        self.files = []  # (path that is read, first version, other version)

    def make(self, folder):
        raise NotImplementedError

    def add(self, folder, name, first, other):
        path = os.path.join(folder, name)
        for suffix, data in ((".first", first), (".other", other)):
            with open(path + suffix, "wb") as file:
                file.write(data)
        self.files.append((path, path + ".first", path + ".other"))
        return path

    def lay_out(self, other=False):
        """The first version, or the one that is there after the strike."""
        for path, first, second in self.files:
            shutil.copyfile(second if other and self.how == "overwrite" else first, path)
            if other and self.how == "truncate":
                os.truncate(path, os.stat(path).st_size // 2)
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)

    def command(self):
        raise NotImplementedError

    def before(self):
        pass

    def answer(self, status, out):
        return status, hashlib.sha256(out).hexdigest()


class OnText(Client):
    def __init__(self, name, words, how, mib, make=text, **more):
        super().__init__(name, words[0], how, **more)
        self.words, self.mib, self.maker = words, mib, make

    def make(self, folder):
        first, other = ("alpha", "bravo") if self.maker is text else (1, 2)
        self.words = [*self.words, self.add(folder, "input", self.maker(first, self.mib), self.maker(other, self.mib))]

    def command(self):
        return self.words


class GitWrite(OnText):
    """The object written must be there, and be the file as it was mapped."""

    def __init__(self, name, mib):
        super().__init__(name, ["git", "-c", "core.looseCompression=1", "hash-object", "-w"], "overwrite", mib)

    def make(self, folder):
        self.repository = os.path.join(folder, "repository")
        super().make(folder)

    def before(self):
        shutil.rmtree(self.repository, ignore_errors=True)
        subprocess.run(["git", "init", "-q", self.repository], check=True)

    def command(self):
        return ["git", "-C", self.repository, *self.words[1:]]

    def answer(self, status, out):
        blob = b""
        if status == 0:
            blob = subprocess.run(["git", "-C", self.repository, "cat-file", "blob", out.decode().strip()],
                                  stdout=subprocess.PIPE, check=False).stdout
        return status, out, hashlib.sha256(blob).hexdigest()


class Linker(Client):
    def make(self, folder):
        self.out = os.path.join(folder, "linked")
        self.objects = []
        for entry in ("_start", "second", "third"):
            versions = []
            for version in ("first", "other"):
                made = relocatable(folder, f"{entry}-{version}", noise(entry + version, 8))
                with open(made, "rb") as file:
                    versions.append(file.read())
                os.unlink(made)
            self.objects.append(self.add(folder, entry + ".o", *versions))

    def before(self):
        if os.path.exists(self.out):
            os.unlink(self.out)

    def command(self):
        return ["ld.lld", "--build-id=sha1", "-o", self.out, *self.objects]

    def answer(self, status, out):
        linked = b""
        if os.path.exists(self.out):
            with open(self.out, "rb") as file:
                linked = file.read()
        return status, hashlib.sha256(linked).hexdigest()


class Readelf(Client):
    times = 2  # a file that changes between the two is not one that was torn

    def make(self, folder):
        versions = []
        for version in ("first", "other"):
            made = relocatable(folder, f"_start-{version}", noise(version, 6))
            with open(made, "rb") as file:
                versions.append(file.read())
            os.unlink(made)
        self.path = self.add(folder, "input.o", *versions)

    def command(self):
        return ["eu-readelf", "-s", "-x", ".rodata", self.path]


OVERWRITES_ITSELF = """
import mmap, sys
path, access = sys.argv[1], getattr(mmap, sys.argv[2])
with open(path, "rb") as file:
    map = mmap.mmap(file.fileno(), 0, access=access)
if access == mmap.ACCESS_COPY:
    map[:6] = b"Marked"
with open(path, "wb") as file:
    for at in range(0, len(map), 65536):
        file.write(map[at:at + 65536].swapcase())
"""


class PythonOverItself(Client):
    """No striker but itself: what it maps it writes back, into the same file."""

    def __init__(self, name, access):
        super().__init__(name, PYTHON, None)
        self.access = access

    def make(self, folder):
        first = text("alpha", 8)
        self.path = self.add(folder, "input", first, b"")
        self.right = (b"Marked" + first[6:] if self.access == "ACCESS_COPY" else first).swapcase()

    def command(self):
        return [PYTHON, "-c", OVERWRITES_ITSELF, self.path, self.access]

    def answer(self, status, out):
        with open(self.path, "rb") as file:
            return status, file.read() == self.right


CLIENTS = [
    OnText("git hash-object, truncated", ["git", "hash-object"], "truncate", 64),
    OnText("git hash-object, overwritten", ["git", "hash-object"], "overwrite", 64),
    GitWrite("git hash-object -w, overwritten", 24),
    OnText("rg --mmap, truncated", ["rg", "--mmap", "-n", "needle"], "truncate", 48),
    OnText("rg --mmap, overwritten", ["rg", "--mmap", "-n", "needle"], "overwrite", 48),
    OnText("ag, truncated", ["ag", "--nocolor", "needle"], "truncate", 16),
    OnText("ugrep --mmap, truncated", ["ugrep", "--mmap", "-n", "needle"], "truncate", 32),
    OnText("ugrep --mmap, overwritten", ["ugrep", "--mmap", "-n", "needle"], "overwrite", 32),
    OnText("b3sum, truncated", ["b3sum"], "truncate", 128),
    OnText("b3sum, overwritten", ["b3sum"], "overwrite", 128),
    Linker("ld.lld, objects truncated", "ld.lld", "truncate"),
    Linker("ld.lld, objects overwritten", "ld.lld", "overwrite"),
    Readelf("eu-readelf, truncated", "eu-readelf", "truncate", copied=True),
    Readelf("eu-readelf, overwritten", "eu-readelf", "overwrite", copied=True),
    PythonOverItself("python mmap ACCESS_READ, over itself", "ACCESS_READ"),
    PythonOverItself("python mmap ACCESS_COPY, over itself", "ACCESS_COPY"),
]


# --- Runs ---


def run_once(client, prefix, striker_process, when="mapped"):
    """The answer, and whether the strike came after the mapping, after the open, or not at all."""
    client.lay_out()
    client.before()
    process = subprocess.Popen([*prefix, *client.command()], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.DEVNULL)
    seen = "mapped"
    if client.how is not None and striker_process is not None:
        striker_process.begin(client.how, when, client.times, process.pid, [(path, other) for path, _, other in client.files])
    # Not reaped before the striker is done: its pid must stay its own.
    out = process.stdout.read()
    process.stdout.close()
    if client.how is not None and striker_process is not None:
        seen = striker_process.end()
    status = process.wait(CLIENT_SECONDS_MAX)
    return client.answer(status, out), seen


class Tally:
    def __init__(self):
        self.runs = self.struck = self.killed = self.failed = self.wrong = 0
        self.examples = []

    @property
    def harmed(self):
        return self.killed + self.failed + self.wrong

    def add(self, answer, seen, right):
        self.runs += 1
        self.struck += seen != "missed"
        if answer in right:
            return
        status, usual = answer[0], right[0][0]
        self.killed += status < 0
        self.failed += status >= 0 and status != usual
        self.wrong += status == usual
        self.examples.append((status, seen))

    def words(self):
        parts = [f"{count} {word}" for count, word in
                 ((self.killed, "killed"), (self.failed, "failed"), (self.wrong, "wrong")) if count]
        return f"{self.harmed} of {self.struck}" + (f" ({', '.join(parts)})" if parts else "")


def examine(client, still, runs, folder, early):
    """Both tallies, and what is wrong with them."""
    client.make(folder)
    undisturbed, _ = run_once(client, [], None)
    if client.how is None:
        undisturbed = (0, True)
        other = None
    else:
        again, _ = run_once(client, [still, "run", "--"], None)
        if again != undisturbed:
            return Tally(), Tally(), [f"undisturbed, it answers differently under still run: {again[0]}"]
        client.lay_out(other=True)
        client.before()
        done = subprocess.run(client.command(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL, check=False)
        other = client.answer(done.returncode, done.stdout)
    bare, held = Tally(), Tally()
    with Striker() as another:
        while bare.runs < runs or (bare.harmed == 0 and bare.runs < 3 * runs):
            answer, seen = run_once(client, [], another)
            bare.add(answer, seen, [undisturbed])
        for _ in range(runs):
            when = "copied" if client.copied else "mapped"
            if early:
                when = f"{random.uniform(0, EARLY_DELAY_MS_MAX):.3f}"
            answer, seen = run_once(client, [still, "run", "--"], another, when)
            held.add(answer, seen, [undisturbed, other] if seen == "open" else [undisturbed])
    wrong = []
    if bare.harmed == 0:
        wrong.append(f"the canary: {bare.struck} strikes did no harm; the storm is too weak")
    if held.struck == 0:
        wrong.append("not one strike hit it under still run")
    if held.harmed != 0 and not early:
        wrong.append(f"harmed under still run: (status, strike) {held.examples[:8]}")
    return bare, held, wrong


# --- The other way round ---


def ask(process, sql):
    """One answer of one line. `.print` makes no answer of its own complete, but the shell's flush does."""
    process.stdin.write(sql + "\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


def sqlite(still, folder):
    """A reader that stays open sees what another process writes, by a mapping that was left alone."""
    wrong = []
    for mode in ("", "-readonly"):
        for journal in ("delete", "wal"):
            for options in ((), ("--mappings=private",)):
                path = os.path.join(folder, "database")
                for name in os.listdir(folder):
                    if name.startswith("database"):
                        os.unlink(os.path.join(folder, name))

                def write(sql):
                    subprocess.run(["sqlite3", path, sql], check=True, stdout=subprocess.DEVNULL)

                more = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000) " \
                       "INSERT INTO t SELECT hex(randomblob(400)), 1 FROM n;"
                write(f"PRAGMA journal_mode={journal}; CREATE TABLE t(blob, version); {more}")
                command = [still, "run", "--report", *options, "--", "stdbuf", "-oL", "sqlite3", *([mode] if mode else []), path]
                reader = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
                answers = [ask(reader, "PRAGMA mmap_size=1073741824;"), ask(reader, "SELECT count(*), sum(version) FROM t;")]
                child = next(iter(open(f"/proc/{reader.pid}/task/{reader.pid}/children", encoding="ascii").read().split()))
                mapped = is_mapped(child, [path])
                write("UPDATE t SET version = 2;")
                answers.append(ask(reader, "SELECT count(*), sum(version) FROM t;"))
                write(more)
                answers.append(ask(reader, "SELECT count(*), sum(version) FROM t;"))
                _, report = reader.communicate("")
                what = f"sqlite3 {mode or 'read-write'}, {journal}, {' '.join(options) or 'default'}"
                if answers[1:] != ["5000|5000", "5000|10000", "10000|15000"] or reader.returncode != 0:
                    wrong.append(f"{what}: {reader.returncode}, {answers}")
                if not mapped:
                    wrong.append(f"{what}: no mapping of the database to be seen")
                reason = "known to be mapped to see changes"
                if options:
                    reason = "of a type that --mappings leaves out"
                elif not mode:
                    reason = "by a descriptor open for writing"
                if not re.search(rf"[1-9]\d*  left alone: .*{reason}", report):
                    wrong.append(f"{what}: the report does not say '{reason}':\n{report}")
    return wrong


# Cases of CPython's test_mmap that cannot pass under still run, and why.
CANNOT_PASS = {}


def cpython(still, folder):
    def results(prefix):
        done = subprocess.run([*prefix, PYTHON, "-m", "unittest", "-v", "test.test_mmap"], cwd=folder, check=False,
                              stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        found = dict(re.findall(r"^(test_\w+) \(.*?\)(?:\n.*?)? \.\.\. (\w+)", done.stderr, re.MULTILINE))
        return found, done.returncode

    plain, _ = results([])
    held, status = results([still, "run", "--"])
    wrong = []
    if len(plain) < 30:
        wrong.append(f"only {len(plain)} results could be read")
    for name, result in plain.items():
        mine = held.get(name, "not run")
        if mine != result and name not in CANNOT_PASS:
            wrong.append(f"{name}: {mine}, without still run {result}")
        if mine == result and name in CANNOT_PASS:
            wrong.append(f"{name} passes: take it off the list")
    if status != 0 and not CANNOT_PASS:
        wrong.append(f"status {status}")
    print(f"  {len(held)} cases, {sum(result == 'ok' for result in held.values())} passed, {len(CANNOT_PASS)} known not to")
    return wrong


WATCHERS = [
    ("sqlite3 mmap_size, written by another", ["sqlite3", "stdbuf"], sqlite),
    ("CPython's test_mmap", [PYTHON], cpython),
]


def missing(programs):
    for program in programs:
        if shutil.which(program) is None:
            return program + " is not installed"
    return None


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("still")
    options.add_argument("--runs", type=int, default=8, metavar="N", help="runs of each client, with and without (8)")
    options.add_argument("--only", action="append", metavar="NAME", help="those whose name contains NAME")
    options.add_argument("--early", action="store_true", help="strike from the open on (see above)")
    options.add_argument("--seed", type=int, default=None, help="of the random delays")
    arguments = options.parse_args()
    seed = arguments.seed if arguments.seed is not None else int.from_bytes(os.urandom(4), "little")
    random.seed(seed)
    still = os.path.abspath(arguments.still)
    wanted = [name.lower() for name in arguments.only or [""]]
    place = os.environ.get("STILLMAP_TEST_EXT4")
    failures, skips, done = [], [], 0

    def chosen(name):
        return any(word in name.lower() for word in wanted)

    print(f"{arguments.runs} runs each, seed {seed}; harmed of struck")
    print(f"{'':40} {'mmap':34} {'still run':24} seconds", flush=True)
    for client in filter(lambda each: chosen(each.name), CLIENTS):
        if why := missing([client.program]):
            skips.append(f"{client.name}: {why}")
            continue
        begin = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="clients.", dir=place) as folder:
            bare, held, wrong = examine(client, still, arguments.runs, os.path.realpath(folder), arguments.early)
        done += 1
        print(f"{client.name:40} {bare.words():34} {held.words():24} {time.monotonic() - begin:7.1f}", flush=True)
        failures += [f"{client.name}: {each}" for each in wrong]
    for name, programs, check in WATCHERS:
        if not chosen(name):
            continue
        if why := missing(programs):
            skips.append(f"{name}: {why}")
            continue
        begin = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="clients.", dir=place) as folder:
            wrong = check(still, os.path.realpath(folder))
        done += 1
        print(f"{name:40} {'':34} {'wrong' if wrong else 'right':24} {time.monotonic() - begin:7.1f}", flush=True)
        failures += [f"{name}: {each}" for each in wrong]
    for each in skips:
        print(f"skip: {each}")
    for each in failures:
        print(f"FAILED: {each}")
    return 1 if failures else 0 if done else 77


if __name__ == "__main__":
    if sys.argv[1:] == ["--striker"]:
        striker()
    else:
        sys.exit(main())
