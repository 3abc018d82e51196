"""An agent with a hundred workspaces has more descriptors than select(2) can name; libnftables uses select(2)."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from microagent.agent.ledger import Process
from microagent.host import netns
from microagent.host.network import Network
from microagent.host.ruleset import Steering

pytestmark = pytest.mark.kernel

_FD_SETSIZE = 1024


@pytest.fixture
def no_low_numbers() -> Iterator[None]:
    """Whatever is opened now has a number that select(2) cannot name."""
    taken: list[int] = []
    while not taken or taken[-1] < _FD_SETSIZE:
        taken.append(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))
    yield
    for fd in taken:
        os.close(fd)


@pytest.mark.usefixtures("no_low_numbers")
def test_rules_are_made_and_repaired(tmp_path: Path) -> None:
    network = Network.create(tmp_path / "netns" / "many", Steering())
    try:
        assert network.tap > _FD_SETSIZE
        assert not network.repair()
        netns.run_inside(network.path, lambda: subprocess.run(["nft", "flush", "ruleset"], check=True))
        assert network.repair()
    finally:
        network.remove()
        netns.release_directory(tmp_path / "netns")


@pytest.mark.usefixtures("no_low_numbers")
def test_the_end_of_a_process_is_waited_for() -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        process = Process.of(child.pid)
        assert process.kill()
        process.wait()
        assert not process.alive()
