"""One request that was let through, until both of its ends have ended."""

from dataclasses import dataclass
from typing import Final

from microagent.errors import Malformed
from microagent.flows.http1_body import Doubt
from microagent.wire.http2 import Frame, Request, data_untrusted

# A client may have 256 streams, each with a body in doubt.
_MOST_HELD: Final = 16384


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
    doubt: Doubt | None = None
    # Frames that are kept back while their body is in doubt, and how much window they have used up.
    held: bytes = b""
    owed: int = 0

    def pass_untrusted(self, frame: Frame, *, ends: bool) -> bytes:
        """What may go on, now that this frame of the body has come: nothing while it is in doubt.

        Malformed if the body is a request itself.
        """
        if self.doubt is None:
            return frame.wire
        self.doubt.pass_untrusted(data_untrusted(frame.wire))
        self.held += frame.wire
        self.owed += frame.length
        if self.doubt.settled or ends:
            return self.let_go()
        if len(self.held) > _MOST_HELD:
            raise Malformed("a body whose first line has no end")
        return b""

    def let_go(self) -> bytes:
        """What was kept back."""
        held, self.held, self.owed, self.doubt = self.held, b"", 0, None
        return held

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
