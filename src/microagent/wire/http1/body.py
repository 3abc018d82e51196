"""Where a chunked body ends (RFC 9112 section 7.1), found without holding any of it.

How this works: the body is a row of lines (a chunk's size, a trailer field) with counted bytes between
them. Bytes are only counted; a line that arrives in pieces is the one thing kept, and that is bounded. What
was counted may have been sent on, so an unfinished line must already look right: a server that takes a bare
CR for the end of a line would else read a request where we still wait for an LF.
"""

import re
from enum import Enum, auto
from typing import Final

from microagent.errors import Malformed
from microagent.wire.http1.head import TOKEN, VALUE

# A line with its CRLF. A size has some 10 bytes, extensions are all but unused, trailers are short digests.
_MAX_LINE: Final = 4096
# Of all size lines' extensions together, and of all trailers. Without it a body of one-byte chunks could
# carry endless extensions that nobody counts (CVE-2023-39326); hyper draws its line at the same 16 KiB.
_MAX_EXTRAS: Final = 16384

# No space before the ";": few send it, and readers differ. No quotes either: nobody sends them, and to llhttp a quote
# that is escaped and never closed takes the line's end with it.
_EXTENSIONS: Final = rb"(?:;" + TOKEN + rb"(?:=" + TOKEN + rb")?)*"
# 15 hexadecimal digits are 60 bits.
_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})(" + _EXTENSIONS + rb")\r\n")
_TRAILER: Final = re.compile(rb"(" + TOKEN + rb"):" + VALUE + rb"\r\n")
# RFC 9110 section 6.5.1: these have done their work before the body, and could only contradict it now.
_NOT_IN_TRAILERS: Final = frozenset(
    (b"connection", b"content-length", b"host", b"te", b"trailer", b"transfer-encoding", b"upgrade")
)


class _At(Enum):
    SIZE = auto()
    DATA = auto()
    DATA_END = auto()
    TRAILERS = auto()
    END = auto()


_UNFINISHED: Final = {
    _At.SIZE: re.compile(rb"[0-9A-Fa-f]{1,15}(?:" + _EXTENSIONS + rb"(?:;|;" + TOKEN + rb"=|\r)?)"),
    _At.DATA_END: re.compile(rb"\r"),
    _At.TRAILERS: re.compile(rb"\r|" + TOKEN + rb"(?::" + VALUE + rb"\r?)?"),
}


class ChunkedBody:
    """One chunked body, from behind its head to the end of its trailers."""

    __slots__ = ("_at", "_extras", "_left", "_line")

    def __init__(self) -> None:
        self._at = _At.SIZE
        self._left = 0  # of the chunk being passed
        self._line = b""  # the part of an unfinished line that came with earlier data
        self._extras = 0

    def feed(self, data: bytes) -> tuple[int, bool]:
        """Count `data`; return how many of its bytes belong to the body, and whether the body is done.

        Fewer than all only when done: the rest is the next message's. Malformed: the body has no single end.
        """
        pos = 0
        while pos < len(data) and self._at is not _At.END:
            if self._at is _At.DATA:
                step = min(self._left, len(data) - pos)
                self._left -= step
                pos += step
                if not self._left:
                    self._at = _At.DATA_END
            else:
                pos = self._feed_line(data, pos)
        return pos, self._at is _At.END

    def _feed_line(self, data: bytes, pos: int) -> int:
        """Take bytes up to the next LF, and the line if it is whole; return where the bytes taken end."""
        room = _MAX_LINE - len(self._line)
        end = data.find(b"\n", pos, pos + room) + 1
        if not end and len(data) - pos >= room:
            raise Malformed(f"a line of more than {_MAX_LINE} bytes in a chunked body")
        if not end:
            self._line += data[pos:]
            if _UNFINISHED[self._at].fullmatch(self._line) is None:
                raise Malformed("a line of a chunked body that cannot be one")
            return len(data)
        line = self._line + data[pos:end] if self._line else data[pos:end]
        self._line = b""
        self._take(line)
        return end

    def _take(self, line: bytes) -> None:
        if self._at is _At.SIZE:
            self._take_size(line)
        elif self._at is _At.DATA_END:
            if line != b"\r\n":
                raise Malformed("a chunk that is longer than its size")
            self._at = _At.SIZE
        elif line == b"\r\n":
            self._at = _At.END
        else:
            self._take_trailer(line)

    def _take_size(self, line: bytes) -> None:
        match = _SIZE.fullmatch(line)
        if match is None:
            raise Malformed("a chunk size that is not one")
        if match[2]:
            self._count_extras(len(match[2]))
        self._left = int(match[1], 16)
        self._at = _At.DATA if self._left else _At.TRAILERS

    def _take_trailer(self, line: bytes) -> None:
        match = _TRAILER.fullmatch(line)
        if match is None or match[1].lower() in _NOT_IN_TRAILERS:
            raise Malformed("a trailer that is not allowed behind a body")
        self._count_extras(len(line))

    def _count_extras(self, size: int) -> None:
        self._extras += size
        if self._extras > _MAX_EXTRAS:
            raise Malformed(f"more than {_MAX_EXTRAS} bytes of chunk extensions or trailers")
