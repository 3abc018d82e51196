"""The body of an HTTP/1.1 message: where it ends, and whether a request's may go on."""

from typing import Final

from microagent.errors import Malformed
from microagent.wire.http1 import BodyKind, ChunkedBody, Framing
from microagent.wire.sniff import Sniffed, sniff_untrusted

# RFC 9110 section 9.3: a body means nothing with these, and there are servers that leave it unread. To them it is the
# next request.
_BODILESS: Final = frozenset(("GET", "HEAD", "DELETE", "OPTIONS", "TRACE"))


class Body:
    """Where a message's body ends; `take` says how many of these bytes belong to it."""

    __slots__ = ("_chunked", "_left", "done")

    def __init__(self, framing: Framing) -> None:
        self._chunked = ChunkedBody() if framing.kind is BodyKind.CHUNKED else None
        self._left = framing.length if framing.kind is BodyKind.LENGTH else 0
        if framing.kind is BodyKind.UNTIL_CLOSE:
            self._left = -1
        self.done = self._chunked is None and self._left == 0

    def take(self, data: bytes) -> int:
        if self._chunked is not None:
            used, self.done = self._chunked.feed(data)
            return used
        if self._left < 0:
            return len(data)
        used = min(self._left, len(data))
        self._left -= used
        self.done = self._left == 0
        return used

    def ends_with_connection(self) -> bool:
        return self._left < 0


def doubt_of(method: str, framing: Framing) -> "Doubt | None":
    """What a request's body has to pass first, if anything. A chunk's size is nobody's request."""
    return Doubt(method, framing.length) if method in _BODILESS and framing.kind is BodyKind.LENGTH else None


def doubt_without_length(method: str) -> "Doubt | None":
    """The same in HTTP/2, which frames a body; a server in front may hand it on as HTTP/1.1."""
    return Doubt(method, None) if method in _BODILESS else None


class Doubt:
    """A body that begins as a request does, with a method that has no body, is kept back and refused."""

    __slots__ = ("_held", "_length", "_method", "settled")

    def __init__(self, method: str, length: int | None) -> None:
        """`length` of the body in bytes, None where that is not known. `settled`: it may go on."""
        self._method = method
        self._length = length
        self._held = b""
        self.settled = False

    def pass_untrusted(self, data: bytes) -> bytes:
        """What of it may go on, now that `data` has come, and what comes behind it; Malformed if it is a request."""
        if self.settled:
            return data
        data = self._held + data
        kind = sniff_untrusted(data[: self._length])
        if kind is Sniffed.HTTP:
            raise Malformed(f"a body of {self._method} that is a request itself")
        self.settled = kind is not Sniffed.MORE or (self._length is not None and len(data) >= self._length)
        self._held = b"" if self.settled else data
        return data if self.settled else b""
