"""One guest TCP connection: carries out what its head asks for, until a relay takes over.

How this works: `flows.tcp.TcpHead` decides, this class has the descriptors. It peeks, looks up, dials, and then
hands both sockets to a `SpliceRelay` (opaque) or a `ChannelRelay` (read). Whatever happens, `_ended` runs once.
"""

import errno
import os
import socket
import ssl
from collections.abc import Callable
from functools import partial
from ipaddress import IPv4Address

from microagent.decision.engine import Proto
from microagent.decision.verdict import Reason, Tls
from microagent.flows import records
from microagent.flows import vocabulary as v
from microagent.flows.inside_tls import InsideTls
from microagent.flows.last_words import Http1Words, Http2Words, LastWords
from microagent.flows.tcp import TcpHead
from microagent.mediator.bounds import Bounds, pace
from microagent.mediator.channel import PlainChannel, TlsChannel, close_socket, is_own, is_with_itself, outgoing_socket
from microagent.mediator.first_word import FirstWord
from microagent.mediator.goodbye import Goodbye
from microagent.mediator.peeker import Peeker
from microagent.mediator.reactor import OUT, Timer
from microagent.mediator.relay import ChannelRelay, Conversation
from microagent.mediator.replay import Replay
from microagent.mediator.requests import inside_tls, plain
from microagent.mediator.services import Services
from microagent.mediator.splice import SpliceRelay
from microagent.mediator.tls import Failure, Handshake
from microagent.wire.dns import QType


class Flow:
    """From accept to close. `ended` is called exactly once."""

    def __init__(self, services: Services, guest: socket.socket, ended: Callable[["Flow"], None]) -> None:
        address, port = guest.getsockname()[:2]
        self._services = services
        self._guest = guest
        self._upstream: socket.socket | None = None
        self._destination = IPv4Address(address)
        self._port = int(port)
        self._tell_ended = ended
        self._started = services.reactor.now
        self._timer: Timer | None = None
        self._words = Peeker(services.reactor, self, guest, services.limits.sniff_bytes, self._peeked, self.cut)
        self._replay: Replay | None = None
        self._relay: SpliceRelay | ChannelRelay | None = None
        self._handshake: Handshake | None = None
        self._talk: Conversation | None = None
        self._bounds: Bounds | None = None
        self._waiting = False
        self._opaque = False
        self._over = False
        self.head = TcpHead(
            services.engine,
            services.leases,
            services.new_names,
            self._destination,
            self._port,
            ident=services.new_id(),
            now=self._started,
            sniffing=services.sniffing,
        )

    def start(self) -> None:
        """Begin."""
        if self._services.mediated:
            self._run(self.head.open())
        else:
            self._run([v.Dial(self._destination, self._port)])

    def apply_policy(self) -> None:
        """The policy has changed: decide by the new one, and end if it would not have let this through.

        A splice that would be intercepted now ends as well, since nobody can begin to read in its middle.
        """
        self.head.apply(self._services.engine)
        before, now = self.head.verdict, self.head.decide_again()
        if before is None or now is None:
            return
        unread = before.tls is Tls.PASSTHROUGH and now.tls is Tls.INTERCEPT
        if not now.allowed or unread:
            self.cut("policy_changed")

    def cut(self, why: str) -> None:
        """End it now, with a reset."""
        if self._relay is not None:
            self._relay.close(why, reset=True)
        elif self._upstream is not None:
            self._ended_after_allow(why, reset=True)
        else:
            self._end(reset=True)

    def abort(self, error: Exception) -> None:
        """Something here raised."""
        self._services.fault("flow", error)
        self.cut(f"fault: {type(error).__name__}")

    # --- effects

    def _tell(self, event: v.Event) -> None:
        if self._services.mediated:
            self._run(self.head.handle(event, self._services.reactor.now))
        else:
            self._run([v.Splice()] if isinstance(event, v.Dialed) else [v.Reset()])

    def _run(self, effects: list[v.Effect]) -> None:
        for effect in effects:
            if self._over:
                return
            match effect:
                case v.Write(record):
                    if not self._services.write(record):
                        self._end(reset=True)
                case v.Peek(seen, seconds):
                    self._peek(seen, seconds)
                case v.Resolve(name):
                    self._look_up(name)
                case v.Dial(address, port):
                    self._dial(str(address), port)
                case v.HangUp():
                    self._drop_upstream()
                case v.Answer(data):
                    self._answer(data)
                case v.Reset():
                    self._end(reset=True)
                case _:
                    self._go_on(effect)

    def _go_on(self, effect: v.Effect) -> None:
        """What follows the dial."""
        assert self._upstream is not None  # noqa: S101  (it was dialled)
        match effect:
            case v.AwaitFirstWord():
                self._await_first_word(self._upstream)
            case v.Replay() | v.Listen() | v.Return():
                self._replaying(self._upstream).carry_out(effect)
            case v.Cut(why):
                self.cut(why)
            case v.Splice():
                self._splice(self._upstream)
            case v.Inspect(name):
                talk = plain(self._services, self.head, self._port, name)
                self._join(PlainChannel(self._guest), PlainChannel(self._upstream), talk)
            case v.Intercept(name, alpn):
                self._intercept(self._upstream, name, alpn)

    # --- the guest's first bytes

    def _peek(self, seen: int, seconds: float) -> None:
        self._words.peek(seen)
        self._wait(seconds, lambda: self._tell(v.Waited()))

    def _peeked(self, data: bytes, ended: bool) -> None:
        self._stop_waiting()
        self._tell(v.Peeked(data, ended))

    def _pause(self) -> None:
        """Stop watching the guest: what it sends stays in the kernel."""
        self._stop_waiting()
        self._words.pause()

    # --- the upstream

    def _look_up(self, name: str) -> None:
        def told(answer: object) -> None:
            if not self._over:
                found = getattr(answer, "addresses", ())
                self._tell(v.Resolved(tuple(a for a in found if isinstance(a, IPv4Address))))

        self._services.resolver.lookup(name, QType.A, told)

    def _dial(self, address: str, port: int) -> None:
        self._pause()
        if self._services.mediated and is_own(address, port) and (instead := self.head.at_home()):
            self._run(instead)
            return
        try:
            self._upstream = sock = outgoing_socket()
            code = sock.connect_ex((address, port))
        except OSError as error:
            self._dial_failed(error.strerror or str(error))
            return
        if code not in (0, errno.EINPROGRESS):
            self._dial_failed(os.strerror(code))
            return
        self._services.reactor.watch(sock.fileno(), OUT, self._dialed, self)
        self._wait(self._services.limits.dial_seconds, lambda: self._dial_failed("timed out", late=True))

    def _dialed(self, _mask: int) -> None:
        assert self._upstream is not None  # noqa: S101  (it is what woke us)
        code = self._upstream.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self._dial_failed(os.strerror(code))
            return
        self._stop_waiting()
        for sock in (self._upstream, self._guest):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        pace(self._services.limits, self._upstream, self._guest)
        self._tell(v.Looped() if is_with_itself(self._upstream) else v.Dialed())

    def _dial_failed(self, error: str, *, late: bool = False) -> None:
        self._stop_waiting()
        self._drop_upstream()
        self._tell(v.DialFailed(error, late))

    def _await_first_word(self, upstream: socket.socket) -> None:
        self._waiting = True
        size = self._services.limits.sniff_bytes
        FirstWord(self._services.reactor, self, self._guest, upstream, size, self._spoken)
        self._bound_idling()

    def _bound_idling(self) -> None:
        """Before there is a relay, nothing moves."""
        if idle := self._services.limits.tcp_idle_seconds:
            self._wait(idle, lambda: self._exceeded("tcp_idle_seconds", idle))

    def _spoken(self, event: v.Event) -> None:
        self._waiting = False
        self._pause()
        self._tell(event)

    def _replaying(self, upstream: socket.socket) -> Replay:
        if self._replay is None:
            self._replay = Replay(self._services, self, self._guest, upstream, self._tell, self.cut)
            self._bound_idling()
        return self._replay

    def _drop_upstream(self, *, reset: bool = False) -> None:
        if self._upstream is not None:
            self._services.reactor.closing(self._upstream.fileno())
            close_socket(self._upstream, reset=reset)
            self._upstream = None

    # --- relays

    def _splice(self, upstream: socket.socket) -> None:
        services = self._services
        # Of a passthrough it is known that it is TLS, and whose.
        self._opaque = self.head.verdict is not None and self.head.verdict.tls is Tls.NONE
        self._stop_waiting()
        idle, so_far = services.limits.half_closed_seconds, self._so_far()
        relay = SpliceRelay(services.reactor, services.pipes, self._guest, upstream, self._ended, idle, so_far)
        self._relay = relay
        self._bound(relay)
        relay.start()

    def _join(self, guest: PlainChannel | TlsChannel, upstream: PlainChannel | TlsChannel, talk: Conversation) -> None:
        self._talk = talk
        services, idle = self._services, self._services.limits.half_closed_seconds
        relay = ChannelRelay(services.reactor, guest, upstream, talk, services.write, self._ended, idle)
        self._relay = relay
        self._bound(relay)
        relay.start()

    def _so_far(self) -> tuple[int, int]:
        """Bytes that went out and came in before a relay began."""
        return self._replay.stop() if self._replay is not None else (0, 0)

    def _bound(self, relay: SpliceRelay | ChannelRelay) -> None:
        self._bounds = Bounds(self._services.reactor, self._services.limits, relay, self._exceeded)

    def _exceeded(self, limit: str, most: int, reason: Reason = Reason.LIMIT_REACHED) -> None:
        self._services.write(records.cap_exceeded(*self.head.whose, limit, most, reason))
        relay = self._relay
        if limit != "tcp_idle_seconds" or not isinstance(relay, ChannelRelay) or not relay.give_up():
            self.cut(limit)

    def _intercept(self, upstream: socket.socket, name: str, alpn: tuple[str, ...]) -> None:
        services = self._services
        self._upstream = tls = services.upstream_tls.wrap(upstream, name, self._port, alpn, now=services.reactor.now)
        self._handshake = Handshake(
            self._services.reactor,
            self,
            tls,
            partial(self._upstream_shaken, name),
            partial(self._upstream_failed, tls),
            self._services.limits.tls_handshake_seconds,
            partial(services.upstream_tls.may_refuse, tls),
        )
        self._handshake.start()

    def _upstream_shaken(self, name: str, upstream: TlsChannel) -> None:
        services = self._services
        unfit = services.upstream_tls.shaken(upstream.tls)
        if unfit:
            self._upstream_failed(upstream.tls, Failure(f"certificate verify failed: {unfit}"))
            return
        if services.upstream_tls.asked_for_certificate(upstream.tls):
            services.write(records.upstream_error(*self.head.whose, "", asked=True))
        upstream.closing = lambda tls: services.upstream_tls.keep(tls, name, self._port, services.reactor.now)
        talk = inside_tls(services, self.head, self._port, name, upstream.alpn)
        self._with_guest(name, upstream.alpn, lambda guest: self._join(guest, upstream, talk), self._guest_failed)

    def _with_guest(
        self, name: str, protocol: str | None, done: Callable[[TlsChannel], None], failed: Callable[[Failure], None]
    ) -> None:
        context = self._services.leaves.for_name(name, protocol, now=self._services.reactor.now)
        if context is None:
            self._exceeded("leaf_mints_per_second", self._services.limits.leaf_mints_per_second, Reason.MINTS_EXCEEDED)
            return
        tls = context.wrap_socket(self._guest, server_side=True, do_handshake_on_connect=False)
        self._guest = tls
        seconds = self._services.limits.tls_handshake_seconds
        self._handshake = Handshake(self._services.reactor, self, tls, done, failed, seconds)
        self._handshake.start()

    def _upstream_failed(self, tls: ssl.SSLSocket, failure: Failure) -> None:
        """The server's certificate or handshake is no good: never hidden, and no byte of the guest's was sent."""
        asked = self._services.upstream_tls.asked_for_certificate(tls)
        self._drop_upstream()
        self._run(self.head.upstream_failed(failure.words, late=failure.late, asked=asked))

    def _guest_failed(self, failure: Failure) -> None:
        self._services.write(records.handshake_error(*self.head.whose, failure.words))
        self._ended_after_allow("the guest's handshake failed", reset=True)

    # --- ends

    def _answer(self, data: bytes) -> None:
        """A few words to the guest, in its own protocol, and the end."""
        self._pause()
        if self.head.proto == Proto.TLS:
            name, _, _ = self.head.whose
            protocol, words = ("h2", Http2Words(data)) if self.head.alpn == ("h2",) else ("http/1.1", Http1Words(data))
            self._with_guest(
                name, protocol, lambda channel: self._say(channel, words), lambda _error: self._end(reset=True)
            )
            return
        self._say(PlainChannel(self._guest), Http1Words(data))

    def _say(self, channel: PlainChannel | TlsChannel, words: LastWords) -> None:
        Goodbye(self._services.reactor, channel, words, self._end).start()

    def _wait(self, seconds: float, callback: Callable[[], None]) -> None:
        self._stop_waiting()
        self._timer = self._services.reactor.later(seconds, callback, self)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _end(self, *, reset: bool = False) -> None:
        """Close what is open; for flows that no relay has taken over."""
        if self._over:
            return
        self._over = True
        self._stop_waiting()
        if self._handshake is not None:
            self._handshake.stop()
        self._drop_upstream(reset=reset)
        self._services.reactor.closing(self._guest.fileno())
        close_socket(self._guest, reset=reset)
        self._tell_ended(self)

    def _ended_after_allow(self, why: str, *, reset: bool = False) -> None:
        self._write_close(why, *self._so_far())
        self._end(reset=reset)

    def _ended(self, why: str) -> None:
        """A relay is over, and has closed both sockets."""
        if self._over:
            return
        self._over = True
        relay = self._relay
        if self._bounds is not None:
            self._bounds.stop()
        if relay is not None:
            if isinstance(relay, ChannelRelay) and self._left_unsaid(relay, why):
                self._services.write(records.handshake_error(*self.head.whose, "the client closed without a word"))
            self._write_close(why, relay.bytes_out, relay.bytes_in)
        self._tell_ended(self)

    def _write_close(self, why: str, bytes_out: int, bytes_in: int) -> None:
        took = self._services.reactor.now - self._started
        ending = self.head.closed(why, bytes_out, bytes_in, took, opaque=self._unread)
        ending.fields["minted"] = self._services.leaves.minted()
        self._services.write(ending)

    @property
    def _unread(self) -> bool:
        """Whether it was relayed without being read, and is no passthrough."""
        return self._opaque or (isinstance(self._talk, InsideTls) and self._talk.opaque)

    def _left_unsaid(self, relay: ChannelRelay, why: str) -> bool:
        """Whether the guest has gone right after its TLS handshake, as clients do that compare the pin last."""
        silent = relay.bytes_out == 0 and self.head.proto == Proto.TLS
        return silent and not self._unread and why.startswith(("guest closed", "reset"))
