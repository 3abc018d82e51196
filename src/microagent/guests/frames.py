"""Frames between the agent and the guest's side of `exec`. Pure. The protocol and its other side: vm_fixtures/execd.c.

A guest is hostile, and so is what it says here: a frame is bounded, and one that execd would not send is Malformed.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from microagent.errors import Malformed
from microagent.guests.bootdisk import encode_words, variables_of
from microagent.guests.control import printable_untrusted

STDOUT = 1
STDERR = 2

MAX_PAYLOAD = 16384
# What the guest may have sent of one command's output before it is read, and we of its input.
OUTPUT_WINDOW = 256 << 10
INPUT_WINDOW = 64 << 10

_HEADER = struct.Struct(">cIH")
_COUNT = struct.Struct(">I")
_REQUEST = struct.Struct(">BHHH")
MARK_LENGTH = 16


@dataclass(frozen=True, slots=True)
class Terminal:
    """A terminal's size, 1 to 65535 each."""

    rows: int
    columns: int


@dataclass(frozen=True, slots=True)
class Request:
    """What to run. `env` comes on top of the workspace's; empty `user` and `workdir` are the image's; no `terminal`:
    three pipes."""

    command: Sequence[str]
    env: Mapping[str, str]
    user: str = ""
    workdir: str = ""
    terminal: Terminal | None = None

    def to_bytes(self) -> bytes:
        """What execd reads; Malformed for what Linux cannot run."""
        variables = variables_of(self.env)
        words = encode_words([self.workdir, self.user, *variables, *self.command])
        size = self.terminal or Terminal(0, 0)
        head = _REQUEST.pack(self.terminal is not None, size.rows, size.columns, len(variables))
        return head + b"".join(word + b"\0" for word in words)


@dataclass(frozen=True, slots=True)
class Started:
    """The command runs."""

    number: int


@dataclass(frozen=True, slots=True)
class Output:
    """Bytes of STDOUT or STDERR."""

    number: int
    stream: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Wanted:
    """So many more bytes of input may be sent."""

    number: int
    count: int


@dataclass(frozen=True, slots=True)
class Ended:
    """The command ended, 128+N for signal N."""

    number: int
    code: int


@dataclass(frozen=True, slots=True)
class Refused:
    """The command did not start."""

    number: int
    what: str


Report = Started | Output | Wanted | Ended | Refused


def frame(kind: bytes, number: int, payload: bytes = b"") -> bytes:
    """One frame; `payload` is at most MAX_PAYLOAD."""
    return _HEADER.pack(kind, number, len(payload)) + payload


def greeting(mark: bytes) -> bytes:
    """The first bytes of a connection: whatever broke off before, the guest understands what follows."""
    return bytes(_HEADER.size + MAX_PAYLOAD) + frame(b"h", 0, mark)


def opening(number: int, request: Request) -> Iterator[bytes]:
    """The frames that start a command, its whole output window granted."""
    data = request.to_bytes()
    for at in range(0, len(data), MAX_PAYLOAD):
        yield frame(b"a", number, data[at : at + MAX_PAYLOAD])
    yield more_output(number, OUTPUT_WINDOW) + frame(b"o", number)


def more_output(number: int, count: int) -> bytes:
    """So many bytes of output were read, and as many more are wanted."""
    return frame(b"c", number, _COUNT.pack(count))


def resize(number: int, size: Terminal) -> bytes:
    """The terminal has another size now."""
    return frame(b"r", number, struct.pack(">HH", size.rows, size.columns))


class FrameReader:
    """Reports out of bytes as they come. What comes before the answer to our greeting is for an agent before us."""

    def __init__(self, mark: bytes) -> None:
        self._answer = frame(b"h", 0, mark)
        self._greeted = False
        self._buffer = bytearray()

    def feed_untrusted(self, data: bytes) -> list[Report]:
        """The reports that `data` completes; Malformed, once and for all, for what execd does not send."""
        self._buffer += data
        if not self._greeted and not self._skip():
            return []
        reports: list[Report] = []
        while len(self._buffer) >= _HEADER.size:
            kind, number, length = _HEADER.unpack_from(self._buffer)
            if length > MAX_PAYLOAD:
                raise Malformed("a frame longer than any")
            end = _HEADER.size + length
            if len(self._buffer) < end:
                break
            reports.append(parse_frame_untrusted(kind, number, bytes(self._buffer[_HEADER.size : end])))
            del self._buffer[:end]
        return reports

    def _skip(self) -> bool:
        """Up to the answer to our greeting; of what is not it, only what may be its beginning is kept."""
        at = self._buffer.find(self._answer)
        self._greeted = at >= 0
        del self._buffer[: at + len(self._answer) if self._greeted else 1 - len(self._answer)]
        return self._greeted


def parse_frame_untrusted(kind: bytes, number: int, payload: bytes) -> Report:
    """One frame's meaning; Malformed for what execd does not send."""
    match kind, len(payload):
        case b"s", 0:
            return Started(number)
        case b"1" | b"2", size if size:
            return Output(number, STDOUT if kind == b"1" else STDERR, payload)
        case b"c", 4:
            return Wanted(number, *_COUNT.unpack(payload))
        case b"x", 1:
            return Ended(number, payload[0])
        case b"f", size if size <= 128:
            return Refused(number, printable_untrusted(payload))
    raise Malformed("a frame that is none of execd's")
