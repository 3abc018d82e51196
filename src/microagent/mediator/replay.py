"""A ClientHello on its way to the server, and what the server says to it, before anything else of the guest's goes on.

The first bytes are few, and copied; `splice` takes over when the head has seen how the server begins.
"""

import errno
import os
import socket
from collections.abc import Callable

from microagent.flows import vocabulary as v
from microagent.mediator.channel import broken
from microagent.mediator.reactor import BROKEN, OUT, RDHUP, READ, Owner, Timer
from microagent.mediator.services import Services

# As much of an answer as tells a request for another hello from everything else.
_GLANCE = 64


class Replay:
    """Carries out `Replay`, `Listen` and `Return`; `tell` hears of the answer, `lost` why there will be none."""

    def __init__(
        self,
        services: Services,
        owner: Owner,
        guest: socket.socket,
        upstream: socket.socket,
        tell: Callable[[v.Event], None],
        lost: Callable[[str], None],
    ) -> None:
        self._reactor = services.reactor
        self._limits = services.limits
        self._owner = owner
        self._guest = guest
        self._upstream = upstream
        self._tell = tell
        self._lost = lost
        self._rest = memoryview(b"")
        self._most = _GLANCE
        self._half_closed: Timer | None = None
        self.bytes_out = 0
        self.bytes_in = 0

    def carry_out(self, effect: v.Replay | v.Listen | v.Return) -> None:
        """Do as it says."""
        match effect:
            case v.Replay(size):
                self._send(size)
            case v.Listen(seen):
                self._listen(seen)
            case v.Return(size):
                self._give_back(size)

    def stop(self) -> tuple[int, int]:
        """Somebody else goes on; how many bytes went out, and came in."""
        if self._half_closed is not None:
            self._half_closed.cancel()
        if self._most > _GLANCE:
            self._wake_above(0)
        return self.bytes_out, self.bytes_in

    def _send(self, size: int) -> None:
        try:
            # They have been looked at, so they are all there.
            self._rest = memoryview(self._guest.recv(size))
        except OSError as error:
            self._lost(broken(error))
            return
        self._reactor.watch(self._guest.fileno(), RDHUP, self._guest_left, self._owner)
        self._go_on(0)

    def _listen(self, seen: int) -> None:
        self._most = self._limits.sniff_bytes
        self._wake_above(seen)

    def _wake_above(self, seen: int) -> None:
        # The kernel wakes us only when there is more than what was seen already.
        self._upstream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, seen + 1)

    def _give_back(self, size: int) -> None:
        # What else it says stays in the kernel.
        self._reactor.forget(self._upstream.fileno())
        try:
            self.bytes_in += self._guest.send(self._upstream.recv(size))
        except OSError as error:
            self._lost(broken(error))
            return
        if self.bytes_in < size:
            # Nothing was sent to it before, so it has said that it takes next to nothing.
            self._lost("the guest does not take the server's answer")

    def _go_on(self, _mask: int) -> None:
        try:
            sent = self._upstream.send(self._rest)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._lost(broken(error))
            return
        self.bytes_out += sent
        self._rest = self._rest[sent:]
        if self._rest:
            self._reactor.watch(self._upstream.fileno(), OUT, self._go_on, self._owner)
        else:
            self._reactor.watch(self._upstream.fileno(), READ, self._answered, self._owner)

    def _guest_left(self, mask: int) -> None:
        """It sends no more. Its answer may still come; it has waited as long as any half-closed connection may."""
        if mask & BROKEN:
            self._lost(broken(ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))))
            return
        self._reactor.watch(self._guest.fileno(), 0, self._guest_left, self._owner)
        self._half_closed = self._reactor.later(
            self._limits.half_closed_seconds, lambda: self._lost("half-closed and idle")
        )

    def _answered(self, _mask: int) -> None:
        try:
            data = self._upstream.recv(self._most, socket.MSG_PEEK)
        except OSError as error:
            self._lost(broken(error))
            return
        self._tell(v.ServerSpoke(data))
