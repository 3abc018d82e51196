"""Frames no honest guest sends: none leaves the machine, and each is counted exactly and recorded."""

import time
from collections import Counter
from pathlib import Path

import pytest
from pyroute2 import IPRoute
from scapy.layers.inet import ICMP, TCP, UDP, fragment
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw
from tests.kernel.conftest import MakeWorkspace
from tests.kernel.frames import (
    BROKEN_DATAGRAMS,
    FRAMES,
    GATEWAY_IP,
    GUEST_IP,
    PIECES,
    driver_lies,
    ether,
    ip,
    tcp_in_pieces,
)
from tests.kernel.workspace import Workspace

from microagent.api.link import GATEWAY_MAC, GUEST_MAC
from microagent.demo import world
from microagent.demo.oracle import Destination, Oracle
from microagent.host import nft

pytestmark = pytest.mark.kernel

# Any rule that asks for it switches tracking on in its namespace.
_TRACKING = "table ip tracking { chain out { type filter hook output priority 0; ct state new accept; }; }"
API_TLS = Destination("tcp", world.API, 443)
_PATIENCE = 20.0


def reaches_api(lab: Workspace) -> None:
    """The control: the same guest, the same wire, an honest connection; its frames are behind all others."""
    answer = lab.guest.curl("https://api.ok.test/")
    assert answer.stdout == "hello from api.ok.test\n", answer.stderr


def dropped(lab: Workspace) -> Counter[str]:
    """What the kernel has counted: kind -> packets."""
    counted = lab.network.counters()
    return Counter({name[5:]: packets for name, (packets, _) in counted.items() if name[:5] == "drop_" and packets})


def recorded(lab: Workspace) -> Counter[str]:
    """What the records say in all."""
    sums: Counter[str] = Counter()
    for record in lab.records("egress_drop"):
        assert record["first"] <= record["last"] <= record["ts"]
        sums[record["what"]] += record["packets"]
    return sums


def until_recorded(lab: Workspace, expected: Counter[str]) -> None:
    deadline = time.monotonic() + _PATIENCE
    while recorded(lab) != expected:
        assert time.monotonic() < deadline, (recorded(lab), expected)
        time.sleep(0.1)


def test_what_is_not_relayed_is_dropped_and_counted_exactly(oracle: Oracle, workspace: MakeWorkspace) -> None:
    lab = workspace(allow=["api.ok.test"])
    reaches_api(lab)
    expected: Counter[str] = Counter()
    for what, make in FRAMES.items():
        for frame in make():
            before = dropped(lab)
            lab.guest.inject(bytes(frame))
            assert dropped(lab) - before == Counter({what: 1}), frame.show(dump=True)
            expected[what] += 1
        reaches_api(lab)
        assert oracle.leaks({API_TLS}, {"api.ok.test"}) == (), what
    until_recorded(lab, expected)
    assert all(packets == 0 for name, (packets, _) in lab.network.counters().items() if name.startswith("refused"))
    # F1, G1: no connection was tracked for any of it. The guest's kernel, told to, tracks its own.
    lab.guest.call(lambda: nft.apply(_TRACKING))
    reaches_api(lab)
    assert lab.guest.call(_tracked) > 0
    assert lab.in_netns(_tracked) == 0


def _tracked() -> int:
    return int(Path("/proc/sys/net/netfilter/nf_conntrack_count").read_text())


def test_the_guest_teaches_the_kernel_nothing(oracle: Oracle, workspace: MakeWorkspace) -> None:
    """F2, F5: its own address is pinned, other claims are not heard, and nobody answers for other addresses."""
    lab = workspace(allow=["api.ok.test"])
    before = lab.in_netns(_neighbours)
    lab.guest.received.clear()
    for frame in [*FRAMES["arp"](), *FRAMES["ipv6"]()]:
        lab.guest.inject(bytes(frame))
    for asker in (GUEST_IP, "0.0.0.0"):
        lab.guest.inject(bytes(ether(dst="ff:ff:ff:ff:ff:ff") / ARP(hwsrc=GUEST_MAC, psrc=asker, pdst=GATEWAY_IP)))
    reaches_api(lab)
    answers = [Ether(frame) for frame in tuple(lab.guest.received) if frame[12:14] == b"\x08\x06"]
    assert {(answer[ARP].psrc, answer[ARP].hwsrc) for answer in answers if answer[ARP].op == 2} == {
        (GATEWAY_IP, GATEWAY_MAC)
    }
    assert lab.in_netns(_neighbours) == before == [(GUEST_IP, GUEST_MAC)]
    assert lab.in_netns(Path("/proc/thread-self/net/if_inet6").read_text) == ""
    assert oracle.leaks({API_TLS}, {"api.ok.test"}) == ()


def _neighbours() -> list[tuple[str, str]]:
    with IPRoute() as kernel:
        return [(m.get_attr("NDA_DST"), m.get_attr("NDA_LLADDR")) for m in kernel.get_neighbours(family=2)]


def test_pieces_that_do_not_make_a_whole_are_counted_by_the_datagram(oracle: Oracle, workspace: MakeWorkspace) -> None:
    lab = workspace(allow=["api.ok.test"])
    for frame in PIECES():
        lab.guest.inject(bytes(frame))
    reaches_api(lab)
    until_recorded(lab, Counter(fragment=BROKEN_DATAGRAMS))
    assert not lab.records("egress_udp_deny", "egress_udp_allow")
    assert oracle.leaks({API_TLS}, {"api.ok.test"}) == ()


def test_a_flood_of_halves_takes_bounded_memory_and_is_counted_exactly(
    oracle: Oracle, workspace: MakeWorkspace
) -> None:
    """F6, CVE-2018-5391."""
    lab = workspace(allow=["api.ok.test"])
    halves = 8000
    half = bytearray(bytes(ether() / ip(flags="MF") / UDP(sport=1, dport=123) / Raw(b"x" * 1400)))
    for ident in range(halves):
        half[18:20] = ident.to_bytes(2, "big")
        half[24:26] = _checksum(bytes(half[14:24]) + b"\0\0" + bytes(half[26:34]))
        lab.guest.inject(bytes(half))
    memory = lab.in_netns(Path("/proc/thread-self/net/sockstat").read_text).split("FRAG: inuse ")[1].split()
    assert int(memory[2]) < 8 << 20, memory
    reaches_api(lab)
    until_recorded(lab, Counter(fragment=halves))
    assert oracle.leaks({API_TLS}, {"api.ok.test"}) == ()


def _checksum(header: bytes) -> bytes:
    total = sum(int.from_bytes(header[at : at + 2], "big") for at in range(0, len(header), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return (~total & 0xFFFF).to_bytes(2, "big")


def test_pieces_that_make_a_whole_are_judged_as_a_whole(oracle: Oracle, workspace: MakeWorkspace) -> None:
    lab = workspace(allow=["api.ok.test"])
    for piece in fragment(ip() / UDP(sport=4000, dport=443) / Raw(b"x" * 2000), 800):
        lab.guest.inject(bytes(ether() / piece))
    lab.wait_for("egress_udp_deny", dst=f"{world.API}:443")
    for piece in fragment(ip(dst=world.EVIL, id=7) / UDP(dport=123) / Raw(b"x" * 2000), 8):
        lab.guest.inject(bytes(ether() / piece))
    lab.wait_for("egress_udp_deny", dst=f"{world.EVIL}:123")
    lab.guest.received.clear()
    for frame in tcp_in_pieces():
        lab.guest.inject(bytes(frame))
    reaches_api(lab)
    answers = [Ether(frame) for frame in tuple(lab.guest.received)]
    assert any(TCP in answer and answer[TCP].dport == 4321 and answer[TCP].flags == "SA" for answer in answers)
    assert dropped(lab) == Counter()
    assert oracle.leaks({API_TLS}, {"api.ok.test"}) == ()


def test_no_router_answers_for_a_time_to_live(oracle: Oracle, workspace: MakeWorkspace) -> None:
    """F7: a traceroute learns nothing of the host's way; the destination refuses at the first hop."""
    lab = workspace(allow=["api.ok.test"])
    lab.guest.received.clear()
    for ttl in range(1, 31):
        lab.guest.inject(bytes(ether() / ip(dst=world.EVIL, ttl=ttl) / UDP(sport=33000, dport=33434 + ttl)))
    reaches_api(lab)
    answers = [Ether(frame) for frame in tuple(lab.guest.received)]
    said = Counter((a.src, a[ICMP].type, a[ICMP].code) for a in (p.getlayer("IP") for p in answers) if a and ICMP in a)
    assert said == {(world.EVIL, 3, 3): 30}
    assert oracle.leaks({API_TLS}, {"api.ok.test"}) == ()


def test_segments_of_no_connection_go_nowhere(oracle: Oracle, workspace: MakeWorkspace) -> None:
    """F9: scans by ACK, FIN, NULL, Xmas and worse, a SYN with data, urgent data of no connection."""
    lab = workspace(allow=["api.ok.test"])
    for flags in ("A", "F", "FA", "R", "RA", "", "FPU", "SA", "SF", "SR", "SFPU", "S", "SEC", "AU", "FSRPAUEC"):
        for address in (world.API, world.EVIL, world.METADATA, GATEWAY_IP, world.HOST):
            for port in (22, 53, 443):
                segment = TCP(sport=999, dport=port, flags=flags, urgptr=3) / Raw(b"secret")
                lab.guest.inject(bytes(ether() / ip(dst=address) / segment))
    reaches_api(lab)
    assert oracle.leaks({API_TLS}, {"api.ok.test"}) == ()


def test_frames_of_any_length_and_drivers_that_lie_hurt_nobody(oracle: Oracle, workspace: MakeWorkspace) -> None:
    lab = workspace(allow=["api.ok.test"])
    datagram = bytes(ether() / ip() / UDP(dport=53))
    for size in (*range(46), 1515, 9000, 65000, 65535):
        lab.guest.inject(datagram[:size].ljust(size, b"\xff"))
        lab.guest.inject(b"\xff" * size)
    for header, frame in driver_lies():
        lab.guest.inject(frame, header)
    reaches_api(lab)
    assert oracle.leaks({API_TLS}, {"api.ok.test"}) == ()
    assert lab.records("mediator_up")[1:] == []


def test_no_port_of_any_address_of_the_hosts_answers(oracle: Oracle, workspace: MakeWorkspace) -> None:
    """A9, E4, E5: all 65535 of TCP and UDP; each is refused by the rules, but for those of DNS."""
    lab = workspace(allow=[".ok.test"])
    trusted = b"\x02"  # the driver says that checksums are right (VIRTIO_NET_HDR_F_DATA_VALID)
    addresses = (GATEWAY_IP, world.HOST, "127.0.0.1")
    for address in addresses:
        for kind in (TCP(sport=4321, flags="S"), UDP(sport=4321)):
            frame = bytearray(bytes(ether() / ip(dst=address) / kind))
            for port in range(1, 65536):
                frame[36:38] = port.to_bytes(2, "big")
                lab.guest.inject(bytes(frame), trusted)
    reaches_api(lab)
    counted = lab.network.counters()
    refused = {name: counted[name][0] for name in counted if name.startswith("refused")}
    quic = 2 * len(addresses)
    each = 65534 * len(addresses)
    assert refused == {"refused_inside_tcp": each, "refused_inside_udp": each - quic, "refused_udp": quic}
    deadline = time.monotonic() + _PATIENCE
    while (told := _refusals(lab)) != 2 * each:
        assert time.monotonic() < deadline, told
        time.sleep(0.1)
    assert oracle.leaks({API_TLS}, {"api.ok.test"}) == ()


def _refusals(lab: Workspace) -> int:
    """By the records."""
    records = lab.records("egress_internal_deny", "egress_udp_internal_deny", "egress_udp_deny")
    return sum(record.get("count", 1) for record in records)


def test_nothing_of_the_hosts_listens_to_a_guest(oracle: Oracle, workspace: MakeWorkspace) -> None:
    lab = workspace(allow=["api.ok.test"])
    for port in (22, 111, 631, 4000, 4053, 8080):
        for address in (GATEWAY_IP, world.HOST):
            answer = lab.guest.tcp(address, port, b"GET / HTTP/1.0\r\n\r\n")
            assert answer.error or answer.data.startswith(b"HTTP/1.1 4"), (address, port, answer)
    reaches_api(lab)
    assert oracle.leaks({API_TLS}, {"api.ok.test"}) == ()
