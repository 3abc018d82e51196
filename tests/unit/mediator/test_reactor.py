"""Timers: who hears of what they raise, and what a cancelled one keeps alive."""

import weakref

import pytest

from microagent.mediator.reactor import Reactor


class Owner:
    """Remembers why it had to give up."""

    def __init__(self) -> None:
        self.errors: list[Exception] = []

    def abort(self, error: Exception) -> None:
        self.errors.append(error)

    def fail(self) -> None:
        raise ValueError("out of time")


@pytest.mark.parametrize("owned", [True, False])
def test_a_timer_that_raises_ends_its_owner_and_no_other_timer(owned: bool) -> None:
    faults: list[tuple[str, Exception]] = []
    reactor = Reactor(lambda where, error: faults.append((where, error)))
    owner = Owner()
    reactor.later(0.0, owner.fail, owner if owned else None)
    reactor.later(0.0, reactor.stop)
    reactor.run()
    assert [str(error) for error in owner.errors] == (["out of time"] if owned else [])
    assert [where for where, _ in faults] == ([] if owned else ["timer"])


def test_a_cancelled_timer_keeps_nothing_alive() -> None:
    """Its time may come long after a connection is over, and there may be thousands of connections a second."""
    reactor = Reactor(lambda _where, _error: None)
    owner = Owner()
    timer = reactor.later(3600.0, owner.fail, owner)
    gone = weakref.ref(owner)
    del owner
    assert gone() is not None
    timer.cancel()
    assert gone() is None
