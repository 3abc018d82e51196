"""Frames no honest guest sends, by what the rules must count them as. docs/security.md says which attack each is.

Each is made for a host and port that are allowed, so that what is wrong with it is all that can refuse it.
"""

import struct
from collections.abc import Callable, Iterator
from typing import TypeAlias

from scapy.layers.inet import (
    ICMP,
    IP,
    TCP,
    UDP,
    IPOption,
    IPOption_EOL,
    IPOption_LSRR,
    IPOption_NOP,
    IPOption_Router_Alert,
    IPOption_RR,
    IPOption_Security,
    IPOption_SSRR,
    IPOption_Timestamp,
)
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6MLReport,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_Redirect,
    ICMPv6ND_RS,
    ICMPv6NDOptPrefixInfo,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.l2 import ARP, LLC, SNAP, STP, Dot1AD, Dot1Q, Dot3, Ether
from scapy.packet import Packet, Raw

from microagent.api.link import GATEWAY, GATEWAY_MAC, GUEST, GUEST_MAC
from microagent.demo import world

Make: TypeAlias = Callable[[], list[Packet]]

GUEST_IP, GATEWAY_IP = str(GUEST.ip), str(GATEWAY.ip)
SYN = TCP(sport=4321, dport=443, flags="S")
_TO_ALL = "ff:ff:ff:ff:ff:ff"


def ether(**more: object) -> Packet:
    """The header of an honest frame."""
    return Ether(**{"src": GUEST_MAC, "dst": GATEWAY_MAC} | more)


def ip(**more: object) -> Packet:
    """The header of an honest packet to a host that is allowed."""
    return IP(**{"src": GUEST_IP, "dst": world.API} | more)


def _spoofed() -> list[Packet]:
    """F1: other workspaces' addresses, the host's, the gateway's, nobody's, everybody's."""
    sources = ["10.43.0.3", "10.43.0.6", world.HOST, GATEWAY_IP, "0.0.0.0", world.EVIL, "224.0.0.1", "127.0.0.1"]
    sources += ["255.255.255.255", world.API]
    frames = [ether() / ip(src=source) / SYN for source in sources]
    frames += [ether() / ip(src=source) / UDP(dport=53) for source in sources]
    macs = ["02:00:00:00:00:99", GATEWAY_MAC, "00:00:00:00:00:00", _TO_ALL, "01:00:5e:00:00:01"]
    return frames + [ether(src=mac) / ip() / SYN for mac in macs]


def _tagged() -> list[Packet]:
    """F3, CVE-2021-27853 and its kin: VLAN 0 and others, stacked, with SNAP inside, with ARP and IPv6 inside."""
    inside = [ip() / SYN, ARP(hwsrc=GUEST_MAC, psrc=GUEST_IP, pdst=GATEWAY_IP), IPv6(dst=world.EVIL_V6) / SYN]
    stacks: list[list[Packet]] = [[Dot1Q(vlan=0)], [Dot1Q(vlan=7)], [Dot1AD(vlan=0)], [Dot1AD(vlan=0), Dot1Q(vlan=0)]]
    stacks += [[Dot1Q(vlan=0)] * 3, [Dot1Q(vlan=0), Dot1AD(vlan=4095)], [Dot1Q(vlan=0)] * 12]
    frames = []
    for stack in stacks:
        for packet in inside:
            frame = ether()
            for tag in stack:
                frame /= tag.copy()
            frames.append(frame / packet)
    snap = LLC(dsap=0xAA, ssap=0xAA, ctrl=3) / SNAP(code=0x0800) / ip() / SYN
    return [*frames, ether() / Dot1Q(vlan=0, type=len(snap)) / snap]


# fmt: off
_ETHERTYPES = (
    0x0600, 0x0801, 0x0842, 0x22EB, 0x22F0, 0x4305, 0x6558, 0x8035, 0x809B, 0x80F3, 0x8137, 0x8847, 0x8848, 0x8863,
    0x8864, 0x886D, 0x888E, 0x88A2, 0x88A4, 0x88B5, 0x88B8, 0x88BE, 0x88CC, 0x88E5, 0x88E7, 0x88F7, 0x8902, 0x8906,
    0x8915, 0x892F, 0x894F, 0x9000, 0x9100, 0x9200, 0xFFFF,
)
# fmt: on


def _other_ethertypes() -> list[Packet]:
    """F3: MPLS, PPPoE, EAPOL, LLDP, MACsec, ERSPAN, old VLAN tags, LLC in all forms; what they carry is honest."""
    frames = [ether(type=kind) / ip() / SYN for kind in _ETHERTYPES]
    dot3 = Dot3(src=GUEST_MAC, dst=GATEWAY_MAC)
    frames += [dot3 / LLC(dsap=0xAA, ssap=0xAA, ctrl=3) / SNAP(code=kind) / ip() / SYN for kind in (0x800, 0x8100)]
    frames += [dot3 / LLC(dsap=6, ssap=6, ctrl=3) / ip() / SYN]
    return [*frames, Dot3(src=GUEST_MAC, dst="01:80:c2:00:00:00") / LLC(dsap=0x42, ssap=0x42, ctrl=3) / STP()]


def _ipv6() -> list[Packet]:
    """F5, and F6 and F7 in IPv6: whatever it is, there is none."""
    everyone = {"dst": "33:33:00:00:00:01"}
    hop, end = IPv6(src="fe80::2", dst="ff02::1"), IPv6(src="2001:db8::2", dst=world.EVIL_V6)
    prefix = ICMPv6NDOptPrefixInfo(prefix="2001:db8:bad::", prefixlen=64)
    return [
        ether(**everyone) / hop / ICMPv6ND_RA() / prefix,
        ether(**everyone) / hop / ICMPv6ND_RS(),
        ether(**everyone) / hop / ICMPv6ND_NA(tgt="fe80::1", S=0, O=1),
        ether(**everyone) / IPv6(src="::", dst="ff02::1:ff00:1") / ICMPv6ND_NS(tgt="fe80::1"),
        ether(**everyone) / hop / ICMPv6ND_Redirect(tgt="fe80::2", dst=world.EVIL_V6),
        ether(**everyone) / hop / ICMPv6MLReport(mladdr="ff02::fb"),
        ether() / IPv6(src="fe80::2", dst="fe80::1") / TCP(dport=22, flags="S"),
        ether() / IPv6(src="fe80::2", dst="fe80::1") / UDP(dport=53),
        ether() / IPv6(src="::ffff:10.43.0.2", dst="::ffff:203.0.113.66") / SYN,
        ether() / end / ICMPv6EchoRequest(data=b"secret"),
        ether() / end / SYN,
        ether() / end / UDP(dport=443),
        ether() / end / IPv6ExtHdrFragment(offset=0, m=0, id=1) / SYN,
        ether() / end / IPv6ExtHdrFragment(offset=0, m=1, id=2) / Raw(b"x" * 8),
        ether() / end / IPv6ExtHdrRouting(type=0, addresses=["2001:db8::1"]) / SYN,
        ether() / end / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / SYN,
        ether(type=0x86DD) / Raw(b"\x60"),
        ether(src="02:00:00:00:00:99") / end / SYN,
    ]


def _arp() -> list[Packet]:
    """F2: claims of other addresses, gratuitous and not, and questions about every address but the gateway's."""
    broadcast = {"dst": _TO_ALL}
    asked = [world.HOST, world.API, GUEST_IP, "10.43.0.3", "127.0.0.1", "0.0.0.0", "10.43.0.6", "172.17.0.1"]
    frames = [ether(**broadcast) / ARP(hwsrc=GUEST_MAC, psrc=GUEST_IP, pdst=address) for address in asked]
    claims = [(GATEWAY_IP, GATEWAY_IP), (GATEWAY_IP, GUEST_IP), (world.HOST, GATEWAY_IP), ("10.43.0.6", GATEWAY_IP)]
    frames += [ether(**broadcast) / ARP(op=2, hwsrc=GUEST_MAC, psrc=ours, pdst=theirs) for ours, theirs in claims]
    frames += [ether() / ARP(op=2, hwsrc="02:00:00:00:00:99", psrc=GUEST_IP, pdst=GATEWAY_IP)]
    return [*frames, ether(**broadcast) / ARP(op=1, hwsrc=GATEWAY_MAC, psrc=GUEST_IP, pdst=GATEWAY_IP)]


def _misaddressed() -> list[Packet]:
    """To a MAC that is nobody's here."""
    return [ether(dst=mac) / ip() / SYN for mac in ("02:00:00:00:00:99", GUEST_MAC, "00:00:00:00:00:00")]


def _malformed() -> list[Packet]:
    """F4: IPv4 by its type, and not by its header: other versions, or not enough of one."""
    packet = bytes(ip() / SYN)
    frames = [ether(type=0x800) / Raw(bytes([version << 4 | 5]) + packet[1:]) for version in (0, 3, 5, 6, 15)]
    return [*frames, *(ether(type=0x800) / Raw(packet[:size]) for size in (0, 1, 8, 15))]


def _headers() -> list[Packet]:
    """F4: IPv4 headers that contradict themselves."""
    lying = [ip(ihl=4), ip(len=19), ip(len=60000), ip(chksum=0x1234)]
    return [*(ether() / head / SYN for head in lying), ether(type=0x800) / Raw(bytes(ip() / SYN)[:19])]


def _options() -> list[Packet]:
    """F7: routes to take, routes to record, labels, alerts, what nobody knows; on every protocol."""
    routers = [world.EVIL, world.API]
    options = [IPOption_LSRR(routers=routers), IPOption_SSRR(routers=routers), IPOption_RR(length=23, routers=[""] * 0)]
    options += [IPOption_Timestamp(), IPOption_Security(), IPOption_Router_Alert(), IPOption_NOP(), IPOption_EOL()]
    options += [IPOption(copy_flag=1, optclass=3, option=30, length=4, value=b"\x01\x02")]
    frames = []
    for option in options:
        packets = (SYN, UDP(dport=53), UDP(dport=443), UDP(dport=123))
        frames += [ether() / ip(options=[option]) / packet for packet in packets]
        frames.append(ether() / ip(dst=GATEWAY_IP, options=[option]) / ICMP())
    return frames


def _icmp() -> list[Packet]:
    """F8, F12: every type to the world, every type but echo to the gateway, and errors about other people's flows."""
    frames = [ether() / ip() / ICMP(type=kind, code=0) / Raw(b"secret") for kind in range(256)]
    frames += [ether() / ip(dst=GATEWAY_IP) / ICMP(type=kind, code=0) for kind in range(256) if kind != 8]
    flow = IP(src=world.HOST, dst=world.API) / TCP(sport=40000, dport=443)
    lies = [ICMP(type=3, code=4, nexthopmtu=68), ICMP(type=3, code=3), ICMP(type=5, code=1, gw=GUEST_IP)]
    lies += [ICMP(type=11, code=0), ICMP(type=4)]
    for target in (GATEWAY_IP, world.HOST, world.API):
        frames += [ether() / ip(dst=target) / lie / flow for lie in lies]
    return frames


def _protocols() -> list[Packet]:
    """F8: every IP protocol but TCP, UDP and ICMP; IPIP, 6in4, GRE, ESP, SCTP, UDP-Lite and the rest."""
    carried = bytes(IP(src=world.HOST, dst=world.EVIL) / SYN)
    return [ether() / ip(proto=number) / Raw(carried) for number in range(256) if number not in (1, 6, 17)]


def _multicast() -> list[Packet]:
    """F10: mDNS, SSDP, LLMNR, NetBIOS, DHCP, and one address in a frame to all."""
    many = [("224.0.0.251", 5353), ("224.0.0.252", 5355), ("239.255.255.250", 1900), ("233.1.1.1", 123)]
    many += [("10.43.0.3", 137), ("255.255.255.255", 67), ("255.255.255.255", 68), ("224.0.0.1", 53)]
    frames = [ether() / ip(dst=address) / UDP(sport=port, dport=port) for address, port in many]
    frames += [ether(dst="01:00:5e:00:00:fb") / ip(dst="224.0.0.251") / UDP(dport=5353)]
    frames += [ether() / ip(dst=address) / SYN for address, _ in many]
    return frames + [ether(dst=mac) / ip() / SYN for mac in (_TO_ALL, "01:00:5e:00:00:01", "33:33:00:00:00:01")]


def _truncated() -> list[Packet]:
    """F4: packets that end before their TCP or UDP header does."""
    frames = [ether() / ip(proto=17) / Raw(b"\x10\x00\x00\x7b"[:size]) for size in range(5)]
    frames += [ether() / ip(proto=6) / Raw(bytes(SYN)[:size]) for size in (0, 1, 4, 12, 16)]
    # Data offsets below five words, and those beyond the segment's end, by one byte.
    ends = [(words, size) for words in range(5) for size in (20, 80)]
    ends += [(words, 4 * words - 1) for words in range(5, 16)]
    for port in (443, 53):
        for words, size in ends:
            segment = bytes(TCP(sport=4321, dport=port, flags="S", dataofs=words) / Raw(bytes(60)))
            frames.append(ether() / ip(proto=6) / Raw(segment[:size]))
    return frames


def _lengths() -> list[Packet]:
    """F4: datagrams that say they are shorter than their own header, or longer than they are."""
    data = Raw(b"x" * 20)
    return [
        ether() / ip() / UDP(sport=4000, dport=port, len=length, chksum=0) / data
        for port in (53, 123)
        for length in (0, 1, 7, 29, 30, 65535)
    ]


def _checksums() -> list[Packet]:
    """F4: to where an honest one is answered, with a checksum that is wrong by one bit."""
    gateway = ip(dst=GATEWAY_IP)
    packets = [ip() / SYN, ip() / UDP(dport=123), gateway / UDP(dport=53), gateway / TCP(dport=53), gateway / ICMP()]
    for packet in packets:
        packet.payload.chksum = IP(bytes(packet)).payload.chksum ^ 1
    return [ether() / packet for packet in packets]


def _pieces() -> list[Packet]:
    """F6, F14: one each of what cannot become whole; every datagram is another `id`."""
    whole = bytes(UDP(sport=4000, dport=123) / Raw(b"x" * 56))
    ids = iter(range(1, 1000))

    def piece(ident: int, at: int, data: bytes, *, more: bool) -> Packet:
        return ether() / ip(id=ident, proto=17, frag=at // 8, flags="MF" if more else 0) / Raw(data)

    teardrop, tiny, late, hole, huge, twice = (next(ids) for _ in range(6))
    return [
        # Overlaps, once with another destination port in what comes second.
        piece(teardrop, 0, whole[:32], more=True),
        piece(teardrop, 24, whole[24:], more=False),
        piece(twice, 0, whole[:16], more=True),
        piece(twice, 8, bytes(UDP(sport=4000, dport=443)) + whole[16:], more=False),
        # Never all of it: a first piece of eight bytes, a last one alone, a hole.
        piece(tiny, 0, whole[:8], more=True),
        piece(late, 32, whole[32:], more=False),
        piece(hole, 0, whole[:16], more=True),
        piece(hole, 32, whole[32:], more=False),
        # Longer than a datagram can be.
        piece(huge, 65528, b"x" * 64, more=False),
    ]


def _ports_sent_late() -> Iterator[Packet]:
    """F6: the flags of the TCP header in the second piece, so that the first shows none."""
    segment = bytes(ip() / SYN)[20:]
    yield ether() / ip(id=77, proto=6, flags="MF") / Raw(segment[:8])
    yield ether() / ip(id=77, proto=6, frag=1) / Raw(segment[8:])


# What the record calls it -> the frames that must be counted as that, each once, and must go nowhere.
FRAMES: dict[str, Make] = {
    "spoof": _spoofed,
    "vlan": _tagged,
    "ethertype": _other_ethertypes,
    "ipv6": _ipv6,
    "arp": _arp,
    "misaddressed": _misaddressed,
    "malformed": _malformed,
    "header": _headers,
    "checksum": _checksums,
    "options": _options,
    "icmp": _icmp,
    "proto": _protocols,
    "multicast": _multicast,
    "truncated": _truncated,
    "length": _lengths,
}

# Of `pieces`, as many datagrams as can never be whole.
PIECES: Make = _pieces
BROKEN_DATAGRAMS = 6


def tcp_in_pieces() -> list[Packet]:
    """An honest SYN, whole once it is put together."""
    return list(_ports_sent_late())


def driver_lies() -> list[tuple[bytes, bytes]]:
    """F4, CVE-2024-41090 and its kin: (struct virtio_net_hdr, frame) where what the driver says cannot be.

    flags, gso_type, hdr_len, gso_size, csum_start, csum_offset (virtio 1.2, 5.1.6).
    """
    frame = bytes(ether() / ip() / SYN / Raw(b"secret" * 500))
    says = [
        (1, 0, 0, 0, 0xFFFF, 0xFFFF),
        (1, 0, 0, 0, len(frame) - 1, 2),
        (0, 1, 0xFFFF, 1, 0, 0),
        (1, 1, 54, 0, 34, 16),
        (1, 1, 54, 1, 34, 16),
        (1, 1, 14, 0xFFFF, 34, 16),
        (1, 4, 54, 100, 34, 16),
        (1, 3, 42, 8, 34, 6),
        (1, 5, 42, 1, 34, 6),
        (0, 0x81, 54, 100, 34, 16),
        (0xFF, 0xFF, 0xFFFF, 0xFFFF, 0xFFFF, 0xFFFF),
    ]
    lies = [(struct.pack("=BBHHHH", *words), frame) for words in says]
    return lies + [(header, frame[:size]) for header, _ in lies for size in (0, 13, 14, 20, 34)]
