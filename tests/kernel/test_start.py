"""What was built is looked at once more before the first frame is let in: what cannot enforce does not start."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from microagent.errors import HostError
from microagent.host import links, netns
from microagent.host.network import Network
from microagent.host.ruleset import Steering

pytestmark = pytest.mark.kernel


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    made = Network.create(tmp_path / "netns" / "starting", Steering())
    yield made
    made.remove()
    netns.release_directory(tmp_path / "netns")


def run(*command: str) -> Callable[[], object]:
    return lambda: subprocess.run(command, check=True)


def up(network: Network) -> set[str]:
    return netns.run_inside(network.path, links.check_closed)


def test_a_network_that_is_as_it_was_made_is_opened(network: Network) -> None:
    assert "tap0" not in up(network)
    network.raise_tap()
    assert "tap0" in up(network)


@pytest.mark.parametrize(
    "command",
    [
        ("nft", "flush", "ruleset"),
        ("nft", "add", "rule", "ip", "workspace", "packets", "accept"),
        ("nft", "delete", "table", "netdev", "workspace"),
        ("nft", "add", "table", "inet", "other"),
    ],
)
def test_changed_rules_keep_the_tap_down(network: Network, command: tuple[str, ...]) -> None:
    netns.run_inside(network.path, run(*command))
    with pytest.raises(HostError, match="rules were changed"):
        network.raise_tap()
    assert "tap0" not in up(network)


def test_another_interface_keeps_the_tap_down(network: Network) -> None:
    netns.run_inside(network.path, run("ip", "link", "add", "veth0", "up", "type", "veth", "peer", "veth1"))
    with pytest.raises(HostError, match="not ours: veth0"):
        network.raise_tap()
    netns.run_inside(network.path, run("ip", "link", "del", "veth0"))
    assert "tap0" not in up(network)
