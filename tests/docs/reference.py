# SPDX-License-Identifier: Apache-2.0
#
#   reference.py BUILD/docs
#
# doxygen makes the reference of the public headers without a warning, and what the headers say of a few functions is
# found with those functions.
import html
import pathlib
import re
import subprocess
import sys

folder = pathlib.Path(sys.argv[1])
made = subprocess.run(["doxygen", "-q", str(folder / "Doxyfile")], capture_output=True, text=True)
if made.returncode != 0 or made.stderr:
    sys.exit(f"doxygen warned:\n{made.stderr}")


def section(page, title):
    """The text from the heading of `title` to the next one."""
    text = (folder / "reference" / page).read_text()
    found = re.search(rf"&#9670;&nbsp;</a></span>{re.escape(title)}(.*?)(?=&#9670;|\Z)", text, re.DOTALL)
    if not found:
        sys.exit(f"{page} has no {title}")
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", found[1])).split())


expected = [
    ("stillmap_8h.html", "still_open()", "Promise bytes once observed never change"),
    ("stillmap_8h.html", "still_open()", "Errors those of open(2); EISDIR;"),
    ("stillmap_8h.html", "still_close()", "the last one frees the memory and releases the lease"),
    ("stillmap_8h.html", "still_backing", "STILL_SEALED the file cannot change; mapped directly"),
    ("stillmap_8h.html", "MAP_SNAPSHOT", "A mapping type beside MAP_SHARED and MAP_PRIVATE"),
    ("classstillmap_1_1snapshot.html", "detach()", "As still_detach, for this one."),
    ("classstillmap_1_1live_1_1atomic__bytes.html", "copy_to()", "less than to.size() only with an error"),
]
for page, title, words in expected:
    if words not in section(page, title):
        sys.exit(f"{page}, {title}: not there: {words}\nbut: {section(page, title)[:500]}")
