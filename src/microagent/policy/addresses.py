"""What an address is: public, private, or never to be reached by a name (contract 4).

How this works. `ipaddress.is_private` and `is_global` are not asked: they call 64:ff9b::a9fe:a9fe global and
100.64.0.1 neither. An IPv6 address that carries an IPv4 address is decoded first, and judged by what it carries.
Then `address_table.TABLE`, flattened at import into disjoint ranges, answers with one bisection. What can be read
in more than one way is the worst of its readings.
"""

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    collapse_addresses,
    ip_network,
)
from typing import Final

from microagent.policy.address_table import TABLE

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


class AddressClass(StrEnum):
    """How far a destination is from the public internet."""

    PUBLIC = "public"
    PRIVATE = "private"
    NEVER_BY_NAME = "never_by_name"


@dataclass(frozen=True, slots=True)
class Classification:
    """`kind`, and in a few words what the address is: "RFC 1918", "metadata", "link-local"; "" when public."""

    kind: AddressClass
    what: str = ""


PUBLIC: Final = Classification(AddressClass.PUBLIC)
HOST: Final = Classification(AddressClass.NEVER_BY_NAME, "an address of this host")
OPERATOR: Final = Classification(AddressClass.PRIVATE, "private by this host's configuration")
_WORST_FIRST: Final = (AddressClass.NEVER_BY_NAME, AddressClass.PRIVATE, AddressClass.PUBLIC)


def classify(
    address: Address,
    host_addresses: frozenset[Address] = frozenset(),
    extra_private: tuple[Network, ...] = (),
) -> Classification:
    """Judge `address`; `host_addresses` are this host's own, `extra_private` what the operator adds."""
    readings = decode(address)
    if len(readings) == 1:
        return _judge(readings[0], host_addresses, extra_private)
    judged = [_judge(reading, host_addresses, extra_private) for reading in readings]
    return min(judged, key=lambda c: _WORST_FIRST.index(c.kind))


def _judge(address: Address, host_addresses: frozenset[Address], extra_private: tuple[Network, ...]) -> Classification:
    if host_addresses and address in host_addresses:
        return HOST
    found = _lookup(address)
    if extra_private and found is PUBLIC and any(address in network for network in extra_private):
        return OPERATOR
    return found


_LOW_32: Final = 0xFFFFFFFF
_TEREDO: Final = 0x2001_0000  # 2001::/32, RFC 4380
_6TO4: Final = 0x2002  # 2002::/16, RFC 3056
_NAT64_LOCAL: Final = 0x0064_FF9B_0001  # 64:ff9b:1::/48, RFC 8215
# The upper 96 bits of the forms that carry an IPv4 address in the lower 32.
_IN_LOW_32: Final = frozenset(
    {
        0,  # ::a.b.c.d, IPv4-compatible, RFC 4291 section 2.5.5.1
        0xFFFF,  # ::ffff:a.b.c.d, IPv4-mapped, RFC 4291 section 2.5.5.2
        0xFFFF_0000,  # ::ffff:0:a.b.c.d, IPv4-translated, RFC 2765
        0x0064_FF9B << 64,  # 64:ff9b::a.b.c.d, RFC 6052
    }
)


def decode(address: Address) -> tuple[Address, ...]:
    """The addresses that traffic to `address` ends at: itself, or the IPv4 addresses it carries.

    Teredo carries two (server, client); a local NAT64 prefix of unknown length has several readings.
    """
    if isinstance(address, IPv4Address):
        return (address,)
    bits = int(address)
    if bits >> 32 in _IN_LOW_32:
        return (IPv4Address(bits & _LOW_32),) if bits > 1 else (address,)  # not :: and ::1
    if bits >> 112 == _6TO4:
        return (IPv4Address(bits >> 80 & _LOW_32),)
    if bits >> 96 == _TEREDO:
        return (IPv4Address(bits >> 64 & _LOW_32), IPv4Address(~bits & _LOW_32))
    if bits >> 80 == _NAT64_LOCAL:
        return _local_nat64(bits) or (address,)
    return (address,)


def _local_nat64(bits: int) -> tuple[Address, ...]:
    """Every reading of an address under 64:ff9b:1::/48 that RFC 6052 section 2.2 allows, for /48, /56, /64 and /96.

    Bits 64 to 71 are always zero and lie outside the IPv4 address; what follows it is zero.
    """
    if bits >> 56 & 0xFF:
        return ()
    squeezed = bits >> 64 << 56 | bits & ((1 << 56) - 1)  # 120 bits, without those eight
    found: list[Address] = []
    for prefix in (48, 56, 64, 88):  # 88: /96 less the eight bits
        suffix = 120 - prefix - 32
        if squeezed & ((1 << suffix) - 1) == 0:
            found.append(IPv4Address(squeezed >> suffix & _LOW_32))
    return tuple(found)


# Every prefix that `decode` looks into. An address entry inside one would be spelled in a way nothing is matched by.
CARRIERS: Final = tuple(
    IPv6Network(block)
    for block in (
        "::/96",
        "::ffff:0:0/96",
        "::ffff:0:0:0/96",
        "64:ff9b::/96",
        "64:ff9b:1::/48",
        "2001::/32",
        "2002::/16",
    )
)


def carries_ipv4(network: Network) -> bool:
    """Whether `network` is one address, or a block, of a form that carries IPv4 addresses."""
    if isinstance(network, IPv4Network):
        return False
    if network.prefixlen == network.max_prefixlen:
        return decode(network.network_address) != (network.network_address,)
    return any(network.subnet_of(block) for block in CARRIERS)


@dataclass(frozen=True, slots=True)
class _Ranges:
    """Disjoint ranges that cover one address family: `starts[i]` up to the next start is `classes[i]`."""

    starts: tuple[int, ...]
    classes: tuple[Classification, ...]


def _flatten(rows: Iterable[tuple[Network, Classification]]) -> _Ranges:
    """Nested blocks to disjoint ranges, the most specific block speaking for each address."""
    by_size = sorted(rows, key=lambda row: row[0].prefixlen, reverse=True)
    edges = {0}
    for block, _ in by_size:
        edges |= {int(block.network_address), int(block.broadcast_address) + 1}
    starts = tuple(sorted(edges))
    classes = tuple(
        next(
            (c for b, c in by_size if int(b.network_address) <= start <= int(b.broadcast_address)),
            PUBLIC,
        )
        for start in starts
    )
    return _Ranges(starts, classes)


_ROWS: Final = tuple((ip_network(b), Classification(AddressClass(k), what)) for b, k, what in TABLE)
_V4: Final = _flatten(row for row in _ROWS if row[0].version == 4)
_V6: Final = _flatten(row for row in _ROWS if row[0].version == 6)


def _lookup(address: Address) -> Classification:
    ranges = _V4 if address.version == 4 else _V6
    return ranges.classes[bisect_right(ranges.starts, int(address)) - 1]


def wholly_never_by_name(network: Network) -> bool:
    """Whether every address of `network`, taken as it is spelled, is never-by-name."""
    ranges = _V4 if network.version == 4 else _V6
    first = bisect_right(ranges.starts, int(network.network_address)) - 1
    last = bisect_right(ranges.starts, int(network.broadcast_address)) - 1
    return all(c.kind is AddressClass.NEVER_BY_NAME for c in ranges.classes[first : last + 1])


def _blocks_v4(kind: AddressClass) -> tuple[IPv4Network, ...]:
    return tuple(
        collapse_addresses(block for block, found in _ROWS if isinstance(block, IPv4Network) and found.kind is kind)
    )


# For the kernel's sets: each without overlaps in itself. A never-by-name block may lie inside a private one.
PRIVATE_V4: Final = _blocks_v4(AddressClass.PRIVATE)
NEVER_BY_NAME_V4: Final = _blocks_v4(AddressClass.NEVER_BY_NAME)
