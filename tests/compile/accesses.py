#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""accesses.py SOURCE INCLUDE CXX OBJDUMP: the accesses in the code made of SOURCE are as its functions' names say.

Each function is called WHO_N_load(s)_of_BITS or WHO_N_store(s)_of_BITS. Views are passed in registers, so that an access
by another way than rsp or rip is to the live bytes; a twin writes its error_code besides. Skips (77) where the code is
not x86-64's. OBJDUMP is GNU's or LLVM's."""

import platform
import re
import subprocess
import sys
import tempfile

source, include, cxx, objdump = sys.argv[1:]
if platform.machine() != "x86_64":
    print("skip: reads the code of x86-64 alone")
    sys.exit(77)

with tempfile.NamedTemporaryFile(suffix=".o") as made:
    subprocess.run([cxx, "-std=c++20", "-O2", "-I", include, "-c", source, "-o", made.name], check=True)
    text = subprocess.run([objdump, "-d", "-M", "intel", "--no-show-raw-insn", made.name],
                          check=True, capture_output=True, text=True, env={"LC_ALL": "C"}).stdout

BITS = {"BYTE": 8, "WORD": 16, "DWORD": 32, "QWORD": 64, "XMMWORD": 128}
READS_FIRST_OPERAND = {"cmp", "test", "push", "jmp", "call"}


def accesses(code, twin):
    """What the instructions do to memory other than the stack: (load or store, bits) each."""
    for line in code.splitlines():
        instruction = re.match(r"\s*[0-9a-f]+:\s+(?:lock )?(\w+)\s+(.*)", line)
        if not instruction or instruction[1] in {"lea", "nop", "nopw", "cs", "data16"}:
            continue
        name, operands = instruction.groups()
        memory = re.search(r"(\w+) PTR (?:\w\w:)?\[([^\]]*)\]", operands, re.I)
        if not memory or re.search(r"\br[si]p\b", memory[2]):
            continue
        first = operands.index(memory[0]) == 0
        bits = BITS[memory[1].upper()]
        if not first or name in READS_FIRST_OPERAND:
            yield "load", bits
        elif name.startswith("mov"):
            # The only stores of a twin are the two fields of its error_code.
            if not twin:
                yield "store", bits
        else:
            yield "load and store", bits


checked = 0
wrong = 0
for name, code in re.findall(r"^[0-9a-f]+ <(\w+)>:\n((?:.+\n)*)", text, re.M):
    promised = re.fullmatch(r"(\w+?)_(\d)_(load|store)s?_of_(\d+)", name)
    if not promised:
        continue
    checked += 1
    expected = [(promised[3], int(promised[4]))] * int(promised[2])
    found = list(accesses(code, "twin" in promised[1]))
    if found != expected:
        wrong += 1
        print(f"{name}: expected {expected}, found {found}\n{code}")
assert checked == 4 * 9 + 1, f"{checked} functions found"
if wrong:
    sys.exit(1)
print(f"{checked} functions access memory as their names say")
