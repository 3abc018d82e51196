"""Names for addresses: the one kind of question that is answered from our own memory (contract 6)."""

import re
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from microagent.wire.dns.answer import Answer, Record, wire_name
from microagent.wire.dns.codes import QType

_OCTET: Final = r"(0|[1-9][0-9]{0,2})"
_IPV4: Final = re.compile(rf"{_OCTET}\.{_OCTET}\.{_OCTET}\.{_OCTET}\.in-addr\.arpa")
_IPV6: Final = re.compile(r"((?:[0-9a-f]\.){32})ip6\.arpa")


def reverse_address(name: str) -> IPv4Address | IPv6Address | None:
    """Return the address that a canonical name stands for (RFC 1035 section 3.5, RFC 3596 section 2.5)."""
    if match := _IPV4.fullmatch(name):
        octets = [int(octet) for octet in match.groups()[::-1]]
        return IPv4Address(bytes(octets)) if max(octets) < 256 else None
    if match := _IPV6.fullmatch(name):
        return IPv6Address(int(match[1].replace(".", "")[::-1], 16))
    return None


def pointer_answer(query_name: str, names: tuple[str, ...], ttl: int) -> Answer:
    """Return the answer to a PTR question for `query_name`: the canonical `names`, for `ttl` seconds."""
    owner = wire_name(query_name)
    records = tuple(Record(owner, QType.PTR, ttl, wire_name(name)) for name in names)
    return Answer(rcode=0, min_ttl=ttl, records=records)
