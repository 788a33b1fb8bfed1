# SPDX-License-Identifier: Apache-2.0
#
#   names.py SOURCE
#
# Every test (`Suite.Name`) and every file of this tree that a document names is there.
import pathlib
import re
import sys

source = pathlib.Path(sys.argv[1])
documents = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"]
# comparison.md names files of other projects.
documents += sorted(f"docs/{path.name}" for path in (source / "docs").glob("*.md") if path.name != "comparison.md")

tests = set()
for path in (source / "tests").rglob("*.cpp"):
    tests |= {".".join(found) for found in re.findall(r"^TEST(?:_[FP])?\((\w+),\s*(\w+)\)", path.read_text(), re.MULTILINE)}
suites = {test.split(".")[0] for test in tests}

complaints, named = [], 0
for document in documents:
    text = (source / document).read_text()
    for word in re.findall(r"`([^`\n]+)`", text):
        is_test = re.fullmatch(r"[A-Z]\w+\.[A-Z]\w+", word) or (word.split(".")[0] in suites and "." in word)
        if is_test and word != "Suite.Test":
            named += 1
            if word not in tests:
                complaints.append(f"{document}: there is no test {word}")
        elif re.fullmatch(r"(src|tests|cli|docs|include|tools|preload|abi|cmake|bench)/[\w./-]+", word) and "*" not in word:
            named += 1
            if not list(source.glob(word + "*")):  # `src/pool`: pool.cpp and pool.hpp
                complaints.append(f"{document}: there is no {word}")
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        named += 1
        if not (source / document).parent.joinpath(target).exists():
            complaints.append(f"{document}: a link to {target}, which is not there")
if named < 100:
    complaints.append(f"only {named} names were found in the documents")
for complaint in complaints:
    print(complaint, file=sys.stderr)
sys.exit(1 if complaints else 0)
