"""An IPv4 packet's addresses and ports, for the records of what the kernel dropped (RFC 791).

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
