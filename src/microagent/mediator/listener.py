"""The socket that every guest TCP connection arrives on, whatever its destination; and the flows that live."""

import errno
import socket

from microagent.mediator.channel import close_socket, keep_in_place
from microagent.mediator.flow import Flow
from microagent.mediator.rate import Surplus
from microagent.mediator.reactor import IN
from microagent.mediator.services import Services

_BATCH = 64
_BACK_OFF_SECONDS = 0.2


class Listener:
    """Accepts, counts, and ends flows."""

    def __init__(self, services: Services, sock: socket.socket) -> None:
        self._services = services
        self._sock = sock
        self._flows: set[Flow] = set()
        self._turned_away = Surplus(services, "connections", services.limits.connections)

    def start(self) -> None:
        """Begin."""
        self._services.reactor.watch(self._sock.fileno(), IN, self._acceptable, self)

    def close(self, why: str) -> None:
        """End every flow."""
        self._services.reactor.forget(self._sock.fileno())
        for flow in tuple(self._flows):
            flow.cut(why)
        self._turned_away.settle()

    def apply_policy(self) -> None:
        """End the flows that the policy of now would refuse; touch no other."""
        for flow in tuple(self._flows):
            flow.apply_policy()

    def abort(self, error: Exception) -> None:
        """Out of descriptors, most likely: leave the others to finish, then go on."""
        self._services.fault("accept", error)
        self._services.reactor.forget(self._sock.fileno())
        self._services.reactor.later(_BACK_OFF_SECONDS, self.start)

    def _acceptable(self, _mask: int) -> None:
        for _ in range(_BATCH):
            try:
                guest, _ = self._sock.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.ECONNABORTED, errno.EPROTO):
                    continue  # the guest was gone before we came
                raise
            guest.setblocking(False)
            keep_in_place(guest)
            if len(self._flows) >= self._services.limits.connections:
                self._turn_away(guest)
                continue
            self._begin(guest)

    def _begin(self, guest: socket.socket) -> None:
        flow = Flow(self._services, guest, self._flows.discard)
        self._flows.add(flow)
        try:
            flow.start()
        except Exception as error:  # noqa: BLE001  (this flow's surprise, not the listener's)
            flow.abort(error)

    def _turn_away(self, guest: socket.socket) -> None:
        close_socket(guest, reset=True)
        self._turned_away.add()
