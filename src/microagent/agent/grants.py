"""When grants end."""

from collections.abc import Collection
from datetime import datetime
from typing import NamedTuple

from microagent.workspace.egress import Grant


class Deadlines:
    """Of one workspace's grants: each ends at its time and, should the clock be set back, after what it was given for.

    A clock that is set forward ends them early, as it should on a machine that slept. May be asked in any thread.
    """

    def __init__(self) -> None:
        self._known = _Known((), {}, None)

    def ended(self, grants: Collection[Grant], now: datetime, ticks: float) -> frozenset[Grant]:
        """Which of all grants that there are have ended; `now` is aware, `ticks` monotonic, in seconds.

        The time that a grant is given for runs from when it is first asked about. The same grants are asked about each
        second, and there may be a hundred thousand.
        """
        known = self._known
        if grants is not known.grants:
            given = {one: known.ticks.get(one, ticks + (one.until - now).total_seconds()) for one in grants}
            first = (min(one.until for one in grants), min(given.values())) if grants else None
            self._known = known = _Known(grants, given, first)
        if known.first is None or (now < known.first[0] and ticks < known.first[1]):
            return frozenset()
        return frozenset(one for one in grants if one.until <= now or known.ticks[one] <= ticks)


class _Known(NamedTuple):
    """When each of the grants ends by the monotonic clock; before both of `first` none of them does."""

    grants: Collection[Grant]
    ticks: dict[Grant, float]
    first: tuple[datetime, float] | None
