"""Bytes between two channels that this process reads: plain HTTP, and whatever is inside intercepted TLS.

How this works: what is read goes through a conversation, which says what to send where. A side is not read while the
other one has more than a little left to take: that is all the back-pressure there is, and the kernel passes it on.
Both channels are watched level-triggered, so a wake-up reads the one side that is ready, and ends with the first piece
that is not a large one: if more has come the kernel says so, and asking OpenSSL in vain would cost more than all the
rest of a small message. A side that speaks while it may not be read is watched no more until it may.
"""

from collections.abc import Callable
from typing import Protocol

from microagent.audit.record import Record
from microagent.flows.http1 import Effect, Finish, ToGuest, ToUpstream, Write
from microagent.mediator.channel import Channel, broken
from microagent.mediator.reactor import BROKEN, HANGUP, OUT, RDHUP, READ, Reactor, Timer

# Unsent bytes for one side above which the other side is not read.
_HIGH_WATER = 256 * 1024
# Back-pressure ends far below this; only answers of our own, to a peer that sends and never reads, get here.
_MOST_UNSENT = 4 * 1024 * 1024
# Reads in one turn before other flows get theirs: with records of 16 KiB about a megabyte.
_SHARE = 64
# After a piece as large as this the next one is probably there. A TLS record has up to 16 KiB.
_LARGE = 8 * 1024
# What may still be on its way to the guest after the conversation is over.
_DRAIN_SECONDS = 30.0


class Conversation(Protocol):
    """What looks at the bytes: `HttpConversation`, `Http2Conversation` or `InsideTls` of `flows`."""

    @property
    def bytes_out(self) -> int:
        """Bytes to the server so far."""

    @property
    def bytes_in(self) -> int:
        """Bytes to the guest so far."""

    @property
    def wants_guest(self) -> bool:
        """Whether the guest should be read now."""

    def from_guest(self, data: bytes, now: float) -> list[Effect]:
        """Bytes from the guest."""

    def from_upstream(self, data: bytes, now: float) -> list[Effect]:
        """Bytes from the server."""

    def guest_ended(self, now: float) -> list[Effect]:
        """The guest sends no more."""

    def upstream_ended(self, now: float) -> list[Effect]:
        """The server sends no more."""

    def too_slow(self, now: float) -> list[Effect]:
        """The connection has idled for too long: the last words to the guest, if there are any."""


class _Side:
    """A channel, what is still to be sent on it, and what it is watched for."""

    __slots__ = ("channel", "deaf", "ended", "fd", "gone", "mask", "queue")

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.fd = channel.fileno()
        # In one piece: a peer that sends byte by byte could otherwise make each of them cost three hundred.
        self.queue = bytearray()
        self.ended = False
        self.gone = False  # it will send no more, read or not
        self.deaf = False  # it has spoken, or gone, when it was not to be read
        self.mask = -1  # not watched yet

    def possible(self) -> int:
        """What it is to be watched for."""
        if self.channel.stuck:
            return OUT
        mask = 0 if self.gone else RDHUP
        if not self.deaf:
            mask |= READ
        return mask | OUT if self.queue else mask

    def send(self, data: bytes) -> None:
        """Send now what can be sent now, keep the rest."""
        sent = 0 if self.queue else self.channel.write(data)
        if sent < len(data):
            self.queue += memoryview(data)[sent:]
            if len(self.queue) > _MOST_UNSENT:
                raise OSError("a peer takes none of the answers to what it sends")

    def flush(self) -> None:
        """Send what was kept."""
        while self.queue:
            with memoryview(self.queue) as view:
                sent = self.channel.write(view)
            if not sent:
                break
            del self.queue[:sent]


class ChannelRelay:
    """Guest and upstream joined through a conversation, until it is finished or a side breaks."""

    def __init__(
        self,
        reactor: Reactor,
        guest: Channel,
        upstream: Channel,
        conversation: Conversation,
        write: Callable[[Record], bool],
        closed: Callable[[str], None],
        half_closed_seconds: float,
    ) -> None:
        """`write` says whether it could.

        `half_closed_seconds`: how long a guest that has ended its side may wait without a byte.
        """
        self._reactor = reactor
        self._half_closed_seconds = half_closed_seconds
        self._half_closed: Timer | None = None
        self._guest = _Side(guest)
        self._upstream = _Side(upstream)
        self._conversation = conversation
        self._write = write
        self._closed = closed
        self._finishing = ""
        self._drain: Timer | None = None
        self._over = False

    @property
    def bytes_out(self) -> int:
        """Bytes that went to the server."""
        return self._conversation.bytes_out

    @property
    def bytes_in(self) -> int:
        """Bytes that went to the guest."""
        return self._conversation.bytes_in

    def start(self) -> None:
        """Begin."""
        # OpenSSL may hold bytes of the handshake's last flight, which epoll knows nothing of.
        self._reactor.soon(self._first_look, self)

    def close(self, why: str, *, reset: bool = False) -> None:
        """End it now; `closed` is told once."""
        if self._over:
            return
        self._over = True
        for timer in (self._drain, self._half_closed):
            if timer:
                timer.cancel()
        self._record_what_is_left()
        for side in (self._guest, self._upstream):
            self._reactor.closing(side.fd)
            side.channel.close(reset=reset)
        self._closed(why)

    def give_up(self) -> bool:
        """End an idle connection with what its conversation has to say; False when that is nothing."""
        effects = self._conversation.too_slow(self._reactor.now)
        self._carry_out(effects)
        self._reactor.soon(self._settle, self)
        return bool(effects)

    def abort(self, error: Exception) -> None:
        """A side broke."""
        if self._finishing:
            self.close(self._finishing)  # all was said: how a peer leaves then is no news
            return
        self.close(broken(error), reset=True)

    def _record_what_is_left(self) -> None:
        """However it ends, the requests that were under way are on record."""
        for effect in self._conversation.upstream_ended(self._reactor.now):
            if isinstance(effect, Write):
                self._write(effect.record)

    # --- wake-ups

    def _first_look(self) -> None:
        if not self._over:
            self._read_guest()
            self._read_upstream()
            self._settle()

    def _guest_ready(self, mask: int) -> None:
        # While a response is awaited the guest is not read, so a reset would otherwise go unnoticed.
        if mask & BROKEN:
            raise ConnectionResetError("the guest closed")
        if mask & HANGUP and not self._guest.gone:
            self._guest.gone = True
            self._wait_for_the_other_half()
        if mask & OUT:
            self._guest.flush()
        if mask & ~OUT or self._guest.channel.stuck:
            self._read_guest()
        self._settle()

    def _upstream_ready(self, mask: int) -> None:
        side = self._upstream
        side.gone |= mask & HANGUP != 0
        if mask & OUT:
            side.flush()
        if side.gone and side.deaf:
            # It is found broken when it may be read again; until then the kernel would say so again and again.
            self._reactor.forget(side.fd)
        elif mask & ~OUT or side.channel.stuck:
            self._read_upstream()
        self._settle()

    def _settle(self) -> None:
        """Go on to the end if it is near, and watch each side for what can be done with it now."""
        guest, upstream = self._guest, self._upstream
        if self._finishing and not guest.queue and not self._over:
            self._say_goodbye()
        if self._over:
            return
        if guest.deaf and (self._drain is not None or self._may_read_guest()):
            guest.deaf = False
        if upstream.deaf and self._may_read_upstream():
            upstream.deaf = False
        if (mask := guest.possible()) != guest.mask:
            guest.mask = mask
            self._reactor.watch(guest.fd, mask, self._guest_ready, self)
        if (mask := upstream.possible()) != upstream.mask:
            upstream.mask = mask
            self._reactor.watch(upstream.fd, mask, self._upstream_ready, self)

    def _wait_for_the_other_half(self) -> None:
        """The guest sends no more, read or not; it may wait for its answer as long as bytes move."""
        total = self.bytes_out + self.bytes_in

        def check() -> None:
            if self.bytes_out + self.bytes_in == total:
                self.close("half-closed and idle", reset=True)
            else:
                self._wait_for_the_other_half()

        self._half_closed = self._reactor.later(self._half_closed_seconds, check)

    # --- reading

    def _may_read_guest(self) -> bool:
        if self._finishing or self._guest.ended:
            return False
        return len(self._upstream.queue) < _HIGH_WATER and self._conversation.wants_guest

    def _may_read_upstream(self) -> bool:
        return not (self._finishing or self._upstream.ended) and len(self._guest.queue) < _HIGH_WATER

    def _read_guest(self) -> None:
        for _ in range(_SHARE):
            if not self._may_read_guest():
                self._guest.deaf = True
                return
            data = self._guest.channel.read()
            if data is None:
                return
            if data:
                self._carry_out(self._conversation.from_guest(data, self._reactor.now))
            else:
                self._guest.ended = True
                self._carry_out(self._conversation.guest_ended(self._reactor.now))
            if 0 < len(data) < _LARGE:
                return

    def _read_upstream(self) -> None:
        for _ in range(_SHARE):
            if not self._may_read_upstream():
                self._upstream.deaf = True
                return
            data = self._upstream.channel.read()
            if data is None:
                return
            if data:
                self._carry_out(self._conversation.from_upstream(data, self._reactor.now))
            else:
                self._upstream.ended = True
                self._carry_out(self._conversation.upstream_ended(self._reactor.now))
            if 0 < len(data) < _LARGE:
                return

    def _carry_out(self, effects: list[Effect]) -> None:
        recorded = True
        for effect in effects:
            match effect:
                case ToUpstream():
                    if recorded:
                        self._upstream.send(effect.data)
                case ToGuest():
                    self._guest.send(effect.data)
                case Write():
                    if not self._write(effect.record):
                        # What the server has answered is the guest's, and nothing more is asked of it.
                        recorded, self._finishing = False, "the record cannot be written"
                case Finish():
                    self._finishing = effect.why

    def _say_goodbye(self) -> None:
        """All was sent: end the stream, and give the guest time to close before the descriptor goes.

        Closing at once would turn what the guest still sends (the rest of a refused upload) into a reset, which
        can overtake our last bytes.
        """
        if self._drain is None:
            self._guest.channel.end()
            self._drain = self._reactor.later(_DRAIN_SECONDS, lambda: self.close(self._finishing))
        for _ in range(_SHARE):
            if self._guest.ended:
                self.close(self._finishing)
                return
            data = self._guest.channel.read()
            if data is None:
                return
            self._guest.ended = not data
