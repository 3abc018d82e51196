"""Opaque bytes between two sockets, moved by the kernel; this process never sees them.

How this works: `splice(2)` moves pages from a socket into a pipe and from the pipe into the other socket. Both
sockets are watched level-triggered, for what can be done now: a socket is watched for reading while the other one
takes what comes, and for writing while a pipe waits for it. So a wake-up moves one way, and ends with the first piece
that is not a large one: if more has come meanwhile the kernel says so, and asking it each time would cost a system call
for every message. No wake-up moves more than a share, so that other flows get their turn. Pipes are pooled: they
outlive short flows.

`splice(2)` never gets past TCP's urgent mark (telnet and FTP set it): it says that there is nothing, or that this is
the end. The one byte there is moved by hand, in its place in the stream.
"""

import contextlib
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Callable

from microagent.mediator.channel import broken, close_socket
from microagent.mediator.reactor import BROKEN, HANGUP, OUT, READ, Reactor, Timer

_MOVE_NONBLOCK = 0x01 | 0x02  # SPLICE_F_MOVE | SPLICE_F_NONBLOCK (splice(2))
_F_SETPIPE_SZ = 1031
_SIOCATMARK = 0x8905  # asm-generic/sockios.h
# Sixteen pages are the default; this is as much as an unprivileged process may ask for.
PIPE_SIZE = 1 << 20
# Bytes moved in one go before others get their turn.
_SHARE = 4 << 20
# After a piece as large as this the next one is probably there.
_LARGE = 1 << 16


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

    __slots__ = ("_sink", "_source", "ended", "held", "pipe", "shut", "sink", "source", "total")

    def __init__(self, source: socket.socket, sink: socket.socket, pipe: tuple[int, int]) -> None:
        self._source = source.fileno()
        self._sink = sink.fileno()
        self.source = source
        self.sink = sink
        self.pipe = pipe
        self.held = 0
        self.total = 0
        self.ended = False
        self.shut = False

    def move(self) -> None:
        """Move what there is, up to about a share."""
        moved = self._deliver() if self.held else 0
        got = _LARGE
        while got >= _LARGE and moved < _SHARE and not self.held and not self.ended:
            try:
                got = self._take()
            except BlockingIOError:
                break
            self.held = got
            self.ended = got == 0
            if got:
                moved += self._deliver()
        if self.ended and not self.held and not self.shut:
            self.shut = True
            self.sink.shutdown(socket.SHUT_WR)

    def _take(self) -> int:
        """Fill the empty pipe: how many bytes; 0 at the end of the stream. BlockingIOError when there are none now."""
        try:
            got = os.splice(self._source, self.pipe[1], PIPE_SIZE, flags=_MOVE_NONBLOCK)
        except BlockingIOError:
            if not self._at_mark():
                raise
            got = 0
        if got or not self._at_mark():
            return got
        return os.write(self.pipe[1], urgent) if (urgent := self.source.recv(1)) else 0

    def _at_mark(self) -> bool:
        return struct.unpack("i", fcntl.ioctl(self._source, _SIOCATMARK, bytes(4))) != (0,)

    def _deliver(self) -> int:
        """Send what the pipe holds; what stays is more than the sink takes now."""
        try:
            sent = os.splice(self.pipe[0], self._sink, self.held, flags=_MOVE_NONBLOCK)
        except BlockingIOError:
            return 0
        self.held -= sent
        self.total += sent
        return sent


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
        so_far: tuple[int, int],
    ) -> None:
        """`so_far`: bytes that went out and came in already."""
        self._reactor = reactor
        self._pipes = pipes
        self._guest = guest
        self._upstream = upstream
        self._closed = closed
        self._half_closed_seconds = half_closed_seconds
        self._guest_fd = guest.fileno()
        self._upstream_fd = upstream.fileno()
        self._guest_mask = self._upstream_mask = -1
        self._out = _Way(guest, upstream, pipes.take())
        self._in = _Way(upstream, guest, pipes.take())
        self._out.total, self._in.total = so_far
        self._first = self._out if so_far == (0, 0) else self._in
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
        """Begin, with what is there already: the guest's first words, or the answer to them."""
        try:
            self._first.move()
        except OSError as error:
            self.abort(error)
            return
        self._watch()

    def close(self, why: str, *, reset: bool = False) -> None:
        """End it now; `closed` is told once."""
        if self._over:
            return
        self._over = True
        if self._half_closed:
            self._half_closed.cancel()
        for sock in (self._guest, self._upstream):
            self._reactor.closing(sock.fileno())
            close_socket(sock, reset=reset)
        for way in (self._out, self._in):
            self._pipes.give(way.pipe, empty=way.held == 0)
        self._closed(why)

    def abort(self, error: Exception) -> None:
        """A socket broke, most likely: the other side sees a reset too."""
        self.close(broken(error), reset=True)

    def _guest_ready(self, mask: int) -> None:
        self._ready(self._guest_fd, mask, self._out, self._in)

    def _upstream_ready(self, mask: int) -> None:
        self._ready(self._upstream_fd, mask, self._in, self._out)

    def _ready(self, fd: int, mask: int, away: _Way, towards: _Way) -> None:
        """The source of `away`, which is the sink of `towards`, is ready for something."""
        if not (away.ended or away.held):
            if mask & ~OUT:
                away.move()
        elif mask & BROKEN:
            raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
        elif mask & HANGUP and not mask & OUT:
            # Over both ways, while its last bytes wait for the other side: the kernel would say so again and again.
            self._reactor.forget(fd)
            return
        if mask & OUT and towards.held:
            towards.move()
        self._watch()

    def _watch(self) -> None:
        """Watch each side for what can be done with it now; end when both ways have ended."""
        out, back = self._out, self._in
        if out.shut or back.shut:
            if out.shut and back.shut:
                self.close("closed")
                return
            if self._half_closed is None:
                self._wait_for_the_other_half(out.total + back.total)
        guest, upstream = _possible(out, back), _possible(back, out)
        if guest != self._guest_mask:
            self._guest_mask = guest
            self._reactor.watch(self._guest_fd, guest, self._guest_ready, self)
        if upstream != self._upstream_mask:
            self._upstream_mask = upstream
            self._reactor.watch(self._upstream_fd, upstream, self._upstream_ready, self)

    def _wait_for_the_other_half(self, total: int) -> None:
        """A half-closed connection may stay as long as bytes move."""

        def check() -> None:
            now = self._out.total + self._in.total
            if now == total:
                self.close("half-closed and idle", reset=True)
            else:
                self._wait_for_the_other_half(now)

        self._half_closed = self._reactor.later(self._half_closed_seconds, check)


def _possible(away: _Way, towards: _Way) -> int:
    """What the source of `away`, which is the sink of `towards`, is watched for: what can be done with it now."""
    mask = 0 if away.ended or away.held else READ
    return mask | OUT if towards.held else mask
