"""What turns out to be inside intercepted TLS: HTTP, decided by request, or something else, relayed as it is."""

from collections.abc import Callable
from dataclasses import dataclass, field

from microagent.flows.http1 import Effect, Finish, HttpConversation, ToGuest, ToUpstream
from microagent.wire.http2 import greets_in_http2_untrusted
from microagent.wire.sniff import Sniffed, sniff_untrusted


@dataclass(slots=True)
class InsideTls:
    """Becomes an HTTP conversation when the guest's first bytes are HTTP; opaque when they are not, or when the
    server speaks first."""

    http: Callable[[], HttpConversation]
    opaque: bool = False
    _conversation: HttpConversation | None = None
    _first: bytearray = field(default_factory=bytearray)
    _out: int = 0
    _in: int = 0

    @property
    def bytes_out(self) -> int:
        """Bytes of plaintext to the server."""
        return self._conversation.bytes_out if self._conversation else self._out

    @property
    def bytes_in(self) -> int:
        """Bytes of plaintext to the guest."""
        return self._conversation.bytes_in if self._conversation else self._in

    @property
    def wants_guest(self) -> bool:
        """Whether the guest should be read now."""
        return self._conversation is None or self._conversation.wants_guest

    def from_guest(self, data: bytes, now: float) -> list[Effect]:
        """Bytes from the guest."""
        if self._conversation:
            return self._conversation.from_guest(data, now)
        if self.opaque:
            self._out += len(data)
            return [ToUpstream(data)]
        self._first += data
        kind = sniff_untrusted(bytes(self._first))
        if kind is Sniffed.MORE:
            return []
        first = bytes(self._first)
        self._first.clear()
        if kind is Sniffed.HTTP:
            self._conversation = self.http()
        else:
            self.opaque = True
        return self.from_guest(first, now)

    def from_upstream(self, data: bytes, now: float) -> list[Effect]:
        """Bytes from the server."""
        if self._conversation:
            return self._conversation.from_upstream(data, now)
        effects: list[Effect] = []
        if not self.opaque and greets_in_http2_untrusted(data):
            # A server that does HTTP/2 without ALPN; what the guest would say in it cannot be decided.
            self._conversation = self.http()
            return self._conversation.refuse_http2(now)
        if not self.opaque:
            self.opaque = True
            effects = self._release()
        self._in += len(data)
        return [*effects, ToGuest(data)]

    def guest_ended(self, now: float) -> list[Effect]:
        """The guest sends no more."""
        if self._conversation:
            return self._conversation.guest_ended(now)
        self.opaque |= bool(self._first)
        return [*self._release(), Finish("guest closed")]

    def upstream_ended(self, now: float) -> list[Effect]:
        """The server sends no more."""
        return self._conversation.upstream_ended(now) if self._conversation else [Finish("upstream closed")]

    def too_slow(self, now: float) -> list[Effect]:
        """The connection has idled for too long."""
        return self._conversation.too_slow(now) if self._conversation else []

    def _release(self) -> list[Effect]:
        first = bytes(self._first)
        self._first.clear()
        self._out += len(first)
        return [ToUpstream(first)] if first else []
