# SPDX-License-Identifier: Apache-2.0
#
#   manual.py SOURCE STILL CC
#
# The options of every page are those of `still COMMAND --help`; section 3 has every function and error of the header,
# its SYNOPSIS declares them as the header does, and its examples compile; every page that a page names is there; and groff
# has no warning.
# 77, when all else is well, where there is no scdoc or no groff.
import pathlib
import re
import shutil
import subprocess
import sys

source, still, compiler = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
pages = {path.name.removesuffix(".scd"): path.read_text() for path in sorted((source / "docs/man").glob("*.scd"))}
complaints = []

option = r"--?[A-Za-z][A-Za-z-]*"


def options_of_page(text):
    # "*-e*, *--regexp* _PATTERN_", at the begin of a line.
    lines = [line for line in text.splitlines() if line.startswith("*-")]
    return {name for line in lines for name in re.findall(rf"\*({option})\*", line)}


def options_of_help(command):
    words = [still] + ([command] if command else []) + ["--help"]
    text = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    # "  -e,--regexp PATTERN ...   Search for this pattern too"; what belongs together is without a space.
    lists = re.findall(rf"^ +({option}(?:,{option})*)(?:[ :\[]|$)", re.sub(r"\{\w+\}", "", text), re.MULTILINE)
    return {name for each in lists for name in each.split(",")}


for command in ("", "grep", "run", "explain", "cp", "torture"):
    page = f"still-{command}.1" if command else "still.1"
    of_page, of_help = options_of_page(pages[page]), options_of_help(command)
    if not of_help:
        complaints.append(f"no options found in still {command} --help")
    for name in sorted(of_help - of_page):
        complaints.append(f"docs/man/{page}.scd does not have {name}, which --help has")
    for name in sorted(of_page - of_help):
        complaints.append(f"docs/man/{page}.scd has {name}, which --help does not have")

header = re.sub(r"/\*.*?\*/", " ", (source / "include/stillmap/stillmap.h").read_text(), flags=re.DOTALL)


def shape(declaration):  # the result's type, and how many arguments
    name, arguments = re.search(r"(\w+)\(([^)]*)\)", declaration).groups()
    return name, (re.sub(r"\s+", "", declaration[: declaration.index(name + "(")]), arguments.count(","))


functions = dict(shape(declaration) for declaration in re.findall(r"^STILL_API ([^;]+);", header, re.MULTILINE))
declared = {}
for page in ("stillmap.3", "still_mmap.3"):
    synopsis = pages[page].split("# SYNOPSIS")[1].split("# DESCRIPTION")[0]
    for declaration in re.findall(r"^((?:const )?\w+ \*?still_\w+\([^;]*\));", synopsis, re.MULTILINE):
        name, declared[name] = shape(declaration)
for name in sorted(functions.keys() | declared.keys()):
    if name not in declared:
        complaints.append(f"section 3 does not have {name}")
    elif name not in functions:
        complaints.append(f"section 3 has {name}, which the header does not have")
    elif functions[name] != declared[name]:
        complaints.append(f"section 3 declares {name} otherwise than the header")
for name in re.findall(r"\b(STILL_ERROR_[A-Z_]+)\b", header):
    if name not in pages["stillmap.3"]:
        complaints.append(f"stillmap(3) does not have {name}")

examples = [re.findall(r"^```\n(.*?)^```", pages[page].split("# EXAMPLES")[1], re.DOTALL | re.MULTILINE)[0]
            for page in ("stillmap.3", "still_mmap.3")]
examples[1] = ("#include <stdio.h>\n#include <sys/mman.h>\n#include <unistd.h>\n#include <stillmap/stillmap.h>\n"
               "void parse(const void *, size_t);\nint example(int, size_t);\n"
               "int example(int fd, size_t length)\n{\n" + examples[1] + "return 0;\n}\n")
for example in examples:
    words = [compiler, "-std=c11", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-I", str(source / "include"), "-xc", "-"]
    compiled = subprocess.run(words, input=example.replace(r"\\n", r"\n"), capture_output=True, text=True)
    if compiled.returncode != 0:
        complaints.append(f"an example of section 3 does not compile: {compiled.stderr}")

own = {re.sub(r"\.(\d)$", r"(\1)", page) for page in pages} | {f"{name}(3)" for name in functions}
for page, text in pages.items():
    for name, section in re.findall(r"\*(still[\w-]*)\*\((\d)\)", text):
        if f"{name}({section})" not in own:
            complaints.append(f"docs/man/{page}.scd names {name}({section}), which is not there")

for complaint in complaints:
    print(complaint, file=sys.stderr)
if complaints:
    sys.exit(1)
if not shutil.which("scdoc") or not shutil.which("groff"):
    print("options, functions and errors agree; not formatted: no scdoc or no groff")
    sys.exit(77)
failed = False
for page, text in pages.items():
    made = subprocess.run(["scdoc"], input=text, check=True, capture_output=True, text=True).stdout
    warned = subprocess.run(["groff", "-t", "-man", "-ww", "-Tutf8", "-Kutf8"], input=made, capture_output=True, text=True)
    if warned.stderr or warned.returncode != 0 or len(warned.stdout) < 500:
        print(f"docs/man/{page}.scd: {warned.stderr}", file=sys.stderr)
        failed = True
sys.exit(1 if failed else 0)
