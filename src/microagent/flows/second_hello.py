"""A second ClientHello, which a server may ask for (HelloRetryRequest), names the same host or is not sent.

How this works: TLS that is not read is spliced, but a server hears no more than the first ClientHello before it has
answered. Nearly always it goes on, and all the rest is spliced. If it asks for another one, that is looked at as the
first one was: a front that finds its site by the second name would otherwise be a way to every site behind it.
"""

from typing import NamedTuple

from microagent.decision.verdict import Reason
from microagent.errors import Malformed
from microagent.flows.vocabulary import Effect, Listen, Peek, Replay, Return, Splice
from microagent.wire.client_hello import ClientHello, parse_second_hello_untrusted
from microagent.wire.hello_retry import retry_size_untrusted


class Refused(NamedTuple):
    """Why a second ClientHello does not go on, and the host that it named, if that could be read."""

    reason: Reason
    host: str | None = None
    error: str = ""


class SecondHello:
    """One connection's, from its first ClientHello until it is spliced."""

    def __init__(self, first: ClientHello, seconds: float, size: int) -> None:
        """`seconds` and `size` (bytes) are what a ClientHello may take, however it trickles in."""
        self._first = first
        self._seconds = seconds
        self._size = size
        self._heard = 0
        self._deadline = 0.0

    def begin(self) -> list[Effect]:
        """The server can be spoken to."""
        return [Replay(self._first.end)]

    def server_spoke_untrusted(self, data: bytes, now: float) -> list[Effect]:
        """The server's answer, as far as it is there."""
        size = retry_size_untrusted(data)
        if size is None and self._heard < len(data) < self._size:
            self._heard = len(data)
            return [Listen(seen=len(data))]
        if not size:
            # A server that has ended, or goes on like no other, has not asked for anything.
            return [Splice()]
        self._deadline = now + self._seconds
        return [Return(size), Peek(seen=0, seconds=self._seconds)]

    def guest_spoke_untrusted(self, data: bytes, ended: bool, now: float) -> list[Effect] | Refused:
        """What the guest has sent since the first one, as far as it is there."""
        try:
            hello = parse_second_hello_untrusted(data)
        except Malformed as fault:
            return Refused(Reason.HELLO_MALFORMED, error=fault.what)
        if hello is not None:
            if hello.sni == self._first.sni:
                return [Splice()]
            error = "" if hello.sni else "the second ClientHello names nobody"
            return Refused(Reason.HOST_MISMATCH, hello.sni, error)
        if ended:
            # No server takes the end of the stream for the end of a hello, whose size is in its head.
            return [Splice()]
        if len(data) >= self._size:
            return Refused(Reason.HELLO_MALFORMED, error=f"no second ClientHello within {self._size} bytes")
        return [Peek(seen=len(data), seconds=max(0.0, self._deadline - now))]
