"""What a guest's init says on the control port, and what it understands. Pure. The other side is vm_fixtures/init."""

import re
from dataclasses import dataclass

from microagent.errors import Malformed

# "failed" and a line of text; everything else is shorter.
MAX_LINE = 512
_MARK = re.compile(rb"[0-9a-f-]{36}")
_CODE = re.compile(rb"[0-9]{1,3}")


@dataclass(frozen=True, slots=True)
class Started:
    """The guest's init runs."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The machine is made, its set-up or its command starts; `mark` will end their stdout and stderr."""

    mark: bytes


@dataclass(frozen=True, slots=True)
class Began:
    """The set-up is over and the command starts; only of a guest that has a set-up."""


@dataclass(frozen=True, slots=True)
class Exited:
    """The command ended with `code` (128+N for signal N); disks are synced.

    Unless `prepared`, it was the set-up that ended so, and the command never started.
    """

    code: int
    prepared: bool = True


@dataclass(frozen=True, slots=True)
class Failed:
    """The machine could not be made."""

    what: str


Report = Started | Ready | Began | Exited | Failed


def parse_report_untrusted(line: bytes) -> Report:
    """One line of the control port, without its newline; Malformed for anything init does not say."""
    if len(line) > MAX_LINE:
        raise Malformed("a report longer than any")
    word, _, rest = line.partition(b" ")
    if line == b"started":
        return Started()
    if line == b"began":
        return Began()
    if word == b"failed":
        return Failed(printable_untrusted(rest))
    if word == b"ready" and _MARK.fullmatch(rest):
        return Ready(rest)
    if word in (b"exit", b"unprepared") and _CODE.fullmatch(rest) and int(rest) <= 255:
        return Exited(int(rest), prepared=word == b"exit")
    raise Malformed("not a report")


class MarkedStream:
    """Passes a stream on as it comes, without the mark that ends it.

    Only bytes that may be the mark's beginning are kept back. A guest that writes the mark by itself takes the
    end of its own output away, and nothing else.
    """

    def __init__(self) -> None:
        self._mark = b""
        self._kept = b""

    def expect(self, mark: bytes) -> None:
        """From here on; nothing was written before init said so."""
        self._mark = mark

    @property
    def complete(self) -> bool:
        """Whether the stream has ended, as far as has been fed."""
        return self._kept == self._mark

    def feed_untrusted(self, data: bytes) -> bytes:
        """What can be passed on, now that `data` has come."""
        data = self._kept + data
        lengths = range(min(len(self._mark), len(data)), 0, -1)
        length = next((n for n in lengths if data.endswith(self._mark[:n])), 0)
        self._kept = data[len(data) - length :]
        return data[: len(data) - length]

    def rest(self) -> bytes:
        """What was kept back for nothing: the stream broke off."""
        return b"" if self.complete else self._kept


# The port of stdin closes next, and this time that is the end of the input: it also closes when an agent dies.
EOF = b"eof\n"
# Asks for the last report again; an agent that has come anew needs the mark.
AGAIN = b"again\n"


def shutdown_request(seconds: int) -> bytes:
    """Asks for TERM to the command, and KILL after so many seconds."""
    return b"shutdown %d\n" % seconds


def printable_untrusted(data: bytes) -> str:
    """Text that can neither end a line nor colour a terminal: anything but printable ASCII becomes a dot."""
    return "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in data)
