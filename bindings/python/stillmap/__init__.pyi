# SPDX-License-Identifier: Apache-2.0
import os
from types import TracebackType
from typing import Iterable, Literal, Protocol, SupportsIndex, final, overload

_Backing = Literal[
    "auto", "sealed", "leased", "cloned", "copied", "paged", "spilled", "cooperative", "trusted"
]
_Consistency = Literal["torn", "verified", "point_in_time"]
_Access = Literal["default", "sequential", "random"]
_Fork = Literal["absent", "carry"]
_Advice = Literal["sequential", "random", "willneed", "populate", "hugepage"]
_Path = str | bytes | os.PathLike[str] | os.PathLike[bytes]

class _HasFileno(Protocol):
    def fileno(self) -> int: ...

class _HasBuffer(Protocol):
    def __buffer__(self, flags: int, /) -> memoryview: ...

version: str
__version__: str

class Error(OSError):
    code: Literal["busy_writer", "unsupported", "over_budget", "changing", "lost"]

@final
class Identity(tuple[bool, int, int, int, int, int, int]):
    @property
    def exact(self) -> bool: ...
    @property
    def device(self) -> int: ...
    @property
    def inode(self) -> int: ...
    @property
    def length(self) -> int: ...
    @property
    def birth_ns(self) -> int: ...
    @property
    def ctime_ns(self) -> int: ...
    @property
    def generation(self) -> int: ...

@final
class Snapshot:
    @property
    def how(self) -> Literal[
        "sealed", "leased", "cloned", "copied", "paged", "spilled", "cooperative", "trusted"
    ]: ...
    @property
    def when(self) -> _Consistency: ...
    @property
    def current(self) -> Literal["shared", "private", "lost"]: ...
    @property
    def private_bytes(self) -> int: ...
    @property
    def lost_bytes(self) -> int: ...
    @property
    def name(self) -> str | bytes | int: ...
    @property
    def closed(self) -> bool: ...
    def close(self) -> None: ...
    def text(self) -> str: ...
    def changed(self) -> bool: ...
    def refresh(self) -> Snapshot: ...
    def share(self) -> Snapshot: ...
    def identity(self) -> Identity: ...
    def advise(self, advice: _Advice, offset: int = 0, length: int = 0) -> None: ...
    def detach(self) -> None: ...
    def __enter__(self) -> Snapshot: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None: ...
    def __len__(self) -> int: ...
    @overload
    def __getitem__(self, key: SupportsIndex, /) -> int: ...
    @overload
    def __getitem__(self, key: slice, /) -> bytes: ...
    def __contains__(self, what: SupportsIndex | bytes | bytearray | memoryview | _HasBuffer, /) -> bool: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

def open(
    path: _Path | int | _HasFileno,
    *,
    require: _Consistency | None = None,
    backing: _Backing = "auto",
    offset: int = 0,
    length: int = 0,
    memory_budget: int = 0,
    strict: bool = False,
    populate: bool = False,
    synced: bool = False,
    padding: int = 0,
    access: _Access = "default",
    fork: _Fork = "absent",
) -> Snapshot: ...
def open_many(
    paths: Iterable[_Path],
    *,
    require: _Consistency | None = None,
    backing: _Backing = "auto",
    offset: int = 0,
    length: int = 0,
    memory_budget: int = 0,
    strict: bool = False,
    populate: bool = False,
    synced: bool = False,
    padding: int = 0,
    access: _Access = "default",
    fork: _Fork = "absent",
) -> list[Snapshot]: ...
def detach_all() -> None: ...
