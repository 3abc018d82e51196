"""The files of one log, read in blocks of whole lines from either end.

How this works: `egress.jsonl` is written to; rotation renames it to `.1`, that to `.2`, and so on to `.7`. Files are
opened newest first, so a rotation meanwhile shows one file twice, which its inode tells, and never hides one. A file
that is open stays itself under any name. Times only grow within a log, so `--since` is found by bisection; after a
clock that was set back, records of the time between may be passed over.
"""

import os
import re
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import NamedTuple

ROTATED = 7

_BLOCK = 1 << 20
# Where bisection ends and reading begins.
_NEAR = 1 << 16
_TIME = re.compile(rb'"ts": ?"([0-9T:.Z+-]{20,40})"')


class Block(NamedTuple):
    """Whole lines, each with its newline; `offset` is that of the first byte in its file."""

    file: str
    offset: int
    data: bytes


def open_log(path: Path) -> FileIO:
    """To be read; OSError when it is not there, or is a link."""
    return FileIO(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW))


def open_all(path: Path) -> list[FileIO]:
    """The log's files that hold anything, oldest first. The caller closes them."""
    found: dict[int, FileIO] = {}
    for name in (path, *(path.with_name(f"{path.name}.{number}") for number in range(1, ROTATED + 1))):
        try:
            file = open_log(name)
        except FileNotFoundError:
            continue
        facts = os.fstat(file.fileno())
        if facts.st_size and facts.st_ino not in found:
            found[facts.st_ino] = file
        else:
            file.close()
    return list(reversed(found.values()))


def inode(file: FileIO) -> int:
    """What a file keeps through a rename."""
    return os.fstat(file.fileno()).st_ino


def forward(file: FileIO, start: int = 0) -> Iterator[Block]:
    """The whole lines from `start`, which begins one, to the present end."""
    while data := os.pread(file.fileno(), _BLOCK, start):
        # A megabyte without a newline is no line of ours, and is not waited for.
        length = data.rfind(b"\n") + 1 or (len(data) if len(data) == _BLOCK else 0)
        if not length:
            return
        yield Block(_name(file), start, data[:length])
        start += length


def backward(file: FileIO, end: int) -> Iterator[Block]:
    """The same lines from `end`, which ends one, to the beginning; the lines within a block are in their order."""
    while end:
        start = max(0, end - _BLOCK)
        data = os.pread(file.fileno(), end - start, start)
        if start:
            skipped = data.find(b"\n", 0, len(data) - 1) + 1
            start, data = start + skipped, data[skipped:]
        yield Block(_name(file), start, data)
        end = start


def whole_end(file: FileIO) -> int:
    """Where the last whole line ends."""
    end = size = os.fstat(file.fileno()).st_size
    while end:
        start = max(0, end - _NEAR)
        found = os.pread(file.fileno(), end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        if size - start >= _BLOCK:
            return size
        end = start
    return 0


def begins_after(file: FileIO, since: str) -> bool:
    """Whether the file's first record is of `since` (RFC 3339, as in the records) or later."""
    first = _first_time(os.pread(file.fileno(), _NEAR, 0))
    return first is not None and first >= since.encode()


def position_of(file: FileIO, since: str) -> int:
    """Where a line begins before which everything is earlier than `since`."""
    low, high = 0, os.fstat(file.fileno()).st_size
    wanted = since.encode()
    while high - low > _NEAR:
        middle = (low + high) // 2
        _, _, lines = os.pread(file.fileno(), _NEAR, middle).partition(b"\n")
        found = _first_time(lines)
        if found is not None and found < wanted:
            low = middle
        else:
            high = middle
    return low + os.pread(file.fileno(), _NEAR, low).find(b"\n") + 1 if low else 0


def _first_time(data: bytes) -> bytes | None:
    found = _TIME.search(data)
    return found[1] if found else None


def _name(file: FileIO) -> str:
    return Path(str(file.name)).name
