#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
#
# `still grep` against GNU grep, line for line: a table of patterns and options over real trees, the same over files
# made to be nasty, and what concerns the process (standard input, pipes, devices, exit status, messages). Where a
# tree is searched the lines are sorted first, for neither program promises an order of files.
# A difference that was chosen is not in the table: docs/grep.md lists those.
# Usage: against_grep.py PATH_OF_STILL
import os
import random
import shutil
import stat
import subprocess
import sys
import tempfile

still = os.path.abspath(sys.argv[1])
grep = shutil.which("grep")
if grep is None or b"GNU grep" not in subprocess.run([grep, "--version"], capture_output=True).stdout:
    print("skipped: there is no GNU grep")
    sys.exit(77)

bytes_locale = {"PATH": os.environ["PATH"], "LC_ALL": "C"}
utf8_locale = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
failures = 0
compared = 0
empty = 0


def fail(what):
    global failures
    failures += 1
    if failures <= 40:
        print("FAILED:", what)


def run(command, env=bytes_locale, **more):
    more.setdefault("stdin", subprocess.DEVNULL)
    # GNU grep signs its messages with the name it was called by.
    name = "still" if command[0] == grep else command[0]
    done = subprocess.run([name, *command[1:]], executable=command[0], capture_output=True, env=env, timeout=120, **more)
    return done.returncode, done.stdout, done.stderr


def difference(ours, theirs, ordered):
    if ours[0] != theirs[0]:
        return f"status {ours[0]}, not {theirs[0]}; stderr {ours[2][:200]!r}, not {theirs[2][:200]!r}"
    mine, other = ours[1].split(b"\n"), theirs[1].split(b"\n")
    if not ordered:
        mine = [part for line in mine for part in line.split(b"\0")]
        other = [part for line in other for part in line.split(b"\0")]
        mine.sort()
        other.sort()
    if mine != other:
        for a, b in zip(mine + [b"(end)"], other + [b"(end)"]):
            if a != b:
                return f"{len(mine)} lines, not {len(other)}; the first that differs: {a[:200]!r}, not {b[:200]!r}"
    if sorted(ours[2].split(b"\n")) != sorted(theirs[2].split(b"\n")):
        return f"stderr {ours[2][:300]!r}, not {theirs[2][:300]!r}"
    return None


def same(words, paths, syntax="-P", ordered=True, env=bytes_locale, theirs=None, **more):
    """still grep WORDS PATHS against grep SYNTAX WORDS PATHS."""
    global compared, empty
    mine = run([still, "grep", *words, *paths], env, **more)
    other = run([grep, syntax, *(theirs or words), *paths], env, **more)
    compared += 1
    empty += mine[1] == b""
    what = difference(mine, other, ordered)
    if what:
        fail(f"grep {syntax} {' '.join(map(repr, words))} {' '.join(map(str, paths))[:100]}: {what}")


# The canary: each kind of difference must be seen.
reference = (0, b"a\nb\n", b"")
assert difference(reference, reference, True) is None
assert difference((0, b"b\na\n", b""), reference, False) is None
for wrong in [(1, b"a\nb\n", b""), (0, b"a\n", b""), (0, b"a\nc\n", b""), (0, b"b\na\n", b""), (0, b"a\nb\n", b"x"), (0, b"a\nb\n\n", b"")]:
    assert difference(wrong, reference, True), wrong
assert difference(run([still, "grep", "a", "/etc/passwd"]), run([grep, "b", "/etc/passwd"]), True)

patterns = [
    "errno", "EINVAL", "^#define\\s+[A-Z_]{20,}", "\\bint\\b.*\\breturn\\b", "[0-9]{4}-[0-9]{2}", "^$", "^", "$", "", ".",
    "a.c", "(foo|bar)baz?", "[^a-z]x[^a-z]", "\\w+_t\\b", "\\s$", "^\\s+\\S+$", "[[:upper:]]{3}[[:digit:]]", "x*", "\\.h>",
    "(.)\\1\\1", "(?<=struct )\\w+", "foo(?!bar)", "\\d+(?=L\\b)", "[\\W_]{30}", "\\x41\\x42", "(?i)copyright", "e++f",
    "static inline", "\\", "nowhere to be found", "\\t\\t", "[]]", "[^]\\s]]", "\\bif\\b", "A|B|^C", "\t", "\\Qa.b", "[\\]\\[]",
]
patterns = [p for p in patterns if p != "\\"]
options = [[], ["-i"], ["-v", "-c"], ["-w"], ["-c"], ["-l"], ["-L"], ["-n"], ["-o"], ["-x"], ["-o", "-b"], ["-m", "2", "-n"], ["-h"],
           ["-i", "-w", "-o"], ["-A2", "-n"], ["-B1"], ["-C3", "-m1"], ["-q"], ["-v", "-m3", "-n"], ["-l", "-v"], ["-c", "-m2", "-v"],
           ["-Z", "-l"], ["-a", "-n"], ["-I", "-l"], ["-w", "-o", "-n"], ["-x", "-v", "-c"], ["-H", "-n", "-b", "-C1", "--color=always"],
           ["-v", "-C1", "-n", "--color=always"]]

# Trees, a few folders with every kind of file; the empty -o of patterns that match nothing is part of it.
trees = [path for path in ("/usr/include/linux", "/usr/include/c++", "/usr/share/doc") if os.path.isdir(path)]
for index, pattern in enumerate(patterns):
    for tree in trees[:1]:
        for extra in (options[index % len(options)], options[(index * 5 + 3) % len(options)]):
            if "-q" in extra or "-C3" in extra or any(o.startswith(("-A", "-B", "-C")) for o in extra):
                continue  # -q ends anywhere, and sorted groups of context mean nothing
            same([*extra, "-r", "-e", pattern], [tree], ordered=False)
for tree in trees[1:]:
    for words in (["-rn", "-e", "copyright"], ["-ric", "-e", "license"], ["-rl", "-e", "^ *\\*"], ["-rwo", "-e", "[a-z]+ing"]):
        same(words, [tree], ordered=False)

folder = tempfile.mkdtemp(prefix="still-grep-")
try:
    os.chmod(folder, 0o755)
    os.chdir(folder)
    source = random.Random(7)

    def make(name, content):
        with open(name, "wb") as file:
            file.write(content)

    words = [b"foo", b"bar", b"Foo", b"foobar", b"a.c", b"abc", b"EINVAL", b"_", b" ", b"\t", b"x", b"1", b"aaa", b"-", b"[", b"\xc3\xa9"]
    mixed = b"".join(b"".join(source.choices(words, k=source.randrange(6))) + b"\n" for _ in range(3000))
    make("mixed", mixed)
    make("no-newline", b"foo\nbar\nlast foo")
    make("only-newlines", b"\n\n\n\n")
    make("empty", b"")
    make("one", b"foo")
    make("crlf", b"foo\r\nbar foo\r\n\r\nabc\r\n")
    make("invalid", b"foo \xff\xfe bar\n\xc3\nabc\xe2\x82\nfoo\n\x80\x80foo\n")
    make("nul-first", b"\0foo\nfoo\n")
    make("nul-between", b"foo\0foo\nbar\nfoo bar\n")
    make("nul-late", b"some foo line\n" * 30000 + b"nul \0 foo\n" + b"foo\nEINVAL\n" * 10)
    make("nul-after", b"foo\n" + b"nothing\n" * 40000 + b"\0\n")
    make("long", b"a" * 300000 + b" foo " + b"b" * 300000 + b"\nfoo\n" + b"c" * 200000)
    make("boundary", b"".join(b"%d foo\n" % n + b"x" * source.randrange(400) + b"\n" for n in range(4000)))
    nasty = sorted(os.listdir("."))

    for pattern in patterns + ["foo", "o", "foo$", "^foo", "foo\\b", "oo|ar", "bar.*foo", "[^f]oo", "\\xff", "a{3}", "foo\\s*$", "(?i)FOO"]:
        for extra in [source.choice(options), ["-n"]]:
            if pattern == "" and "-v" in extra:
                continue  # GNU grep then does not even look, and counts no file
            if pattern.startswith("\\Q") and "-w" in extra:
                continue  # GNU grep then complains of its own parenthesis
            for name in ([source.choice(nasty)], ["no-newline", "crlf", "nul-between", "empty", "invalid"]):
                same([*extra, "-e", pattern], name)
    for name in nasty:
        for extra in options:
            same([*extra, "-e", "foo"], [name])
            if source.random() < 0.7:
                continue
            # GNU grep separates from context that it has found in a binary file and not shown.
            if name not in ("long", "boundary") and not (name.startswith("nul") and "-C1" in extra):
                same([*extra, "-e", "a"], [name, "one"])

    # Several patterns: GNU grep has them in its own syntaxes.
    for words, syntax in (
            (["-e", "foo", "-e", "bar"], "-E"), (["-e", "foo", "-e", "x$", "-n"], "-E"), (["foo\nbar"], "-E"), (["-F", "a.c"], "-F"),
            (["-F", "-e", "a.c", "-e", "foo", "-o"], "-F"), (["-F", "-e", "foo", "-e", "foobar", "-o"], "-F"), (["-F", "-x", "foo"], "-F"),
            (["-F", "-w", "foo", "-o"], "-F"), (["-F", "-i", "FOO", "-c"], "-F"), (["-F", "["], "-F"), (["-F", ""], "-F"),
            (["-F", "-v", "-e", "foo", "-e", "a"], "-F"), (["-F", "a\n\nb", "-c"], "-F"), (["-F", "-x", "", "-n"], "-F"),
            (["-w", "-e", "foo", "-e", "aaa", "-v", "-c"], "-E"), (["-E", "-e", "(foo)|b", "-e", "EINVAL", "-o"], "-E")):
        same(words, ["mixed", "no-newline", "crlf", "only-newlines", "invalid"], syntax=syntax)
    make("patterns", b"foo\nEINVAL\na.c\n")
    make("no-patterns", b"")
    make("empty-pattern", b"\n")
    for file in ("patterns", "no-patterns", "empty-pattern"):
        same(["-f", file, "-n"], ["mixed", "empty"], syntax="-E")
        if file != "empty-pattern":
            same(["-F", "-f", file, "-c", "-v"], ["mixed"], syntax="-F")
    make("many", b"".join(b"word%d\n" % n for n in range(2000)))
    make("text", b"".join(b"a word%d b\n" % source.randrange(9000) for n in range(5000)))
    for extra in (["-c"], ["-n"], ["-o"], ["-w", "-o"], ["-x"], ["-v", "-c"], ["-i", "-w"]):
        same([*extra, "-F", "-f", "many"], ["text"], syntax="-F")

    # Standard input, pipes, devices, /proc.
    for name in ("mixed", "nul-between", "empty", "no-newline"):
        content = open(name, "rb").read()
        for paths in ([], ["-"], ["-", "one"], ["one", "-"]):
            for extra in ([], ["-n"], ["-H"], ["-c"], ["-l"], ["--label=in", "-H"]):
                same([*extra, "foo"], paths, stdin=None, input=content)
        results = []
        for command in (still, grep):
            with open(name, "rb") as file:
                results.append(run([command, *(["grep"] if command == still else []), "-n", "foo"], stdin=file))
        if difference(*results, True):
            fail(f"standard input from {name}: {difference(*results, True)}")
    for name in ("/proc/cpuinfo", "/proc/self/status", "/proc/meminfo"):
        same(["-c", "^"], [name])
        same(["-i", "-l", "[a-z]"], [name])
    same(["foo", "-c"], ["/dev/null"])
    os.mkfifo("fifo")
    writer = subprocess.Popen(["sh", "-c", "cat mixed > fifo"])
    mine = run([still, "grep", "-n", "foo", "fifo"])
    writer.wait()
    if mine[1] != run([grep, "-n", "foo", "mixed"])[1]:
        fail("a fifo named by the user is read to its end")
    with open("mixed", "rb") as file:
        os.lseek(file.fileno(), 500, os.SEEK_SET)
        mine = run([still, "grep", "-m1", "foo"], stdin=file)
        at = os.lseek(file.fileno(), 0, os.SEEK_CUR)
        os.lseek(file.fileno(), 500, os.SEEK_SET)
        other = run([grep, "-m1", "foo"], stdin=file)
        if mine != other or at != os.lseek(file.fileno(), 0, os.SEEK_CUR):
            fail(f"standard input in mid-file: {mine} {other} {at}")

    # Trees: links, fifos, hidden files, folders named by the user.
    os.makedirs("tree/sub/.hidden")
    for name in ("tree/a.c", "tree/b.h", "tree/sub/c.c", "tree/sub/.hidden/d.c", "tree/.e"):
        make(name, b"foo in " + name.encode() + b"\n")
    os.symlink("../mixed", "tree/link")
    os.symlink("sub", "tree/folder-link")
    os.symlink("tree/sub", "outer-link")
    os.mkfifo("tree/fifo")
    os.symlink("nowhere", "dangling")
    for extra in ([], ["--include=*.c"], ["--exclude=*.c"], ["--exclude-dir=.hidden"], ["--exclude-dir=sub", "--include=*.h"], ["-h"], ["-c"], ["-L"]):
        for paths in (["tree"], ["tree/"], ["."], ["./tree"], ["outer-link"], ["tree/link"], ["tree", "one"], ["one", "mixed", "tree/sub"]):
            if paths == ["."] and "-L" not in extra:
                extra = [*extra, "--exclude=nul*"]
            same([*extra, "-r", "foo"], paths, ordered=False)
    os.chdir("tree")
    for words in (["-r", "foo"], ["-rl", "foo"]):
        same(words, [], ordered=False)
    os.chdir("..")
    if run([still, "grep", "foo", "tree"])[1].count(b"\n") != 5:
        fail("a folder is searched without -r")

    # Errors and exit status.
    for paths in (["missing"], ["missing", "one"], ["dangling"], ["one", "missing"]):
        for extra in ([], ["-s"], ["-q"], ["-c"], ["-l"], ["-L"]):
            same([*extra, "foo"], paths)
    same(["-m0", "foo"], ["one"])
    for words in (["--nonsense", "foo"], ["("], ["foo", "-A", "x"], []):
        if run([still, "grep", *words, "one"] if words else [still, "grep"])[0] != 2:
            fail(f"usage error {words} ends with 2")
    full = subprocess.run([still, "grep", "foo", "one"], stdout=open("/dev/full", "wb"), stderr=subprocess.PIPE, env=bytes_locale)
    if full.returncode != 2 or b"write error" not in full.stderr:
        fail("a write error is an error")
    if os.getuid() == 0:
        # As another user: root may read everything.
        make("tree/secret", b"foo\n")
        os.chmod("tree/secret", 0)
        os.mkdir("tree/closed", 0)
        other = {"user": 65534, "group": 65534, "extra_groups": []}
        copy = os.path.join(folder, "still")
        shutil.copy(still, copy)
        library = [line.split()[2] for line in subprocess.run(["ldd", still], capture_output=True, text=True).stdout.splitlines()
                   if "libstillmap" in line and "=>" in line]
        for path in library:
            shutil.copy(path, folder)
        env = {**bytes_locale, "LD_LIBRARY_PATH": folder}
        for extra in ([], ["-s"], ["-l"], ["-q"]):
            mine = run([copy, "grep", *extra, "-r", "foo", "tree"], env, **other)
            theirs = run([grep, *extra, "-r", "foo", "tree"], **other)
            what = difference(mine, theirs, False)
            if what and not ("-q" in extra and mine[0] == theirs[0] == 0):
                fail(f"unreadable files, {extra}: {what}")
    make("out", b"foo\n")
    with open("out", "ab") as out:
        mine = subprocess.run([still, "grep", "foo", "one", "out"], stdout=out, stderr=subprocess.PIPE, env=bytes_locale)
    if mine.returncode != 2 or b"input file is also the output" not in mine.stderr or open("out", "rb").read() != b"foo\none:foo\n":
        fail("the output file is not searched")

    # The order of files named by the user is kept, whatever the threads do.
    for number in range(300):
        make(f"n{number:03}", b"foo\n" * source.choice([1, 10, 20000]))
    same(["-n", "foo"], sorted(name for name in os.listdir(".") if name[0] == "n" and name[1:].isdigit()))

    # One line of 100 MB, and a file that changes while it is searched.
    with open("huge", "wb") as file:
        for _ in range(100):
            file.write(b"ab cd ef" * 125000)
        file.write(b"foo")
    same(["-c", "foo$"], ["huge"])
    same(["-o", "-b", "foo"], ["huge"])
    same(["-c", "-v", "foo"], ["huge"])

    # Characters, in a UTF-8 locale.
    make("utf8", "été\nÉTÉ\nnaïve\nκόσμος\nЁж\n中文\nstraße\nK\nabc\n".encode())
    for words in (["-o", "."], ["-i", "été"], ["-c", "^...$"], ["-x", "."], ["-i", "ё"], ["-o", "[ïß]"], ["-n", "[^a-z]$"], ["-v", "é"],
                  ["-o", "中."], ["-i", "k"], ["-F", "-i", "É"], ["-w", "中文"], ["-c", "^.{5}$"]):
        same(words, ["utf8"], syntax="-F" if "-F" in words else "-P", env=utf8_locale)
finally:
    os.chdir("/")
    subprocess.run(["chmod", "-R", "u+rwX", folder])
    shutil.rmtree(folder)

print(f"{compared} comparisons, {empty} of them of no output; {failures} failures")
if compared < 600 or empty > compared // 2:
    fail("the table compares too little")
sys.exit(1 if failures else 0)
