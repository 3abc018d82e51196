"""So many a second, and no more; what is over is counted, and recorded once a second."""

from microagent.audit.record import Event, Record
from microagent.mediator.services import Services

_SECOND = 1.0


class PerSecond:
    """One limit of a workspace; `limit` is its name in `api.limits`, `most` its value."""

    def __init__(self, services: Services, limit: str, most: int) -> None:
        self._services = services
        self._limit = limit
        self._most = most
        self._began = services.reactor.now
        self._taken = 0
        self._over = 0

    def take(self) -> bool:
        """Whether there is one left in this second."""
        now = self._services.reactor.now
        if now - self._began >= _SECOND:
            self._began, self._taken = now, 0
        if self._taken < self._most:
            self._taken += 1
            return True
        self._over += 1
        if self._over == 1:
            self._services.reactor.later(_SECOND, self._record)
        return False

    def _record(self) -> None:
        fields = {"limit": self._limit, "max": self._most, "count": self._over}
        self._over = 0
        self._services.write(Record(Event.CAP_EXCEEDED, fields))
