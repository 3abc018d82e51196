"""The two sides of an HTTP/2 connection, joined (RFC 9113).

How this works: frames of streams that were let through go on as they came. A request's header block is held until it is
whole, decoded and decided. `guest_side` and `upstream_side` read the frames, `connection` has what they share.
"""

from collections.abc import Callable

from microagent.decision.verdict import Verdict
from microagent.flows.http1 import Effect, ToGuest, ToUpstream
from microagent.flows.http2.connection import Connection
from microagent.flows.http2.guest_side import GuestSide
from microagent.flows.http2.upstream_side import UpstreamSide
from microagent.wire.http1 import DEFAULT_LIMITS, HeadLimits
from microagent.wire.http2 import ConnectionFault


class Http2Conversation:
    """One guest connection's streams to `name`:`port`, already dialled; the arguments are `HttpConversation`'s."""

    __slots__ = ("_connection", "_guest", "_upstream", "bytes_in", "bytes_out")

    def __init__(
        self,
        decide: Callable[[], Verdict],
        name: str,
        port: int,
        destination: str,
        flow: str,
        new_id: Callable[[], str],
        most: HeadLimits = DEFAULT_LIMITS,
    ) -> None:
        self._connection = Connection(decide, name, port, destination, flow, new_id, most)
        self._guest = GuestSide(self._connection)
        self._upstream = UpstreamSide(self._connection)
        self.bytes_out = 0
        self.bytes_in = 0

    @property
    def wants_guest(self) -> bool:
        """Whether the guest should be read now: always, since flow control is between the two sides."""
        return not self._connection.finished

    def from_guest(self, data: bytes, now: float) -> list[Effect]:
        """Bytes from the guest, in any pieces."""
        if self._connection.finished:
            return []
        try:
            self._guest.arrive(data, now)
        except ConnectionFault as fault:
            self._connection.break_guest(fault, now)
        return self._carry_out()

    def from_upstream(self, data: bytes, now: float) -> list[Effect]:
        """Bytes from the server, in any pieces."""
        if self._connection.finished:
            return []
        try:
            self._upstream.arrive(data, now)
        except ConnectionFault as fault:
            self._connection.break_upstream(fault, now)
        return self._carry_out()

    def guest_ended(self, now: float) -> list[Effect]:
        """The guest sends no more; there is no half-closed connection in HTTP/2."""
        return self._end("guest closed", now)

    def upstream_ended(self, now: float) -> list[Effect]:
        """The server sends no more."""
        return self._end("upstream closed", now)

    def too_slow(self, now: float) -> list[Effect]:  # noqa: ARG002  (which of the streams would it be?)
        """The connection has idled for too long, with all its streams: there is nothing to say but the end."""
        return []

    def _end(self, why: str, now: float) -> list[Effect]:
        self._connection.finish(why, now)
        return self._carry_out()

    def _carry_out(self) -> list[Effect]:
        effects = self._connection.carry_out()
        for effect in effects:
            if isinstance(effect, ToUpstream):
                self.bytes_out += len(effect.data)
            elif isinstance(effect, ToGuest):
                self.bytes_in += len(effect.data)
        return effects
