"""Kernel objects of a workspace, made once in a scratch namespace and removed."""

import os
import tempfile
from pathlib import Path

from microagent.errors import HostError


def nft_bindings() -> str:
    """netfilter's own Python bindings can be imported and answer."""
    try:
        import nftables
    except ImportError as error:
        hint = "apt-get install python3-nftables, and make the venv with --system-site-packages"
        raise HostError(f"the nftables bindings cannot be imported: {error}", hint) from error
    if os.geteuid() != 0:
        # The library would say so by itself, past everybody.
        raise HostError("cannot be tried by this user", "run doctor as root")
    code, _, problem = nftables.Nftables().cmd("list tables")
    if code:
        raise HostError(f"nft refuses: {problem.strip()}", "run doctor as root")
    return str(Path(nftables.__file__).parent)


def tap() -> str:
    """A tap device can be made."""
    from microagent.host import links, netns

    with _scratch() as directory:
        path = Path(directory) / "netns"
        netns.create(path)
        try:
            os.close(netns.run_inside(path, links.make_tap))
        finally:
            netns.remove(path)
            netns.release_directory(path.parent)
    return "made one, and removed it"


def steering() -> str:
    """A whole workspace network: namespace, tap, tproxy rules, transparent sockets."""
    from microagent.host import netns
    from microagent.host.network import Network
    from microagent.host.ruleset import Steering

    with _scratch() as directory:
        path = Path(directory) / "netns"
        try:
            Network.create(path, Steering()).remove()
        finally:
            netns.release_directory(path.parent)
    return "namespace, tap, tproxy rules and sockets made, and removed"


def _scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="microagent-doctor-")
