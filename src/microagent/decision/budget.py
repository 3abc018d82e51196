"""How many new names a guest may ask for under one domain: what slows a DNS tunnel down. Pure.

How this works: whoever owns a domain sees every name that is asked for below it, so each new name carries some 200
bytes out, allowed suffix or not. Programs ask for the same few names again and again; tunnels never do. So names that
were asked for before are free, and new ones draw on a bucket of their domain that fills by the minute.
"""

from collections import OrderedDict
from heapq import nlargest
from typing import Final

from microagent.policy.model import Entry, Kind
from microagent.policy.suffixes import registered_domain

# The ones used longest ago go first, and count as new again.
_NAMES: Final = 4096
# The ones that have spent least go first: else a guest could ask below so many others, and have all its names anew.
_DOMAINS: Final = 1024


class NewNames:
    """The buckets of one workspace. Times are seconds on one clock of the caller's, which must not go backwards."""

    def __init__(self, per_minute: int) -> None:
        """A domain may have `per_minute` new names at once, and as many again for each minute that passes."""
        self._most = float(per_minute)
        self._names: OrderedDict[str, None] = OrderedDict()
        self._buckets: dict[str, tuple[float, float]] = {}  # what is left, and as of when

    def may_ask(self, rule: Entry | None, name: str, now: float) -> bool:
        """Whether `name`, which `rule` allows (None: no entry does), may be looked up; then it counts."""
        domain = _domain(rule, name)
        return not domain or self.take(domain, name, now)

    def take(self, domain: str, name: str, now: float) -> bool:
        """Whether `name`, which is below `domain`, may be asked for."""
        if name in self._names:
            self._names.move_to_end(name)
            return True
        left = self._left(domain, now)
        enough = left >= 1.0
        self._buckets[domain] = (left - 1.0 if enough else left, now)
        if len(self._buckets) > _DOMAINS:
            self._make_room(now)
        if enough:
            self._names[name] = None
            if len(self._names) > _NAMES:
                self._names.popitem(last=False)
        return enough

    def _left(self, domain: str, now: float) -> float:
        left, since = self._buckets.get(domain, (self._most, now))
        return min(self._most, left + (now - since) * self._most / 60.0)

    def _make_room(self, now: float) -> None:
        """Forget the fullest ones, many at once, since to find them all have to be looked at."""
        for domain in nlargest(_DOMAINS // 8, self._buckets, key=lambda domain: self._left(domain, now)):
            del self._buckets[domain]


def _domain(rule: Entry | None, name: str) -> str:
    """Whose owner sees the name: the suffix that allows it, or what was registered; "" for a name that stands alone."""
    if rule is not None and rule.kind is Kind.EXACT:
        return ""
    domain = rule.text[1:] if rule is not None and rule.kind is Kind.SUFFIX else registered_domain(name)
    return "" if domain == name else domain
