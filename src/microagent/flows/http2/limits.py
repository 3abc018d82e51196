"""How much of what moves no data a peer may send (CVE-2019-9512 to 9518, 2023-44487, 2024-27316, 2025-8671)."""

from typing import Final

from microagent.wire.http2 import ConnectionFault, ErrorCode

# Open at once on one connection. nginx and Envoy say 100 to 128, Go 250.
MAX_STREAMS: Final = 256
# A block of 64 KiB needs four frames; what comes in crumbs is there to keep us busy.
MAX_CONTINUATIONS: Final = 16
# RFC 9110 15.2 lets a server send any number of 1xx; more than this is a stall, not an interim answer.
MAX_INTERIM: Final = 16

# Streams that were reset, refused or denied. nghttp2 takes 1000 at once and 33 a second; a client that races its
# gRPC calls against each other cancels more than that.
_RESETS: Final = (1000.0, 100.0)
# PING, SETTINGS, PRIORITY, empty DATA and the like. gRPC measures its bandwidth with a PING for each round trip.
_NOISE: Final = (2000.0, 200.0)
# A receiver acknowledges data by WINDOW_UPDATEs, for the stream and the connection, and by PINGs.
_EARNED_BY_DATA: Final = 4.0


class Bucket:
    """So many at once, so many a second; one too many ends the connection."""

    __slots__ = ("_at", "_burst", "_left", "_rate", "_what")

    def __init__(self, what: str, allowance: tuple[float, float]) -> None:
        self._what = what
        self._burst, self._rate = allowance
        self._left = self._burst
        self._at: float | None = None  # when it was last filled: not before it was first drawn from

    def take(self, now: float) -> None:
        """One of them has come; raises ConnectionFault (ENHANCE_YOUR_CALM)."""
        if self._at is None:
            self._at = now
        if self._left < 1.0:
            self._left = min(self._burst, self._left + (now - self._at) * self._rate)
            self._at = now
            if self._left < 1.0:
                raise ConnectionFault(self._what, ErrorCode.ENHANCE_YOUR_CALM)
        self._left -= 1.0

    def earn(self) -> None:
        """The other side has sent data: this side may answer."""
        self._left = min(self._burst, self._left + _EARNED_BY_DATA)


def reset_bucket() -> Bucket:
    """For a connection's resets, whoever sends them: a server can be made to reset streams."""
    return Bucket("streams reset too fast", _RESETS)


def noise_bucket() -> Bucket:
    """For one direction's frames that move nothing."""
    return Bucket("too many frames that carry nothing", _NOISE)
