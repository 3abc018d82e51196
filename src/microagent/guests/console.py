"""What a guest's kernel prints: kept in a file of bounded size, its end remembered for error messages."""

import contextlib
import os
from pathlib import Path

from microagent.errors import HostError
from microagent.guests.control import printable_untrusted

# A boot prints a few lines; a guest that prints more may do so, but not fill the host's disk.
MAX_FILE = 1 << 20
_TAIL = 4096


class Console:
    """Takes the bytes of a serial line; `directory`/console.log is made anew at each boot, or gone on with."""

    def __init__(self, directory: Path, *, resume: bool = False) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | (os.O_APPEND if resume else os.O_TRUNC)
        try:
            self._file = os.open(directory / "console.log", flags, 0o600)
        except OSError as error:
            raise HostError(f"the console log in {directory} cannot be written: {error.strerror}") from error
        self._room = max(0, MAX_FILE - os.fstat(self._file).st_size)
        self._tail = b""

    def add(self, data: bytes) -> None:
        """Appends what the guest printed; past the bound it is remembered, not written."""
        written = data[: self._room]
        self._room -= len(written)
        # A full disk, which may be another guest's work, costs the log and not the run.
        with contextlib.suppress(OSError):
            os.write(self._file, written)
        self._tail = (self._tail + data)[-_TAIL:]

    def last_lines(self, count: int = 5) -> str:
        """The last lines that are not empty, printable, separated by " | "."""
        lines = [printable_untrusted(line.rstrip(b"\r")) for line in self._tail.split(b"\n") if line.strip()]
        return " | ".join(lines[-count:])

    def close(self) -> None:
        os.close(self._file)
