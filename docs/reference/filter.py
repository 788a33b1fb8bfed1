# SPDX-License-Identifier: Apache-2.0
#
#   filter.py HEADER -> the header with its comments in doxygen's shape
#
# The house writes comments for who reads the header: plain, in front of a declaration or behind it on its line. Here
# they become /** ... */ and /**< ... */; what is indented is code, a paragraph that opens with "Errors:" gets that as
# its heading, and what doxygen would take for a command or a tag is escaped.
import re
import sys

headings = "Promise|No promise|Lifetime|Threads|Errors|Cost|Kernel|Sources|Copies|Which view"


def escaped(text):
    return re.sub(r"([\\@<>#&%])", r"\\\1", text)


def body(lines):
    """The text of a comment without its marks. Indented: code, but for lists and what goes on with their items."""
    result, in_code, in_list = [], False, False
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if line.strip() and not in_code:
            in_list = line.lstrip().startswith("- ") or (in_list and indent >= 4)
        is_code = (indent >= 2 and not in_list) or (in_code and not line.strip())
        if is_code != in_code:
            result.append("@code{.cpp}" if is_code else "@endcode")
        in_code = is_code
        found = None if in_code else re.match(rf"({headings}):\s*(.*)$", line)
        if found:
            result += [f"@par {found[1]}", escaped(found[2])]
        else:
            result.append(line if in_code else escaped(line))
    return result + ["@endcode"] * in_code


def as_doxygen(lines, mark):
    return f"{mark} " + "\n".join(body(lines)).strip() + " */"


def lines_of(comment):
    if comment.startswith("/*"):
        return [re.sub(r"^\s*\*? ?" if n else r"^\s*", "", line) for n, line in enumerate(comment[2:-2].split("\n"))]
    return [re.sub(r"^\s*// ?", "", line) for line in comment.rstrip("\n").split("\n")]


def is_alone(rest):
    """A comment with an empty line or a directive behind it is nobody's."""
    return re.match(r"\s*\Z|[ ]*\n|[ ]*#(?!define)", rest.removeprefix("\n")) is not None


def is_within_function(comment):
    return re.match(r" {4}", comment) is not None


def main(path):
    source = open(path, encoding="utf-8").read()
    out, at, story = [], 0, True
    token = re.compile(
        r'''(?P<string>"(?:\\.|[^"\\\n])*")|(?P<c>/\*.*?\*/)|(?P<lines>(?:^[ ]*//[^\n]*\n)+)|(?P<behind>//[^\n]*)''',
        re.DOTALL | re.MULTILINE)
    for found in token.finditer(source):
        out.append(source[at:found.start()])
        at = found.end()
        text = found[0]
        before = source[source.rfind("\n", 0, found.start()) + 1:found.start()]
        lines = lines_of(text)
        if found["string"]:
            out.append(text)
        elif story and "SPDX" in text:
            story = False
            name = "stillmap/" + path.rsplit("/", 1)[-1]
            rest = [line for line in lines if "SPDX" not in line]
            out.append(f"/** @file {name}\n" + "\n".join(body(rest)) + " */\n")
        elif before.strip():
            out.append(text if before.strip() == "}" else as_doxygen(lines, "/**<"))
        elif is_alone(source[at - bool(found['lines']):]) or is_within_function(text):
            out.append(text)
        else:
            out.append(as_doxygen(lines, "/**") + ("\n" if found["lines"] else ""))
    out.append(source[at:])
    # A specialisation of a template of std's is nothing to read about, and doxygen stumbles over it.
    out = [re.sub(r"^template <>\nstruct std::[^\n]*\n", "\n\n", part, flags=re.MULTILINE) for part in out]
    sys.stdout.write("".join(out))


main(sys.argv[1])
