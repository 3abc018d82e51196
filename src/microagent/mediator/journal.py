"""The workspace's log file, written by one process, one whole line at a time.

The descriptor was opened by the agent (append only); the file itself is out of this process's reach. A line that
was begun and not finished, by a kill or a full disk, is ended and passed over when the log is opened again.
"""

import contextlib
import json
import os
from collections.abc import Callable
from datetime import UTC, datetime

from microagent.audit import chain
from microagent.audit.record import Event, Record, body, timestamp

# Longer than any line can be: 256 for each text field.
_TAIL = 65536


class Journal:
    """Appends records. After a failed write it tries again with the next record; what failed is never half there."""

    def __init__(self, fd: int, workspace: str, new_id: Callable[[], str], before: bytes = b"") -> None:
        """`before` is the last line of the file that came before this one, for a file that is new."""
        self._fd = fd
        self._workspace = workspace
        self._new_id = new_id
        self._chain = chain.START
        self._seq = 0
        self._torn = False  # the last line has no end yet
        self._untold = False
        self.resumed = False
        self._resume(before)

    def switch(self, fd: int) -> None:
        """Go on in another file: the log was rotated. The one before is closed."""
        if self._torn:
            with contextlib.suppress(OSError):
                os.write(self._fd, b"\n")
            self._torn, self._untold = False, True
        os.close(self._fd)
        self._fd = fd

    def write(self, record: Record) -> str:
        """Append it; returns its id. OSError when it cannot be written: then what it announces must not happen."""
        if self._torn:
            os.write(self._fd, b"\n")
            self._torn, self._untold = False, True
        if self._untold:
            # Without a word about it a torn line would look like tampering.
            self._append(Record(Event.GAP, {"why": "a line could not be written whole", "torn": True}))
            self._untold = False
        return self._append(record)

    def _append(self, record: Record) -> str:
        ident = record.ident or self._new_id()
        ts = timestamp(datetime.now(UTC))
        unlinked = body(record, ts=ts, seq=self._seq + 1, ident=ident, workspace=self._workspace)
        line, link = chain.link(self._chain, unlinked)
        written = os.write(self._fd, line)
        if written < len(line):
            self._torn = True
            raise OSError("the log took only part of a line")
        self._seq += 1
        self._chain = link
        return ident

    def _resume(self, before: bytes) -> None:
        """Go on after the last whole line of an earlier mediator."""
        size = os.fstat(self._fd).st_size
        tail = os.pread(self._fd, _TAIL, max(0, size - _TAIL)) if size else before and before + b"\n"
        if not tail:
            return
        self._torn = not tail.endswith(b"\n")
        for line in reversed(tail.split(b"\n")[:-1]):
            try:
                last = json.loads(line)
                self._seq, self._chain = int(last["seq"]), str(last["chain"])
            except (ValueError, KeyError, TypeError):
                # It was ended, and whoever ended it came to say no more.
                self._untold = True
                continue
            self.resumed = last.get("event") != Event.MEDIATOR_DOWN
            return
