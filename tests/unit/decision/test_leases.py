"""Leases: many names on an address, many addresses of a name, and the end of each."""

from ipaddress import ip_address

from microagent.decision.leases import LIMIT, Leases

ONE, TWO, THREE = (ip_address(f"203.0.113.{n}") for n in (1, 2, 3))


def test_a_lease_is_held_until_it_ends() -> None:
    leases = Leases()
    leases.add("a.test", [ONE, TWO], expires=10, now=0)
    assert leases.names_for(ONE, 9.9) == ("a.test",)
    assert leases.holds("a.test", TWO, 9.9)
    assert not leases.holds("a.test", TWO, 10)
    assert leases.names_for(ONE, 10) == ()
    assert len(leases) == 0


def test_nothing_is_held_that_nobody_was_told() -> None:
    leases = Leases()
    leases.add("a.test", [ONE], expires=10, now=0)
    assert leases.names_for(TWO, 0) == ()
    assert not leases.holds("b.test", ONE, 0)
    assert not leases.holds("a.test", TWO, 0)


def test_the_name_told_last_comes_first() -> None:
    leases = Leases()
    leases.add("a.test", [ONE], expires=10, now=0)
    leases.add("b.test", [ONE], expires=10, now=1)
    assert leases.names_for(ONE, 2) == ("b.test", "a.test")
    leases.add("a.test", [ONE], expires=10, now=3)
    assert leases.names_for(ONE, 4) == ("a.test", "b.test")


def test_names_on_one_address_end_each_for_itself() -> None:
    leases = Leases()
    leases.add("a.test", [ONE], expires=10, now=0)
    leases.add("b.test", [ONE], expires=20, now=0)
    assert leases.names_for(ONE, 15) == ("b.test",)
    leases.add("a.test", [ONE], expires=30, now=16)
    assert leases.names_for(ONE, 25) == ("a.test",)


def test_a_lease_is_never_shortened() -> None:
    leases = Leases()
    leases.add("a.test", [ONE], expires=100, now=0)
    leases.add("a.test", [ONE], expires=10, now=1)
    assert leases.holds("a.test", ONE, 99)
    leases.add("a.test", [ONE], expires=200, now=2)
    assert leases.holds("a.test", ONE, 199)


def test_an_answer_that_is_over_is_no_lease() -> None:
    leases = Leases()
    leases.add("a.test", [ONE], expires=5, now=5)
    assert len(leases) == 0


def test_the_oldest_leave_first_and_renewing_makes_young() -> None:
    leases = Leases(limit=2)
    leases.add("a.test", [ONE], expires=10, now=0)
    leases.add("b.test", [TWO], expires=10, now=1)
    leases.add("a.test", [ONE], expires=10, now=2)
    leases.add("c.test", [THREE], expires=10, now=3)
    assert len(leases) == 2
    assert leases.holds("a.test", ONE, 4)
    assert leases.names_for(TWO, 4) == ()
    assert leases.holds("c.test", THREE, 4)


def test_one_answer_cannot_be_larger_than_the_limit() -> None:
    leases = Leases(limit=2)
    leases.add("a.test", [ONE, TWO, THREE], expires=10, now=0)
    assert len(leases) == 2
    assert leases.names_for(ONE, 1) == ()
    assert leases.names_for(THREE, 1) == ("a.test",)


def test_a_flood_stays_within_the_limit() -> None:
    leases = Leases()
    first = int(ip_address("10.0.0.0"))
    for n in range(LIMIT + 100):
        leases.add(f"n{n}.test", [ip_address(first + n), ONE], expires=10, now=0)
    assert len(leases) == LIMIT == 4096
    assert len(leases.names_for(ONE, 1)) == LIMIT / 2
    assert leases.names_for(ip_address(first), 1) == ()


def test_forget() -> None:
    leases = Leases()
    leases.add("a.test", [ONE, TWO], expires=10, now=0)
    leases.add("b.test", [ONE], expires=10, now=0)
    leases.forget(lambda name: name == "a.test")
    assert leases.names_for(ONE, 1) == ("b.test",)
    assert leases.names_for(TWO, 1) == ()
    assert len(leases) == 1
