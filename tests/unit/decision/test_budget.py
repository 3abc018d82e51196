"""New names under one domain are so many a minute; old ones are free."""

from hypothesis import given
from hypothesis import strategies as st

from microagent.decision.budget import NewNames

DOMAIN = "sfx.test"


def name(number: int) -> str:
    return f"n{number}.{DOMAIN}"


def test_so_many_at_once_and_then_as_many_a_minute() -> None:
    budget = NewNames(60)
    assert [budget.take(DOMAIN, name(n), 0.0) for n in range(70)] == [True] * 60 + [False] * 10
    assert not budget.take(DOMAIN, name(100), 0.9)
    assert budget.take(DOMAIN, name(100), 1.1)
    assert not budget.take(DOMAIN, name(101), 1.2)
    # A pause does not add up to more than a minute's.
    assert sum(budget.take(DOMAIN, name(n), 10_000.0) for n in range(200, 300)) == 60


def test_names_that_were_asked_for_before_are_free() -> None:
    budget = NewNames(2)
    assert budget.take(DOMAIN, name(1), 0.0)
    assert budget.take(DOMAIN, name(2), 0.0)
    assert not budget.take(DOMAIN, name(3), 0.0)
    assert all(budget.take(DOMAIN, name(1), 0.0) for _ in range(1000))
    # One that was refused is not known by that.
    assert not budget.take(DOMAIN, name(3), 0.0)


def test_one_domain_does_not_spend_anothers() -> None:
    budget = NewNames(1)
    assert budget.take("a.test", "x.a.test", 0.0)
    assert not budget.take("a.test", "y.a.test", 0.0)
    assert budget.take("b.test", "x.b.test", 0.0)


def test_a_domain_that_has_spent_its_names_is_not_forgotten_for_others() -> None:
    budget = NewNames(60)
    assert sum(budget.take(DOMAIN, name(n), 0.0) for n in range(100)) == 60
    # Five seconds of the questions that a guest may ask, each below a domain of its own.
    assert all(budget.take(f"d{n}.test", f"x.d{n}.test", n / 400) for n in range(2000))
    assert sum(budget.take(DOMAIN, name(n), 5.0) for n in range(100, 200)) == 5


def test_memory_is_bounded() -> None:
    budget = NewNames(1_000_000)
    for number in range(10_000):
        budget.take(f"d{number}.test", f"x.d{number}.test", 0.0)
    assert len(budget._names) <= 4096
    assert len(budget._buckets) <= 1024


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 50), st.floats(0, 100)), max_size=300))
def test_in_no_minute_more_than_twice_the_figure_pass(asked: list[tuple[int, int, float]]) -> None:
    budget, now, passed = NewNames(10), 0.0, []
    seen: set[str] = set()
    for domain, number, step in asked:
        now += step
        full = f"n{number}.d{domain}.test"
        if budget.take(f"d{domain}.test", full, now) and full not in seen:
            seen.add(full)
            passed.append((now, domain))
    for at, domain in passed:
        assert sum(1 for when, other in passed if other == domain and at <= when < at + 60) <= 20
