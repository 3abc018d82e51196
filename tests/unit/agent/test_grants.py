"""When grants end, whatever is done to the clock."""

from collections.abc import Collection, Iterator
from datetime import UTC, datetime, timedelta

from microagent.agent.grants import Deadlines
from microagent.policy.model import Verb
from microagent.policy.parse import parse_entry
from microagent.workspace.egress import Grant

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
SHORT, LONG = (
    Grant(parse_entry(Verb.ALLOW, name, "a test"), NOW + minutes * MINUTE)
    for name, minutes in (("short.test", 1), ("long.test", 60))
)


def test_a_grant_ends_at_its_time() -> None:
    deadlines = Deadlines()
    assert deadlines.ended((SHORT, LONG), NOW, 1000) == set()
    assert deadlines.ended((SHORT, LONG), NOW + 0.9 * MINUTE, 1054) == set()
    assert deadlines.ended((SHORT, LONG), NOW + MINUTE, 1060) == {SHORT}
    assert deadlines.ended((LONG,), NOW + 60 * MINUTE, 4600) == {LONG}


def test_a_clock_that_is_set_back_makes_no_grant_longer() -> None:
    deadlines = Deadlines()
    assert deadlines.ended((SHORT, LONG), NOW, 1000) == set()
    earlier = NOW - timedelta(hours=10)
    assert deadlines.ended((SHORT, LONG), earlier, 1059) == set()
    assert deadlines.ended((SHORT, LONG), earlier, 1060) == {SHORT}
    # One that is given by that clock has all its time.
    new = Grant(SHORT.entry, earlier + MINUTE)
    assert deadlines.ended((LONG, new), earlier, 1061) == set()
    assert deadlines.ended((LONG, new), earlier + MINUTE, 1121) == {new}


def test_a_clock_that_is_set_forward_ends_what_is_over_by_it() -> None:
    deadlines = Deadlines()
    assert deadlines.ended((SHORT, LONG), NOW, 1000) == set()
    assert deadlines.ended((SHORT, LONG), NOW + 59 * MINUTE, 1001) == {SHORT}


class Counted(Collection[Grant]):
    """Grants, and how often somebody went through all of them."""

    def __init__(self, *grants: Grant) -> None:
        self._grants = grants
        self.looks = 0

    def __iter__(self) -> Iterator[Grant]:
        self.looks += 1
        return iter(self._grants)

    def __len__(self) -> int:
        return len(self._grants)

    def __contains__(self, one: object) -> bool:
        return one in self._grants


def test_grants_of_which_none_ends_are_not_looked_at_each_second() -> None:
    deadlines, grants = Deadlines(), Counted(SHORT, LONG)
    assert deadlines.ended(grants, NOW, 1000) == set()
    looks = grants.looks
    for second in range(60):
        assert deadlines.ended(grants, NOW + second * MINUTE / 60, 1000 + second) == set()
    assert grants.looks == looks
    assert deadlines.ended(grants, NOW + MINUTE, 1060) == {SHORT}
