# SPDX-License-Identifier: Apache-2.0
"""File mappings that hold still.

    import re, stillmap

    with stillmap.open("data.json") as s:
        names = re.findall(rb'"name": *"(.*?)"', s)    # no copy of the file; its bytes never change

A view of a snapshot keeps it open: leaving the `with` while one is exported raises BufferError, as mmap does.
What is promised, and what is not: docs/guarantees.md.
"""

from ._stillmap import Error, Identity, Snapshot, detach_all, open, open_many, version

__version__ = version
__all__ = ["Error", "Identity", "Snapshot", "detach_all", "open", "open_many", "version"]
