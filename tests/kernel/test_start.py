"""What was built is looked at once more before the first frame is let in: what cannot enforce does not start."""

import subprocess
import sys
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


# A /proc/sys/net as a kernel has it that was started with ipv6.disable=1, or was built without.
_NO_IPV6 = """
mkdir proc net
mount -t proc proc proc
ln -s $PWD/proc/sys/net/ipv4 net/ipv4
mount --bind net /proc/sys/net
exec "$@"
"""
_STARTED = """
from pathlib import Path
from microagent.host.network import Network
from microagent.host.ruleset import Steering
made = Network.create(Path("netns/starting").absolute(), Steering())
made.raise_tap()
made.remove()
"""


def test_a_kernel_without_ipv6_will_do(tmp_path: Path) -> None:
    private = ["unshare", "--mount", "--propagation", "private", "sh", "-e", "-c", _NO_IPV6, "-"]
    absent = "import os; assert os.listdir('/proc/sys/net') == ['ipv4']\n"
    subprocess.run([*private, sys.executable, "-P", "-c", absent + _STARTED], cwd=tmp_path, check=True)


_BOUNDED = 'echo 0 > /proc/sys/user/max_net_namespaces; exec "$@"'
_HINTED = """
from pathlib import Path
from microagent.errors import HostError
from microagent.host import netns
try:
    netns.create(Path("starting"))
except HostError as error:
    print(error.hint)
"""


def test_a_bound_on_namespaces_is_not_taken_for_a_full_disk(tmp_path: Path) -> None:
    """As hardened hosts set it; here for a user namespace, whose bound is nobody else's."""
    bounded = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-e", "-c", _BOUNDED, "-"]
    done = subprocess.run([*bounded, sys.executable, "-P", "-c", _HINTED], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "raise user.max_net_namespaces (sysctl); a workspace takes two\n", done.stderr
