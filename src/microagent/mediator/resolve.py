"""Asking the host's own resolvers, and keeping what they said for as long as they allowed.

Each question goes out on a socket of its own, connected to the resolver: a random port and a random id, and the
kernel drops what comes from anywhere else (RFC 5452). What does not match the question is passed over; a truncated
answer is asked for again over TCP. Within the limit (five seconds) there is an answer, or
there is none: no other resolver is ever tried.
"""

import contextlib
import secrets
import socket
import struct
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple, TypeAlias

from microagent.errors import Malformed
from microagent.mediator.reactor import HANGUP, IN, OUT, Reactor, Timer
from microagent.wire.dns import Answer, Rcode, build_upstream_query, parse_response_untrusted

Told: TypeAlias = Callable[[Answer | None], None]
Fault: TypeAlias = Callable[[str, Exception], None]

# The guest must have its SERVFAIL within the limit, so the last resolver gets a little less.
_MARGIN_SECONDS = 0.5
_ATTEMPT_SECONDS = 1.5
# A guest's libc gives up after one second (contract 6): when the first resolver is silent, the second one's answer must
# still be of use. Where there is no other, nothing is gained by asking again so soon.
_HASTY_SECONDS = 0.5
_CACHE_ENTRIES = 4096
# An answer may have 64 KiB, and whoever owns a zone answers with as much: what is kept is bounded in bytes as well.
_CACHE_BYTES = 16 << 20
_RECORD_BYTES = 256  # besides its name and data, in Python
# An answer that says TTL 0 is still shared by questions that come together.
_LEAST_SECONDS = 1.0
_MOST_SECONDS = 86400.0
_TRUNCATED = 0x02  # in the third byte of a message


class Resolver:
    """Lookups with a cache of its own; one workspace never sees another's."""

    def __init__(self, reactor: Reactor, servers: tuple[str, ...], fault: Fault, seconds: float) -> None:
        """An answer, or that there is none, comes within `seconds`."""
        self._reactor = reactor
        self._fault = fault
        self.servers = servers
        self.seconds = seconds
        self._cache: OrderedDict[tuple[str, int], tuple[float, Answer]] = OrderedDict()
        self._cached_bytes = 0
        self._running: dict[tuple[str, int], list[Told]] = {}

    def lookup(self, name: str, qtype: int, told: Told) -> None:
        """Tell `told` the answer, at once when it is known; None when no resolver answered."""
        key = (name, qtype)
        known = self._cache.get(key)
        if known is not None and known[0] > self._reactor.now:
            expires, answer = known
            left = int(expires - self._reactor.now)
            if answer.min_ttl != left:
                answer = replace(answer, min_ttl=left)
                self._cache[key] = (expires, answer)
            told(answer)
            return
        waiting = self._running.setdefault(key, [])
        waiting.append(told)
        if len(waiting) == 1:
            _Lookup(self, self._reactor, name, qtype, lambda answer: self._finished(key, answer)).next()

    def fault(self, error: Exception) -> None:
        """A surprise that no resolver can be blamed for."""
        self._fault("resolve", error)

    def _finished(self, key: tuple[str, int], answer: Answer | None) -> None:
        if answer is not None:
            self._keep(key, answer)
        for told in self._running.pop(key):
            told(answer)

    def _keep(self, key: tuple[str, int], answer: Answer) -> None:
        """In the place of what was known before; what was learnt longest ago goes when there is too much."""
        lifetime = min(max(float(answer.min_ttl), _LEAST_SECONDS), _MOST_SECONDS)
        if before := self._cache.pop(key, None):
            self._cached_bytes -= _bytes_of(before[1])
        self._cache[key] = (self._reactor.now + lifetime, answer)
        self._cached_bytes += _bytes_of(answer)
        while len(self._cache) > _CACHE_ENTRIES or self._cached_bytes > _CACHE_BYTES:
            self._cached_bytes -= _bytes_of(self._cache.popitem(last=False)[1][1])


def _bytes_of(answer: Answer) -> int:
    return sum(_RECORD_BYTES + len(record.owner) + len(record.rdata) for record in answer.records)


class _Attempt(NamedTuple):
    server: str
    seconds: float = _ATTEMPT_SECONDS
    tcp: bool = False
    edns: bool = True


class _Lookup:
    """One question on its way through the resolvers."""

    def __init__(self, resolver: Resolver, reactor: Reactor, name: str, qtype: int, told: Told) -> None:
        self._resolver = resolver
        self._reactor = reactor
        hasty = _HASTY_SECONDS if len(resolver.servers) > 1 else _ATTEMPT_SECONDS
        rounds = (hasty, _ATTEMPT_SECONDS)
        self._attempts = [_Attempt(server, seconds) for seconds in rounds for server in resolver.servers]
        self._name = name
        self._qtype = qtype
        self._told = told
        self._deadline = reactor.now + resolver.seconds - _MARGIN_SECONDS
        self._sock: socket.socket | None = None
        self._timer: Timer | None = None
        self._ident = 0
        self._received = bytearray()

    def next(self) -> None:
        """Try the next resolver."""
        self._close()
        if not self._attempts or self._reactor.now >= self._deadline:
            self._finish(None)
            return
        attempt = self._attempts.pop(0)
        patience = min(attempt.seconds, self._deadline - self._reactor.now)
        self._ident = secrets.randbelow(1 << 16)
        self._timer = self._reactor.later(patience, self.next)
        try:
            query = build_upstream_query(self._ident, self._name, self._qtype, edns=attempt.edns)
            self._send(attempt, query)
        except OSError:
            # Never from inside `lookup`'s own call stack: a refused send would recurse through every resolver.
            self._timer.cancel()
            self._timer = self._reactor.later(0.0, self.next)

    def _send(self, attempt: _Attempt, query: bytes) -> None:
        server, tcp = attempt.server, attempt.tcp
        family = socket.AF_INET6 if ":" in server else socket.AF_INET
        kind = socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM
        self._sock = sock = socket.socket(family, kind | socket.SOCK_NONBLOCK)
        self._received.clear()
        # With its interface's number still in the text, Python would have it looked up, which is refused here.
        host, _, interface = server.partition("%")
        with contextlib.suppress(BlockingIOError):
            sock.connect((host, 53, 0, int(interface or 0)) if ":" in server else (host, 53))
        if tcp:
            message = struct.pack("!H", len(query)) + query
            self._reactor.watch(sock.fileno(), OUT, lambda mask: self._tcp_connected(mask, message), self)
        else:
            sock.send(query)
            self._reactor.watch(sock.fileno(), IN, lambda _mask: self._datagram(attempt), self)

    def abort(self, error: Exception) -> None:
        """A socket broke: the next resolver may do better."""
        if not isinstance(error, OSError):
            self._resolver.fault(error)
        self.next()

    def _datagram(self, attempt: _Attempt) -> None:
        assert self._sock is not None  # noqa: S101  (it is what woke us)
        try:
            data = self._sock.recv(65535)
        except BlockingIOError:
            return
        if len(data) > 2 and data[2] & _TRUNCATED:
            self._attempts.insert(0, _Attempt(attempt.server, tcp=True, edns=attempt.edns))
            self.next()
            return
        if (
            attempt.edns
            and len(data) > 3
            and data[3] & 15 == Rcode.FORMERR
            and data[:2] == self._ident.to_bytes(2, "big")
        ):
            # What a home router's resolver without EDNS answers, often without the question (RFC 6891 section 7).
            self._attempts.insert(0, attempt._replace(edns=False))
            self.next()
            return
        self._read_untrusted(data, last=False)

    def _tcp_connected(self, mask: int, message: bytes) -> None:
        assert self._sock is not None  # noqa: S101  (it is what woke us)
        if mask & HANGUP:
            self.next()
            return
        self._sock.send(message)
        self._reactor.watch(self._sock.fileno(), IN, self._tcp_readable, self)

    def _tcp_readable(self, _mask: int) -> None:
        assert self._sock is not None  # noqa: S101  (it is what woke us)
        chunk = self._sock.recv(65537)
        if not chunk:
            self.next()
            return
        self._received += chunk
        if len(self._received) >= 2:
            end = 2 + int.from_bytes(self._received[:2], "big")
            if len(self._received) >= end:
                self._read_untrusted(bytes(self._received[2:end]), last=True)

    def _read_untrusted(self, data: bytes, *, last: bool) -> None:
        try:
            answer = parse_response_untrusted(data, self._name, self._qtype, self._ident)
        except Malformed:
            # A datagram that is not our answer may have been sent to keep the real one out: go on waiting.
            if last:
                self.next()
            return
        if answer.rcode not in (0, 3):
            self.next()  # this resolver cannot; another may
            return
        self._finish(answer)

    def _finish(self, answer: Answer | None) -> None:
        self._close()
        self._told(answer)

    def _close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._sock is not None:
            self._reactor.forget(self._sock.fileno())
            self._sock.close()
            self._sock = None
