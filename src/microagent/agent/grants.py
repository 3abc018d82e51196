"""When grants end."""

from collections.abc import Collection
from datetime import datetime

from microagent.workspace.egress import Grant


class Deadlines:
    """Of one workspace's grants: each ends at its time and, should the clock be set back, after what it was given for.

    A clock that is set forward ends them early, as it should on a machine that slept.
    """

    def __init__(self) -> None:
        self._ticks: dict[Grant, float] = {}

    def ended(self, grants: Collection[Grant], now: datetime, ticks: float) -> frozenset[Grant]:
        """Which of all grants that there are have ended; `now` is aware, `ticks` monotonic, in seconds.

        The time that a grant is given for runs from when it is first asked about.
        """
        self._ticks = {grant: self._ticks.get(grant, ticks + (grant.until - now).total_seconds()) for grant in grants}
        return frozenset(grant for grant in grants if grant.until <= now or self._ticks[grant] <= ticks)
