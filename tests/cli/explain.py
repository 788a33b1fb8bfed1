#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
#
# `still explain` as a user meets it: exit status, the text's parts, and JSON that says the same.
# Usage: explain.py PATH_OF_STILL
import json
import os
import subprocess
import sys
import tempfile

still = os.path.abspath(sys.argv[1])
failures = 0


def check(condition, what):
    global failures
    if not condition:
        failures += 1
        print("FAILED:", what)


def run(*words):
    done = subprocess.run([still, *words], capture_output=True, timeout=60)
    return done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")


with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, "[a,b]")
    with open(path, "wb") as file:
        file.write(b"x" * 5000)

    status, out, err = run("explain", path, "--require=torn")
    check(status == 0, f"a plain file explains: {status} {err}")
    for part in (path, "plan", "taken", "result", "backing", "consistency", "state", "private_bytes"):
        check(part in out, f"the text has {part!r}: {out}")

    status, out, err = run("explain", "--json", "--require=torn", path)
    check(status == 0, "JSON: status")
    file = json.loads(out)[0]
    check(file["path"] == path and file["facts"], "JSON: path and facts")
    check(any(step["verdict"] == "taken" for step in file["plan"]), "JSON: one way was taken")
    check(all(step["reason"] for step in file["plan"]), f"JSON: each way has its reason: {file['plan']}")
    check(file["result"]["size"] == 5000, "JSON: size")
    taken = [step["backing"] for step in file["plan"] if step["verdict"] == "taken"]
    check(taken == [file["result"]["backing"]], "JSON: what was taken is what was done")

    status, out, err = run("explain", "--json", "--require=torn", "--offset=100", "--length=50", "--padding=64", path)
    check(json.loads(out)[0]["result"]["size"] == 50, "a part of a file")

    os.environ["STILLMAP_COPY_MAX"] = "4999"
    status, out, err = run("explain", "--json", path)
    file = json.loads(out)[0]
    check(file["facts"]["copied up to"].startswith("4999 bytes"), f"$STILLMAP_COPY_MAX: {file['facts']}")
    check(not any(step["reason"].startswith("small") for step in file["plan"]), "$STILLMAP_COPY_MAX: not small any more")
    del os.environ["STILLMAP_COPY_MAX"]

    status, out, err = run("explain", "--json", "--backing=sealed", path)
    check(status == 2 and json.loads(out)[0]["message"], "an impossible way: status 2 and a message")
    check("result" not in json.loads(out)[0], "an impossible way: no result")

    status, out, err = run("explain", path + ".missing", path, "--require=torn")
    check(status == 2 and "failed: " in out and "result" in out, f"a missing file does not hide the others: {out}")

    check(run("explain")[0] == 2, "no FILE is a usage error")
    check(run("explain", "--require=best", path)[0] == 2, "an unknown level is a usage error")
    check(run("explain", "--help")[0] == 0, "--help")
    check(run("--version")[1].startswith("still "), "--version")
    check(run()[0] == 2 and run("dance")[0] == 2, "no command and an unknown command are usage errors")

sys.exit(1 if failures else 0)
