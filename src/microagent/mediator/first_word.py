"""Who speaks first on a connection that was dialled while its guest was silent."""

import socket
from collections.abc import Callable

from microagent.flows.vocabulary import Event, Peeked, ServerSpoke
from microagent.mediator.reactor import IN, Owner, Reactor


class FirstWord:
    """Watches both ends; `tell` is called once, with what the guest has said (still unread) or `ServerSpoke`."""

    def __init__(
        self,
        reactor: Reactor,
        owner: Owner,
        guest: socket.socket,
        upstream: socket.socket,
        size: int,
        tell: Callable[[Event], None],
    ) -> None:
        """`size` bytes of the guest's are looked at."""
        self._reactor = reactor
        self._guest = guest
        self._upstream = upstream
        self._size = size
        self._tell = tell
        reactor.watch(guest.fileno(), IN, self._guest_spoke, owner)
        reactor.watch(upstream.fileno(), IN, lambda _mask: self._server_spoke(upstream), owner)

    def _guest_spoke(self, _mask: int) -> None:
        data = self._guest.recv(self._size, socket.MSG_PEEK)
        self._spoken(Peeked(data, ended=not data))

    def _server_spoke(self, upstream: socket.socket) -> None:
        self._spoken(ServerSpoke(upstream.recv(self._size, socket.MSG_PEEK)))

    def _spoken(self, event: Event) -> None:
        for end in (self._guest, self._upstream):
            self._reactor.forget(end.fileno())
        self._tell(event)
