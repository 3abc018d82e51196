"""Rules and routes of the host that stand in a mediator's way: guests are told at once, and again when they go."""

import subprocess
from collections.abc import Callable

import pytest
from tests.kernel.conftest import MakeWorkspace
from tests.kernel.workspace import UID, Workspace

from microagent.demo import world
from microagent.demo.internet import Internet
from microagent.demo.oracle import Destination, Oracle
from microagent.host import nft

pytestmark = pytest.mark.kernel

API_HTTP = Destination("tcp", world.API, 80)
API_TLS = Destination("tcp", world.API, 443)
TIME = Destination("udp", world.TIME, world.TIME_PORT)

# As firewalls by user have it; `ip rule add uidrange` routes by the same number.
BY_USER = f"""
table inet firewall {{
    chain output {{
        type filter hook output priority filter; policy accept;
        meta skuid {UID} reject with icmpx admin-prohibited
    }}
}}
"""


def by_user(internet: Internet) -> Callable[[], None]:
    internet.host.run(lambda: nft.apply(BY_USER))
    return lambda: internet.host.run(lambda: nft.apply("delete table inet firewall"))


def without_a_route(internet: Internet) -> Callable[[], None]:
    def ip(*words: str) -> None:
        subprocess.run(internet.host.argv("ip", "route", *words), check=True)

    ip("del", "default")
    return lambda: ip("add", "default", "via", world.ROUTER)


def gets_through(lab: Workspace, name: str) -> None:
    assert lab.guest.curl("https://api.ok.test/").stdout == "hello from api.ok.test\n"
    assert lab.guest.curl("http://api.ok.test/").stdout == "hello from api.ok.test\n"
    assert lab.guest.udp(world.TIME, world.TIME_PORT, b"now?").data == b"now?"
    assert "status: NXDOMAIN" in lab.guest.dig(name)


@pytest.mark.parametrize("block", [by_user, without_a_route])
def test_a_host_that_lets_no_mediator_out_is_said_to(
    internet: Internet, oracle: Oracle, workspace: MakeWorkspace, block: Callable[[Internet], Callable[[], None]]
) -> None:
    lab = workspace(allow=[".ok.test"])
    lab.guest.dig("time.ok.test")
    gets_through(lab, "before.ok.test")

    unblock = block(internet)
    for scheme in ("http", "https"):
        assert '"reason": "dial_failed"' in lab.guest.curl(f"{scheme}://api.ok.test/").stdout
    assert lab.guest.udp(world.TIME, world.TIME_PORT, b"now?").error == "ConnectionRefusedError"
    assert "status: SERVFAIL" in lab.guest.dig("meanwhile.ok.test")
    lab.wait_for("egress_dial_error", host="api.ok.test")
    lab.wait_for("egress_dns_error", qname="meanwhile.ok.test")

    unblock()
    gets_through(lab, "after.ok.test")
    names = {"api.ok.test", "time.ok.test", "before.ok.test", "after.ok.test"}
    assert oracle.leaks({API_HTTP, API_TLS, TIME}, names) == ()
