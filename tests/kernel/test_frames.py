"""Frames no honest guest sends: spoofed, tagged, of other protocols. None leaves, each is counted exactly."""

from collections.abc import Callable

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_LSRR, fragment
from scapy.layers.inet6 import ICMPv6EchoRequest, ICMPv6ND_RA, IPv6
from scapy.layers.l2 import ARP, GRE, LLC, SNAP, Dot1AD, Dot1Q, Dot3, Ether
from scapy.packet import Packet, Raw
from tests.kernel.conftest import MakeWorkspace

from microagent.api.link import GATEWAY, GATEWAY_MAC, GUEST, GUEST_MAC
from microagent.demo import world
from microagent.demo.oracle import Destination, Oracle

pytestmark = pytest.mark.kernel

API_TLS = Destination("tcp", world.API, 443)
SYN = TCP(sport=4321, dport=443, flags="S")
COUNT = 5


def ether(**more: object) -> Packet:
    """The header of an honest frame."""
    return Ether(**{"src": GUEST_MAC, "dst": GATEWAY_MAC} | more)


def ip(**more: object) -> Packet:
    """The header of an honest packet to a host that is allowed, so that its protocol alone is what is refused."""
    return IP(**{"src": str(GUEST.ip), "dst": world.API} | more)


# what the record calls it -> frames that must be counted as that, and must go nowhere
FRAMES: dict[str, tuple[str, Callable[[], list[Packet]]]] = {
    "source-address": ("spoof", lambda: [ether() / ip(src="10.43.0.77") / SYN]),
    "source-of-the-host": ("spoof", lambda: [ether() / ip(src=world.HOST) / SYN]),
    "source-zero": ("spoof", lambda: [ether() / ip(src="0.0.0.0") / UDP(dport=53)]),
    "source-mac": ("spoof", lambda: [ether(src="02:00:00:00:00:99") / ip() / SYN]),
    "ipv6-echo": ("ipv6", lambda: [ether() / IPv6(src="fe80::2", dst=world.EVIL_V6) / ICMPv6EchoRequest()]),
    "ipv6-tcp": ("ipv6", lambda: [ether() / IPv6(src="fe80::2", dst=world.EVIL_V6) / SYN]),
    "ipv6-router": ("ipv6", lambda: [ether(dst="33:33:00:00:00:01") / IPv6(dst="ff02::1") / ICMPv6ND_RA()]),
    "vlan": ("vlan", lambda: [ether() / Dot1Q(vlan=7) / ip() / SYN]),
    "vlan-zero": ("vlan", lambda: [ether() / Dot1Q(vlan=0) / ip() / SYN]),
    "vlan-twice": ("vlan", lambda: [ether() / Dot1AD(vlan=0) / Dot1Q(vlan=0) / ip() / SYN]),
    "arp-for-the-host": ("arp", lambda: [ether(dst="ff:ff:ff:ff:ff:ff") / ARP(psrc=str(GUEST.ip), pdst=world.HOST)]),
    "arp-as-the-gateway": (
        "arp",
        lambda: [ether() / ARP(op=2, hwsrc=GUEST_MAC, psrc=str(GATEWAY.ip), pdst=str(GATEWAY.ip))],
    ),
    "lldp": ("ethertype", lambda: [ether(type=0x88CC) / Raw(b"x" * 50)]),
    "pppoe": ("ethertype", lambda: [ether(type=0x8863) / Raw(b"x" * 50)]),
    "snap": ("ethertype", lambda: [Dot3(src=GUEST_MAC, dst=GATEWAY_MAC) / LLC() / SNAP(code=0x800) / ip() / SYN]),
    "ping-outside": ("icmp", lambda: [ether() / ip() / ICMP()]),
    "icmp-redirect": ("icmp", lambda: [ether() / ip(dst=str(GATEWAY.ip)) / ICMP(type=5, gw=str(GUEST.ip))]),
    "gre": ("proto", lambda: [ether() / ip() / GRE() / ip() / SYN]),
    "sctp": ("proto", lambda: [ether() / ip(proto=132) / Raw(b"x" * 32)]),
    "protocol-253": ("proto", lambda: [ether() / ip(proto=253) / Raw(b"x" * 32)]),
    "source-route": ("options", lambda: [ether() / ip(options=[IPOption_LSRR(routers=[world.EVIL])]) / SYN]),
    "multicast": ("multicast", lambda: [ether() / ip(dst="224.0.0.251") / UDP(dport=5353)]),
    "broadcast": ("multicast", lambda: [ether() / ip(dst="255.255.255.255") / UDP(dport=67)]),
}


@pytest.mark.parametrize("case", FRAMES)
def test_what_is_not_relayed_is_dropped_and_counted_exactly(
    oracle: Oracle, workspace: MakeWorkspace, case: str
) -> None:
    what, make = FRAMES[case]
    lab = workspace(allow=["api.ok.test"])
    for frame in make() * COUNT:
        lab.guest.inject(bytes(frame))
    # The control: the same guest, the same wire, an honest connection. Its frames were behind the others.
    assert lab.guest.curl("https://api.ok.test/").stdout == "hello from api.ok.test\n"
    told = 0
    while told < COUNT:  # in one record or in several; wait_for gives up when none is added
        told = sum(record["packets"] for record in lab.records("egress_drop") if record["what"] == what)
        if told < COUNT:
            lab.wait_for("egress_drop", what=what)
    assert told == COUNT
    assert {record["what"] for record in lab.records("egress_drop")} == {what}
    assert oracle.leaks({API_TLS}, {"api.ok.test"}) == ()


def test_fragments_that_reassemble_are_judged_whole_and_others_die(oracle: Oracle, workspace: MakeWorkspace) -> None:
    lab = workspace(allow=["api.ok.test"])
    whole = ip() / UDP(sport=4000, dport=443) / Raw(b"x" * 2000)
    for piece in fragment(whole, 800):
        lab.guest.inject(bytes(ether() / piece))
    lab.wait_for("egress_udp_deny", dst=f"{world.API}:443")
    for piece in fragment(ip(dst=world.EVIL, id=7) / UDP(dport=53) / Raw(b"x" * 2000), 800)[1:]:
        lab.guest.inject(bytes(ether() / piece))
    assert lab.guest.curl("https://api.ok.test/").stdout == "hello from api.ok.test\n"
    assert oracle.leaks({API_TLS}, {"api.ok.test"}) == ()


@pytest.mark.parametrize("flags", ["A", "F", "FA", "R", "", "FPU", "SA", "SF"])
def test_segments_of_no_connection_go_nowhere(oracle: Oracle, workspace: MakeWorkspace, flags: str) -> None:
    lab = workspace(allow=["api.ok.test"])
    for address in (world.API, world.EVIL, world.METADATA):
        for port in (22, 53, 443):
            lab.guest.inject(
                bytes(ether() / ip(dst=address) / TCP(sport=999, dport=port, flags=flags) / Raw(b"secret"))
            )
    assert lab.guest.curl("https://api.ok.test/").stdout == "hello from api.ok.test\n"
    assert oracle.leaks({API_TLS}, {"api.ok.test"}) == ()


@pytest.mark.parametrize("size", [0, 1, 13, 14, 15, 33, 1515, 9000, 65000])
def test_frames_of_any_length_hurt_nobody(oracle: Oracle, workspace: MakeWorkspace, size: int) -> None:
    lab = workspace(allow=["api.ok.test"])
    lab.guest.inject(bytes(ether() / ip() / UDP(dport=53))[:size].ljust(size, b"\xff"))
    assert lab.guest.curl("https://api.ok.test/").stdout == "hello from api.ok.test\n"
    assert oracle.leaks({API_TLS}, {"api.ok.test"}) == ()


def test_nothing_of_the_hosts_listens_to_a_guest(oracle: Oracle, workspace: MakeWorkspace) -> None:
    lab = workspace(allow=["api.ok.test"])
    for port in (22, 111, 631, 4000, 4053, 8080):
        for address in (str(GATEWAY.ip), world.HOST):
            answer = lab.guest.tcp(address, port, b"GET / HTTP/1.0\r\n\r\n")
            assert answer.error or answer.data.startswith(b"HTTP/1.1 4"), (address, port, answer)
    assert lab.guest.curl("https://api.ok.test/").stdout == "hello from api.ok.test\n"
    assert oracle.leaks({API_TLS}, {"api.ok.test"}) == ()
