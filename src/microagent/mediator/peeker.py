"""What a side has sent, looked at while it stays in the kernel."""

import socket
from collections.abc import Callable

from microagent.mediator.channel import broken
from microagent.mediator.reactor import HANGUP, IN, ONESHOT, Owner, Reactor


class Peeker:
    """Tells `(bytes from the first unread one on, whether no more will come)`, once for each time it is asked."""

    def __init__(
        self,
        reactor: Reactor,
        owner: Owner,
        sock: socket.socket,
        size: int,
        tell: Callable[[bytes, bool], None],
        lost: Callable[[str], None],
    ) -> None:
        """`size` bytes are looked at; `lost` is told why there is nothing to look at any more."""
        self._reactor = reactor
        self._owner = owner
        self._sock = sock
        self._size = size
        self._tell = tell
        self._lost = lost
        self._seen = 0
        self._least = 1
        self._watching = False

    def peek(self, seen: int) -> None:
        """Tell when there are more than `seen` bytes, or an end."""
        self._seen = seen
        # The kernel wakes us only when there is more than what was seen already.
        self._wake_above(seen)
        self._watch()

    def pause(self) -> None:
        """Stop watching: what is sent stays in the kernel."""
        if self._watching:
            self._watching = False
            self._reactor.forget(self._sock.fileno())
        self._wake_above(0)

    def _watch(self) -> None:
        # Once: what is there stays unread, and the kernel would report it again and again.
        self._watching = True
        self._reactor.watch(self._sock.fileno(), IN | ONESHOT, self._ready, self._owner)

    def _ready(self, mask: int) -> None:
        self._watching = False
        try:
            data = self._sock.recv(self._size, socket.MSG_PEEK)
        except BlockingIOError:
            self._watch()
            return
        except OSError as error:
            self._lost(broken(error))
            return
        self._wake_above(0)
        self._tell(data, not data or bool(mask & HANGUP and len(data) == self._seen))

    def _wake_above(self, seen: int) -> None:
        if seen + 1 != self._least:
            self._least = seen + 1
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, self._least)
