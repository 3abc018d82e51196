"""One request that was let through, until both of its ends have ended."""

from dataclasses import dataclass

from microagent.errors import Malformed
from microagent.wire.http2 import Request


@dataclass(slots=True)
class Stream:
    """What a record will say of it, and what is still to come.

    `status` is the last one seen, 0 before any; `bytes_*` count whole frames of HEADERS, CONTINUATION and DATA.
    """

    request: Request
    started: float
    status: int = 0
    interim: int = 0
    bytes_out: int = 0
    bytes_in: int = 0
    body: int = 0
    guest_done: bool = False
    upstream_done: bool = False

    def take_body(self, length: int, *, ends: bool) -> None:
        """Count request data; Malformed if it is not what Content-Length promised (RFC 9113 section 8.1.1)."""
        self.body += length
        promised = self.request.length
        if promised is not None and (self.body > promised or (ends and self.body != promised)):
            raise Malformed("a body of another length than its Content-Length")
        self.guest_done |= ends

    @property
    def answered(self) -> bool:
        """Whether the final response has begun."""
        return self.status >= 200

    @property
    def done(self) -> bool:
        """Whether both sides have ended it."""
        return self.guest_done and self.upstream_done

    def fields(self, now: float) -> dict[str, object]:
        """The part of an egress_request record that is the stream's own."""
        return {
            "method": self.request.method,
            "path": self.request.path,
            "status": self.status,
            "bytes_out": self.bytes_out,
            "bytes_in": self.bytes_in,
            "duration_ms": round((now - self.started) * 1000, 1),
            "http": "2",
        }
