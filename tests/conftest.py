"""What every test room shares: the made-up internet, and who may run where."""

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from microagent.demo.internet import Internet
from microagent.demo.oracle import Oracle

# How long an example takes says how busy the machine is, and no test of ours is about time.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

# A shell's `make test &` ignores Ctrl-C, and so would all that the tests start, which some of them interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need root say so instead of failing in the middle."""
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("kernel") or item.get_closest_marker("vm"):
            item.add_marker(pytest.mark.skip(reason="needs root"))


@pytest.fixture
def internet() -> Iterator[Internet]:
    """A made-up internet of this test's own, so that its evidence is about nothing else."""
    with Internet() as made_up:
        yield made_up


@pytest.fixture
def oracle(internet: Internet) -> Oracle:
    """The leak oracle over the test's internet."""
    return Oracle(internet)
