"""How far each log was sent to each receiver, and the logs of deleted workspaces that are not sent yet.

How this works: a source is a directory with a log in it, and with `sent-RECEIVER.json`, the place up to which that
receiver has taken it. A workspace's own directory is one. When a workspace is deleted, its log is linked into
`state_dir/outbox/NAME@NUMBER/` before, with those places, and stays there until every receiver has it.
"""

import json
import logging
import os
import re
import shutil
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from microagent.agent.config import Config
from microagent.agent.receivers import receivers_of
from microagent.audit.chain import head
from microagent.audit.reader import unreadable
from microagent.audit.tail import Tail
from microagent.workspace.files import ensure_directory, open_directory, read_file, write_atomic
from microagent.workspace.store import EGRESS

log = logging.getLogger(__name__)

# Two full logs. A receiver that stays away must not fill the disk, on which every new flow depends.
MOST_BYTES = 1 << 30
# Enough of a line's end to tell it from any other: its chain.
_CHAIN = 80
_LINE = re.compile(rb"[^\n]*\n|[^\n]+")


class Place(NamedTuple):
    """Up to where a log was sent: the file, the offset, and the end of the line before it."""

    inode: int
    offset: int
    before: str


class Outbox:
    """The directory of deleted workspaces' logs."""

    def __init__(self, config: Config) -> None:
        self._root = config.state_dir / "outbox"
        self._receivers = [receiver.name for receiver in receivers_of(config)]
        if self._receivers:
            ensure_directory(self._root, 0o700)
        for source in self._sources():
            for place in source.glob("sent-*.json"):
                if place.name not in map(_file, self._receivers):
                    place.unlink()  # nobody waits for it any more
            self._drop_if_sent(source)

    def waiting_for(self, receiver: str) -> list[Path]:
        """The directories of logs that it has not all of."""
        return [source for source in self._sources() if (source / _file(receiver)).exists()]

    def _bound(self) -> None:
        """Give up the oldest while there is too much."""
        oldest_first = sorted(self._sources(), key=lambda source: source.stat().st_mtime_ns)
        sizes = {source: sum(path.stat().st_size for path in source.iterdir()) for source in oldest_first}
        for source in oldest_first:
            if sum(sizes.values()) <= MOST_BYTES:
                return
            log.error("records are given up unsent workspace=%s bytes=%d", source.name, sizes.pop(source))
            shutil.rmtree(source)

    def _sources(self) -> list[Path]:
        return sorted(self._root.iterdir()) if self._root.exists() else []

    def keep(self, workspace: str, directory: Path) -> None:
        """The workspace is about to be deleted: keep what is not sent. Its mediator has ended."""
        logs = [path for path in directory.glob(f"{EGRESS}*") if path.is_file()]
        if not self._receivers or not logs:
            return
        kept = self._root / f"{workspace}@{logs[0].stat().st_ino}"
        try:
            kept.mkdir(mode=0o700)
            for path in logs:
                os.link(path, kept / path.name)
            for name in map(_file, self._receivers):
                place = directory / name
                (kept / name).write_bytes(place.read_bytes() if place.exists() else b"")
        except OSError as error:
            log.error("records of a deleted workspace are not sent workspace=%s error=%s", workspace, error)
        self._bound()

    def sent(self, source: Path, receiver: str) -> None:
        """A receiver has all of a deleted workspace's log."""
        (source / _file(receiver)).unlink(missing_ok=True)
        self._drop_if_sent(source)

    def _drop_if_sent(self, source: Path) -> None:
        if not any(source.glob("sent-*.json")):
            shutil.rmtree(source)


class Source:
    """One log, read for one receiver from where it was sent up to."""

    def __init__(self, directory: Path, receiver: str) -> None:
        """HostError when the directory is gone, or is not ours alone."""
        self.directory = directory
        self.workspace = directory.name.partition("@")[0]
        self._file = _file(receiver)
        # By its descriptor: another workspace of that name is another directory.
        self._fd = open_directory(directory)
        self._tail = Tail(directory / EGRESS)
        place = self._place()
        if place and not self._tail.resume((place.inode, place.offset), place.before.encode("latin-1")):
            log.warning("records went by rotation before they were sent workspace=%s", self.workspace)

    def block(self) -> list[tuple[bytes, Place]]:
        """The next lines, at most a megabyte, each with the place behind it; none when there are none yet.

        Without their newlines; what is no record is as `egress` shows it.
        """
        block = next(self._tail.blocks(), None)
        if block is None:
            return []
        found = []
        inode, offset = self._tail.position[0], block.offset
        for line in _LINE.findall(block.data):
            whole = line.removesuffix(b"\n")
            shown = whole if head(whole) else json.dumps(unreadable(block.file, offset, len(whole))).encode()
            offset += len(line)
            found.append((shown, Place(inode, offset, line[-_CHAIN:].decode("latin-1"))))
        return found

    def remember(self, place: Place) -> None:
        """It was sent up to here. HostError, OSError."""
        write_atomic(self._fd, self._file, json.dumps(place._asdict()).encode())

    def close(self) -> None:
        """End."""
        self._tail.close()
        os.close(self._fd)

    def _place(self) -> Place | None:
        with suppress(FileNotFoundError, ValueError, TypeError):
            return Place(**json.loads(read_file(self._fd, self._file)))
        return None


def _file(receiver: str) -> str:
    return f"sent-{receiver}.json"
