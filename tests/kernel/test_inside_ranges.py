"""E1: first, middle and last address of each block of the table that is not the public internet, by its numbers."""

from ipaddress import IPv4Network

import pytest
from scapy.layers.inet import TCP, UDP
from tests.kernel.conftest import MakeWorkspace
from tests.kernel.frames import ether, ip

from microagent.demo import world
from microagent.demo.oracle import Destination, Oracle
from microagent.policy.address_table import TABLE

pytestmark = pytest.mark.kernel

API_TLS = Destination("tcp", world.API, 443)
_BLOCKS = {IPv4Network(block): (kind, what) for block, kind, what in TABLE if ":" not in block}


def edges(block: IPv4Network) -> set[str]:
    """First, middle and last."""
    return {str(block[0]), str(block[block.num_addresses // 2]), str(block[-1])}


@pytest.mark.parametrize("mode", ["guarded", "strict"])
def test_each_is_refused_in_the_kernel_and_reaches_nobody(oracle: Oracle, workspace: MakeWorkspace, mode: str) -> None:
    lab = workspace(mode, allow=[".ok.test"])
    expected = {"refused_inside_tcp": 0, "refused_inside_udp": 0, "drop_multicast": 0}
    for block, (_, what) in _BLOCKS.items():
        for address in edges(block):
            for kind, name in ((TCP(sport=999, dport=443, flags="S"), "tcp"), (UDP(sport=999, dport=123), "udp")):
                lab.guest.inject(bytes(ether() / ip(dst=address) / kind))
                counted_as = "drop_multicast" if what in ("multicast", "broadcast") else f"refused_inside_{name}"
                if address == "255.255.255.255":  # the last of "reserved" as well
                    counted_as = "drop_multicast"
                expected[counted_as] += 1
                assert lab.network.counters()[counted_as][0] == expected[counted_as], (address, name)
    assert lab.guest.curl("https://api.ok.test/").stdout == "hello from api.ok.test\n"
    assert oracle.leaks({API_TLS}, {"api.ok.test"}) == ()


def test_where_a_name_might_be_private_each_is_refused_by_the_mediator(
    oracle: Oracle, workspace: MakeWorkspace
) -> None:
    """An exact entry leaves the private blocks to it."""
    lab = workspace("guarded", allow=["api.ok.test"])
    private = [block for block, (kind, _) in _BLOCKS.items() if kind == "private"]
    assert private
    for block in private:
        for address in edges(block):
            answer = lab.guest.tcp(address, 80, f"GET / HTTP/1.1\r\nHost: {address}\r\n\r\n".encode())
            assert answer.data.startswith(b"HTTP/1.1 403 "), (address, answer)
            lab.wait_for("egress_internal_deny", dst=f"{address}:80")
    assert lab.guest.curl("https://api.ok.test/").stdout == "hello from api.ok.test\n"
    assert oracle.leaks({API_TLS}, {"api.ok.test"}) == ()
