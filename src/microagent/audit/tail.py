"""Reads the log of a workspace: from its beginning or from its end, and on while it grows and is rotated.

The last line may be torn while the mediator writes it; it is left for the next look, and reported once another file
has followed.
"""

import os
from collections import deque
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Any

from microagent.audit import logfile
from microagent.audit.reader import Filter, records_in, time_of_first


def read(path: Path, wanted: Filter, limit: int | None = None) -> Iterator[dict[str, Any]]:
    """The records of a log, oldest first; with a limit the last so many. No log yet means no records."""
    with Tail(path) as tail:
        yield from tail.past(wanted, limit)


class Tail:
    """A log that is read to its present end, again and again, while it grows and is rotated."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: FileIO | None = None
        self._offset = 0

    def __enter__(self) -> "Tail":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Idempotent."""
        if self._file:
            self._file.close()

    @property
    def position(self) -> tuple[int, int]:
        """Inode and offset up to which it was read, for a later `resume`."""
        return (logfile.inode(self._file), self._offset) if self._file else (0, 0)

    def resume(self, position: tuple[int, int], before: bytes = b"") -> bool:
        """Goes on from a position; False, and from the beginning, when that file is not there any more.

        Nor is it when other bytes than `before` are before the position: inodes are used again.
        """
        number, offset = position
        files = logfile.open_all(self._path)
        chosen = next((file for file in files if logfile.inode(file) == number and _ends(file, offset, before)), None)
        for file in files:
            if file is not chosen:
                file.close()
        if chosen:
            self._move(chosen, offset)
        return chosen is not None

    def past(self, wanted: Filter, limit: int | None = None) -> Iterator[dict[str, Any]]:
        """What is there already, oldest first; with a limit the last so many, read from the end."""
        if limit is not None:
            yield from self._last(wanted, limit)
            return
        if wanted.since:
            self._skip_to(wanted.since)
        yield from self.records(wanted)

    def records(self, wanted: Filter | None = None) -> Iterator[dict[str, Any]]:
        """The records since the last call."""
        for block in self.blocks():
            yield from records_in(block, wanted or Filter())

    def blocks(self) -> Iterator[logfile.Block]:
        """The whole lines since the last call, as they are; of a file that has an end also one that was torn there.

        `position` is right behind the last block, also for a caller who stops there.
        """
        while True:
            # Asked before the rest is read: what was written before the next file began is in this one.
            newer = self._newer()
            try:
                if self._file:
                    yield from self._rest(self._file)
                if not newer:
                    return
                if self._file:
                    yield from self._torn(self._file)
                self._move(newer.pop(0), 0)
            finally:
                for file in newer:
                    file.close()

    def _rest(self, file: FileIO) -> Iterator[logfile.Block]:
        for block in logfile.forward(file, self._offset):
            self._offset = block.offset + len(block.data)
            yield block

    def _torn(self, file: FileIO) -> Iterator[logfile.Block]:
        """What is left at the end of a file that is not written to any more: less than a block."""
        offset = self._offset
        if torn := os.pread(file.fileno(), os.fstat(file.fileno()).st_size - offset, offset):
            self._offset = offset + len(torn)
            yield logfile.Block(Path(str(file.name)).name, offset, torn)

    def _newer(self) -> list[FileIO]:
        """The files after the one that is being read, oldest first."""
        ours = logfile.inode(self._file) if self._file else None
        try:
            if self._path.stat().st_ino == ours:
                return []
        except FileNotFoundError:
            pass
        files = logfile.open_all(self._path)
        inodes = [logfile.inode(file) for file in files]
        before = inodes.index(ours) + 1 if ours in inodes else 0
        for file in files[:before]:
            file.close()
        return files[before:]

    def _last(self, wanted: Filter, limit: int) -> deque[dict[str, Any]]:
        files = logfile.open_all(self._path)
        found: deque[dict[str, Any]] = deque()
        for file in reversed(files):
            end = logfile.whole_end(file)
            if file is files[-1]:
                self._move(file, end)
            for block in logfile.backward(file, end) if len(found) < limit else ():
                matching = list(records_in(block, wanted))
                found.extendleft(reversed(matching[max(0, len(matching) - limit + len(found)) :]))
                if len(found) == limit or time_of_first(block) < wanted.since:
                    break
        for file in files[:-1]:
            file.close()
        return found

    def _skip_to(self, since: str) -> None:
        files = logfile.open_all(self._path)
        chosen = next((file for file in reversed(files) if not logfile.begins_after(file, since)), None)
        for file in files:
            if file is not chosen:
                file.close()
        if chosen:
            self._move(chosen, logfile.position_of(chosen, since))

    def _move(self, file: FileIO, offset: int) -> None:
        if self._file:
            self._file.close()
        self._file, self._offset = file, offset


def _ends(file: FileIO, offset: int, before: bytes) -> bool:
    return os.pread(file.fileno(), len(before), max(0, offset - len(before))) == before
