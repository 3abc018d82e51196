"""So many a second, and no more; what is over a limit is counted, and recorded once a second."""

from microagent.audit.record import Event, Record
from microagent.mediator.services import Services

_SECOND = 1.0


class Surplus:
    """What is over one limit of a workspace; `limit` is its name in `api.limits`, `most` its value."""

    def __init__(self, services: Services, limit: str, most: int) -> None:
        self._services = services
        self._limit = limit
        self._most = most
        self._count = 0

    def add(self) -> None:
        """One more."""
        self._count += 1
        if self._count == 1:
            self._services.reactor.later(_SECOND, self.settle)

    def settle(self) -> None:
        """Record what was only counted; what cannot be written now is tried again."""
        if not self._count:
            return
        fields = {"limit": self._limit, "max": self._most, "count": self._count}
        if self._services.write(Record(Event.CAP_EXCEEDED, fields)):
            self._count = 0
        else:
            self._services.reactor.later(_SECOND, self.settle)


class PerSecond:
    """One limit of a workspace, and what is over it."""

    def __init__(self, services: Services, limit: str, most: int) -> None:
        self._services = services
        self._most = most
        self._began = services.reactor.now
        self._taken = 0
        self.over = Surplus(services, limit, most)

    def take(self) -> bool:
        """Whether there is one left in this second."""
        now = self._services.reactor.now
        if now - self._began >= _SECOND:
            self._began, self._taken = now, 0
        if self._taken < self._most:
            self._taken += 1
            return True
        self.over.add()
        return False
