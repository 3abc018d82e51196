"""Denials in a flood: the first of a second have a record each, the rest one together, with their exact number.

A guest is told as fast as it asks; writing all of it down would push the rest of the log out by rotation. An allow is
never counted together with others.
"""

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from microagent.audit.record import Event, Record
from microagent.flows.records import refused_together
from microagent.mediator.reactor import Reactor

_SECOND = 1.0
# A record each, every second. At about 450 bytes, a guest that does nothing but be refused writes 50 kB a second.
_EACH = 100
DENIALS = frozenset(
    {
        Event.DENY,
        Event.INTERNAL_DENY,
        Event.UDP_DENY,
        Event.UDP_INTERNAL_DENY,
        Event.DNS_DENY,
        Event.LOOP_GUARD,
    }
)


class _Kind(NamedTuple):
    event: Event
    proto: str
    reason: str
    internal: bool


class Denials:
    """Counts those that are too many; `append` writes a record and says whether it could."""

    def __init__(self, reactor: Reactor, append: Callable[[Record], bool]) -> None:
        self._reactor = reactor
        self._append = append
        self._began = reactor.now
        self._taken = 0
        self._over: Counter[_Kind] = Counter()

    def take(self, record: Record) -> bool:
        """Whether this denial is to have a record of its own; else it is counted."""
        fields = record.fields
        if "aggregated" in fields:
            return True
        now = self._reactor.now
        if now - self._began >= _SECOND:
            self._began, self._taken = now, 0
        if self._taken < _EACH:
            self._taken += 1
            return True
        if not self._over:
            self._reactor.later(_SECOND, self.settle)
        reason, proto = str(fields.get("reason", "")), str(fields.get("proto", ""))
        self._over[_Kind(record.event, proto, reason, bool(fields.get("internal")))] += 1
        return False

    def settle(self) -> None:
        """Record what was only counted; what cannot be written now is tried again."""
        for kind, count in tuple(self._over.items()):
            if self._append(refused_together(kind.event, kind.proto, count, kind.reason, internal=kind.internal)):
                del self._over[kind]
        if self._over:
            self._reactor.later(_SECOND, self.settle)
