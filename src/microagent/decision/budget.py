"""How many new names a guest may ask for under one domain: what slows a DNS tunnel down. Pure.

How this works: whoever owns a domain sees every name that is asked for below it, so each new name carries some 200
bytes out, allowed suffix or not. Programs ask for the same few names again and again; tunnels never do. So names that
were asked for before are free, and new ones draw on a bucket of their domain that fills by the minute.
"""

from collections import OrderedDict
from typing import Final

from microagent.policy.model import Entry, Kind
from microagent.policy.suffixes import registered_domain

# Of each, the ones used longest ago go first; a name that went counts as new again.
_NAMES: Final = 4096
_DOMAINS: Final = 1024


class NewNames:
    """The buckets of one workspace. Times are seconds on one clock of the caller's, which must not go backwards."""

    def __init__(self, per_minute: int) -> None:
        """A domain may have `per_minute` new names at once, and as many again for each minute that passes."""
        self._most = float(per_minute)
        self._names: OrderedDict[str, None] = OrderedDict()
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # what is left, and as of when

    def may_ask(self, rule: Entry | None, name: str, now: float) -> bool:
        """Whether `name`, which `rule` allows (None: no entry does), may be looked up; then it counts."""
        domain = _domain(rule, name)
        return not domain or self.take(domain, name, now)

    def take(self, domain: str, name: str, now: float) -> bool:
        """Whether `name`, which is below `domain`, may be asked for."""
        if name in self._names:
            self._names.move_to_end(name)
            return True
        left, since = self._buckets.get(domain, (self._most, now))
        left = min(self._most, left + (now - since) * self._most / 60.0)
        enough = left >= 1.0
        self._buckets[domain] = (left - 1.0 if enough else left, now)
        self._buckets.move_to_end(domain)
        if len(self._buckets) > _DOMAINS:
            self._buckets.popitem(last=False)
        if enough:
            self._names[name] = None
            if len(self._names) > _NAMES:
                self._names.popitem(last=False)
        return enough


def _domain(rule: Entry | None, name: str) -> str:
    """Whose owner sees the name: the suffix that allows it, or what was registered; "" for a name that stands alone."""
    if rule is not None and rule.kind is Kind.EXACT:
        return ""
    domain = rule.text[1:] if rule is not None and rule.kind is Kind.SUFFIX else registered_domain(name)
    return "" if domain == name else domain
