"""IPv4 packets: read, for the records of what the kernel dropped, and made, for answers to datagrams (RFC 791).

nflog hands over the first bytes of a packet, so the ports may be missing; the addresses may not.
"""

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

from microagent.errors import Malformed

_HEADER: Final = struct.Struct("!BxHxxHxBxx4s4s")
_PORTS: Final = struct.Struct("!HH")
# TCP, UDP, DCCP, SCTP, UDP-Lite: two 16-bit ports first (IANA, Protocol Numbers).
_WITH_PORTS: Final = frozenset((6, 17, 33, 132, 136))
_FRAGMENT_OFFSET: Final = 0x1FFF
_MORE_FRAGMENTS: Final = 0x2000
_IPV4: Final = struct.Struct("!BxHHHBBxx4s4s")
_UDP: Final = struct.Struct("!HHHxx")
_ICMP: Final = struct.Struct("!BBH4x")
_PORT_UNREACHABLE: Final = (3, 3)  # RFC 792
_TTL: Final = 64

Endpoint = tuple[bytes, int]  # an IPv4 address, packed, and a port


@dataclass(frozen=True, slots=True)
class Packet:
    """Who sent what to whom: `proto` is the IP protocol number, `length` the whole packet's bytes as it
    says itself.

    The ports are None for a protocol without them, a later fragment, or a packet cut before them.
    """

    src: IPv4Address
    dst: IPv4Address
    proto: int
    sport: int | None
    dport: int | None
    length: int


def parse_ipv4_untrusted(data: bytes) -> Packet:
    """Read a packet from its IP header on, cut off anywhere behind that; raises only Malformed."""
    if len(data) < 20:
        raise Malformed(f"an IPv4 packet of {len(data)} bytes")
    first, length, fragment, proto, src, dst = _HEADER.unpack_from(data)
    header = (first & 15) * 4
    if first >> 4 != 4 or header < 20 or length < header:
        raise Malformed("an IPv4 header that does not fit")
    sport, dport = None, None
    if proto in _WITH_PORTS and not fragment & _FRAGMENT_OFFSET and min(len(data), length) >= header + 4:
        sport, dport = _PORTS.unpack_from(data, header)
    return Packet(IPv4Address(src), IPv4Address(dst), proto, sport, dport, length)


def udp_packets(source: Endpoint, destination: Endpoint, payload: bytes, ident: int, mtu: int = 1500) -> list[bytes]:
    """A datagram as the packets that fit `mtu`: one, or fragments under the same `ident` (1 to 65535).

    Header checksums are left to the kernel (raw(7)). The datagram has none, which IPv4 allows (RFC 768): it crosses
    memory, not a wire.
    """
    datagram = _UDP.pack(source[1], destination[1], _UDP.size + len(payload)) + payload
    room = mtu - _IPV4.size & ~7
    if len(datagram) <= mtu - _IPV4.size:
        return [_ipv4(source[0], destination[0], 17, datagram, ident)]
    starts = range(0, len(datagram), room)
    last = starts[-1]
    return [
        _ipv4(
            source[0],
            destination[0],
            17,
            datagram[start : start + room],
            ident,
            start // 8 | (0 if start == last else _MORE_FRAGMENTS),
        )
        for start in starts
    ]


def port_unreachable(guest: Endpoint, server: Endpoint) -> bytes:
    """What `server` would say to a datagram of `guest`'s if nobody listened there (RFC 792, RFC 1122 3.2.2.1)."""
    quoted = _ipv4(guest[0], server[0], 17, _UDP.pack(guest[1], server[1], _UDP.size), 1)
    head = _ICMP.pack(*_PORT_UNREACHABLE, 0)
    message = _ICMP.pack(*_PORT_UNREACHABLE, _checksum(head + quoted)) + quoted
    return _ipv4(server[0], guest[0], 1, message, 0)


def _ipv4(source: bytes, destination: bytes, proto: int, content: bytes, ident: int, fragment: int = 0) -> bytes:
    return _IPV4.pack(0x45, _IPV4.size + len(content), ident, fragment, _TTL, proto, source, destination) + content


def _checksum(data: bytes) -> int:
    """RFC 1071, of an even number of bytes."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total >> 16) + (total & 0xFFFF)
    return int(~total & 0xFFFF)
