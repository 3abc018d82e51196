"""The operator's limits on one relayed connection (idling, bytes, rate; none by default), and rates of other things."""

import socket
import struct
from collections.abc import Callable
from typing import Protocol

from microagent.api.limits import Limits
from microagent.mediator.reactor import Reactor, Timer

# asm-generic/socket.h; the Python module has no name for it. The kernel paces TCP itself, so the relays need not.
_SO_MAX_PACING_RATE = 47
_LOOK_SECONDS = 1.0


class Counted(Protocol):
    """A relay."""

    @property
    def bytes_out(self) -> int:
        """Bytes to the server."""

    @property
    def bytes_in(self) -> int:
        """Bytes to the guest."""


class Bounds:
    """Looks at a relay each second; `exceeded(limit, its value)` is told once."""

    def __init__(self, reactor: Reactor, limits: Limits, relay: Counted, exceeded: Callable[[str, int], None]) -> None:
        self._reactor = reactor
        self._limits = limits
        self._relay = relay
        self._exceeded = exceeded
        self._total = 0
        self._moved = reactor.now
        self._timer: Timer | None = None
        if limits.tcp_idle_seconds or limits.connection_bytes:
            self._timer = reactor.later(_LOOK_SECONDS, self._look)

    def stop(self) -> None:
        """The relay is over."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        now, limits = self._reactor.now, self._limits
        total = self._relay.bytes_out + self._relay.bytes_in
        if total != self._total:
            self._total, self._moved = total, now
        if limits.connection_bytes and total > limits.connection_bytes:
            self._exceeded("connection_bytes", limits.connection_bytes)
        elif limits.tcp_idle_seconds and now - self._moved >= limits.tcp_idle_seconds:
            self._exceeded("tcp_idle_seconds", limits.tcp_idle_seconds)
        else:
            self._timer = self._reactor.later(_LOOK_SECONDS, self._look)


class Rate:
    """So many a second, and as many at once after a second without any."""

    __slots__ = ("_at", "_left", "_per_second")

    def __init__(self, per_second: int) -> None:
        self._per_second = per_second
        self._left = float(per_second)
        self._at = 0.0

    def take(self, now: float) -> bool:
        """Whether one more is within the rate at `now` (monotonic, seconds); then it counts."""
        self._left = min(self._per_second, self._left + (now - self._at) * self._per_second)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


def pace(limits: Limits, *socks: socket.socket) -> None:
    """Limit what each socket sends a second, if there is a limit (socket(7), tcp(7))."""
    if limits.connection_bytes_per_second:
        for sock in socks:
            rate = struct.pack("=Q", limits.connection_bytes_per_second)
            sock.setsockopt(socket.SOL_SOCKET, _SO_MAX_PACING_RATE, rate)
