"""Port 53, UDP and TCP: questions to any address arrive here, and are answered from the address that was asked."""

import contextlib
import socket
import struct
from collections.abc import Callable
from ipaddress import IPv4Address

from microagent.audit.record import Record
from microagent.flows.dns import DnsHead, Lookup, Reply, Write
from microagent.flows.dns import Effect as DnsEffect
from microagent.mediator.channel import close_socket
from microagent.mediator.rate import PerSecond
from microagent.mediator.reactor import IN, OUT, Timer
from microagent.mediator.services import Services
from microagent.wire.dns import truncate_to

_IP_PKTINFO = 8
_IP_ORIGDSTADDR = 20
_ANCILLARY = socket.CMSG_SPACE(16) * 2
# Datagrams handled in one turn before other descriptors get theirs.
_BATCH = 64
# RFC 7766 6.2.3 leaves the time to the server; stub resolvers ask and go.
_TCP_IDLE_SECONDS = 10.0
_TCP_CONNECTIONS = 64
# Answers that a TCP client has not taken; more than this and it is not reading.
_TCP_UNSENT = 256 * 1024


class DnsQuestion:
    """Carries out the effects of one head; `reply` sends to whoever asked."""

    def __init__(
        self, services: Services, rate: PerSecond, server: str, reply: Callable[[DnsHead, bytes], None]
    ) -> None:
        self._services = services
        self._rate = rate
        self._reply = reply
        self._head = DnsHead(
            services.engine,
            services.leases,
            services.new_names,
            server,
            ident=services.new_id(),
            search=services.search,
        )

    def ask(self, wire: bytes) -> None:
        """Begin with the guest's message."""
        if self._rate.take():
            self._run(self._head.ask_untrusted(wire, self._services.reactor.now))
        else:
            self._run(self._head.ask_too_much_untrusted(wire))

    def _run(self, effects: list[DnsEffect]) -> None:
        for effect in effects:
            match effect:
                case Write(record):
                    if not self._written(record):
                        self._run(self._head.unrecorded())
                        return
                case Lookup(name, qtype):
                    self._services.resolver.lookup(
                        name, qtype, lambda a: self._run(self._head.answered(a, self._services.reactor.now))
                    )
                case Reply(data):
                    with contextlib.suppress(OSError):  # a guest that went away, or whose queue is full, asks again
                        self._reply(self._head, data)

    def _written(self, record: Record) -> bool:
        return self._services.write(record)


class DnsUdp:
    """The datagram socket."""

    def __init__(self, services: Services, sock: socket.socket, rate: PerSecond) -> None:
        self._services = services
        self._rate = rate
        self._sock = sock

    def start(self) -> None:
        """Begin."""
        self._services.reactor.watch(self._sock.fileno(), IN, self._readable, self)

    def abort(self, error: Exception) -> None:
        """One datagram's surprise is not the next one's."""
        self._services.fault("dns", error)

    def _readable(self, _mask: int) -> None:
        for _ in range(_BATCH):
            try:
                wire, ancillary, _, guest = self._sock.recvmsg(4096, _ANCILLARY)
            except BlockingIOError:
                return
            server = _original_destination(ancillary)
            if server:
                DnsQuestion(self._services, self._rate, server, self._replier(server, guest)).ask(wire)

    def _replier(self, server: str, guest: tuple[str, int]) -> Callable[[DnsHead, bytes], None]:
        source = struct.pack("=I4s4s", 0, IPv4Address(server).packed, bytes(4))

        def reply(head: DnsHead, data: bytes) -> None:
            if head.query is not None:
                data = truncate_to(head.query, data, udp=True)
            self._sock.sendmsg([data], [(socket.SOL_IP, _IP_PKTINFO, source)], 0, guest)

        return reply


def _original_destination(ancillary: list[tuple[int, int, bytes]]) -> str:
    for level, kind, data in ancillary:
        if level == socket.SOL_IP and kind == _IP_ORIGDSTADDR:
            return socket.inet_ntoa(data[4:8])
    return ""


class DnsTcp:
    """The listener; each connection carries any number of questions, answered as they become known (RFC 7766)."""

    def __init__(self, services: Services, listener: socket.socket, rate: PerSecond) -> None:
        self._services = services
        self._rate = rate
        self._listener = listener
        self._open = 0

    def start(self) -> None:
        """Begin."""
        self._services.reactor.watch(self._listener.fileno(), IN, self._readable, self)

    def abort(self, error: Exception) -> None:
        """The listener goes on."""
        self._services.fault("dns", error)

    def _readable(self, _mask: int) -> None:
        with contextlib.suppress(BlockingIOError):
            sock, _ = self._listener.accept()
            sock.setblocking(False)
            if self._open >= _TCP_CONNECTIONS:
                close_socket(sock, reset=True)
                return
            self._open += 1
            _DnsConnection(self._services, self._rate, sock, self._closed).start()

    def _closed(self) -> None:
        self._open -= 1


class _DnsConnection:
    def __init__(self, services: Services, rate: PerSecond, sock: socket.socket, closed: Callable[[], None]) -> None:
        self._services = services
        self._rate = rate
        self._sock = sock
        self._server = sock.getsockname()[0]
        self._closed = closed
        self._received = bytearray()
        self._unsent = bytearray()
        self._idle: Timer | None = None
        self._over = False

    def start(self) -> None:
        self._watch()
        self._rest()

    def abort(self, error: Exception) -> None:  # noqa: ARG002  (the connection is gone, whatever it was)
        """It broke."""
        self._close()

    def _rest(self) -> None:
        if self._idle:
            self._idle.cancel()
        self._idle = self._services.reactor.later(_TCP_IDLE_SECONDS, self._close)

    def _watch(self) -> None:
        mask = IN | (OUT if self._unsent else 0)
        self._services.reactor.watch(self._sock.fileno(), mask, self._ready, self)

    def _ready(self, mask: int) -> None:
        if mask & OUT:
            self._flush()
        if not mask & ~OUT:
            return
        chunk = self._sock.recv(65536)
        if not chunk:
            self._close()
            return
        self._rest()
        self._received += chunk
        while not self._over and len(self._received) >= 2:
            end = 2 + int.from_bytes(self._received[:2], "big")
            if len(self._received) < end:
                return
            wire = bytes(self._received[2:end])
            del self._received[:end]
            DnsQuestion(self._services, self._rate, self._server, self._reply).ask(wire)

    def _reply(self, head: DnsHead, data: bytes) -> None:
        if self._over:
            return
        if head.query is not None:
            data = truncate_to(head.query, data, udp=False)
        self._unsent += struct.pack("!H", len(data)) + data
        if len(self._unsent) > _TCP_UNSENT:
            self._close()
            return
        self._flush()

    def _flush(self) -> None:
        with contextlib.suppress(BlockingIOError):
            sent = self._sock.send(self._unsent)
            del self._unsent[:sent]
        self._watch()

    def _close(self) -> None:
        if not self._over:
            self._over = True
            if self._idle:
                self._idle.cancel()
            self._services.reactor.forget(self._sock.fileno())
            close_socket(self._sock)
            self._closed()
