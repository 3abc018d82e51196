"""Opaque bytes between two sockets, moved by the kernel; this process never sees them.

How this works: `splice(2)` moves pages from a socket into a pipe and from the pipe into the other socket. Both
sockets are watched edge-triggered for both directions, so each wake-up moves until the kernel says EAGAIN on one
side, but not more than a share, so that other flows get their turn. Pipes are pooled: they outlive short flows.
"""

import contextlib
import fcntl
import os
import socket
from collections.abc import Callable

from microagent.mediator.channel import broken, close_socket
from microagent.mediator.reactor import BOTH, Reactor, Timer

_MOVE_NONBLOCK = 0x01 | 0x02  # SPLICE_F_MOVE | SPLICE_F_NONBLOCK (splice(2))
_F_SETPIPE_SZ = 1031
# Sixteen pages are the default; this is as much as an unprivileged process may ask for.
PIPE_SIZE = 1 << 20
# Bytes moved in one go before others get their turn.
_SHARE = 4 << 20


class PipePool:
    """Empty pipes, kept for the next flow."""

    def __init__(self, keep: int = 64) -> None:
        self._free: list[tuple[int, int]] = []
        self._keep = keep

    def take(self) -> tuple[int, int]:
        """A pipe: (read end, write end)."""
        if self._free:
            return self._free.pop()
        pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        # The per-user limit on pipe memory (pipe-user-pages-soft) makes this fail; the default size works as well.
        with contextlib.suppress(OSError):
            fcntl.fcntl(pipe[1], _F_SETPIPE_SZ, PIPE_SIZE)
        return pipe

    def give(self, pipe: tuple[int, int], *, empty: bool) -> None:
        """Take it back; one with bytes left in it is closed."""
        if empty and len(self._free) < self._keep:
            self._free.append(pipe)
        else:
            os.close(pipe[0])
            os.close(pipe[1])


class _Way:
    """One direction."""

    __slots__ = ("ended", "held", "pipe", "shut", "sink", "source", "total")

    def __init__(self, source: socket.socket, sink: socket.socket, pipe: tuple[int, int]) -> None:
        self.source = source
        self.sink = sink
        self.pipe = pipe
        self.held = 0
        self.total = 0
        self.ended = False
        self.shut = False

    def move(self, share: int) -> int:
        """Move up to about `share` bytes; returns how many reached the sink."""
        moved = 0
        source, sink = self.source.fileno(), self.sink.fileno()
        while moved < share:
            progress = False
            if not self.ended and self.held < PIPE_SIZE:
                try:
                    got = os.splice(source, self.pipe[1], PIPE_SIZE - self.held, flags=_MOVE_NONBLOCK)
                except BlockingIOError:
                    pass  # nothing there, or the pipe is full of small pieces
                else:
                    self.held += got
                    self.ended = got == 0
                    progress = True
            if self.held:
                try:
                    sent = os.splice(self.pipe[0], sink, self.held, flags=_MOVE_NONBLOCK)
                except BlockingIOError:
                    return moved
                self.held -= sent
                self.total += sent
                moved += sent
                progress = True
            if self.ended and not self.held and not self.shut:
                self.shut = True
                self.sink.shutdown(socket.SHUT_WR)
            if not progress or self.shut:
                return moved
        return moved


class SpliceRelay:
    """Both directions between guest and upstream, until both have ended or one broke."""

    def __init__(
        self,
        reactor: Reactor,
        pipes: PipePool,
        guest: socket.socket,
        upstream: socket.socket,
        closed: Callable[[str], None],
        half_closed_seconds: float,
    ) -> None:
        self._reactor = reactor
        self._pipes = pipes
        self._guest = guest
        self._upstream = upstream
        self._closed = closed
        self._half_closed_seconds = half_closed_seconds
        self._out = _Way(guest, upstream, pipes.take())
        self._in = _Way(upstream, guest, pipes.take())
        self._half_closed: Timer | None = None
        self._over = False

    @property
    def bytes_out(self) -> int:
        """Bytes that reached the upstream."""
        return self._out.total

    @property
    def bytes_in(self) -> int:
        """Bytes that reached the guest."""
        return self._in.total

    def start(self) -> None:
        """Begin. What waits already is reported at once: registering edge-triggered does that."""
        self._reactor.watch(self._guest.fileno(), BOTH, self._ready, self)
        self._reactor.watch(self._upstream.fileno(), BOTH, self._ready, self)

    def close(self, why: str, *, reset: bool = False) -> None:
        """End it now; `closed` is told once."""
        if self._over:
            return
        self._over = True
        if self._half_closed:
            self._half_closed.cancel()
        for sock in (self._guest, self._upstream):
            self._reactor.forget(sock.fileno())
            close_socket(sock, reset=reset)
        for way in (self._out, self._in):
            self._pipes.give(way.pipe, empty=way.held == 0)
        self._closed(why)

    def abort(self, error: Exception) -> None:
        """A socket broke, most likely: the other side sees a reset too."""
        self.close(broken(error), reset=True)

    def _ready(self, _mask: int) -> None:
        self._pump()

    def _pump(self) -> None:
        if self._over:
            return
        busy = self._out.move(_SHARE) >= _SHARE
        busy |= self._in.move(_SHARE) >= _SHARE
        if self._out.shut and self._in.shut:
            self.close("closed")
        elif busy:
            self._reactor.soon(self._pump, self)
        elif (self._out.shut or self._in.shut) and self._half_closed is None:
            self._wait_for_the_other_half(self._out.total + self._in.total)

    def _wait_for_the_other_half(self, total: int) -> None:
        """A half-closed connection may stay as long as bytes move."""

        def check() -> None:
            now = self._out.total + self._in.total
            if now == total:
                self.close("half-closed and idle", reset=True)
            else:
                self._wait_for_the_other_half(now)

        self._half_closed = self._reactor.later(self._half_closed_seconds, check)
