"""What an upstream resolver says: the query we send, and the one chain of records we believe of its response.

How this works: the header and the question are compared with what was asked before anything is parsed, so
that a guessed response costs an attacker a dead message and us nothing. dnspython then reads the records,
and of those only the CNAME chain that starts at the name asked, and the records of the asked type at its
end, are kept. Glue, unasked answers and signatures never reach a guest, a lease or the cache.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final

import dns.exception
import dns.message
import dns.name
import dns.rdatatype
import dns.rrset

from microagent.errors import Malformed
from microagent.wire.dns.codes import CLASS_IN, EDNS_SIZE, QR, RD, TC, QType

# As far as resolvers follow (BIND for long 16, Unbound 11); content networks use up to five links.
MAX_CHAIN: Final = 16
# The largest address sets in use have a few dozen records. TCP has room for 5000, each costing us tens of µs.
_MAX_RECORDS: Final = 512

_HEADER: Final = struct.Struct("!HHHHHH")
_TYPE_CLASS: Final = struct.Struct("!HH")
_OPT: Final = struct.Struct("!BHHIH")


@dataclass(frozen=True, slots=True)
class Record:
    """A record of class IN: `owner` and `rdata` in wire form, without compression; `ttl` in seconds."""

    owner: bytes
    rtype: int
    ttl: int
    rdata: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """What is known about one name and type.

    `addresses` are those of A and AAAA answers, in the upstream's order. `min_ttl` is the smallest TTL on
    the chain, for an empty answer the negative TTL (RFC 2308 section 5), 0 without an SOA. `cnames` are the
    names the chain passed through, for the record only. `truncated`: nothing was read, ask again over TCP.
    """

    rcode: int
    addresses: tuple[IPv4Address | IPv6Address, ...] = ()
    min_ttl: int = 0
    cnames: tuple[str, ...] = ()
    records: tuple[Record, ...] = ()
    truncated: bool = False


# The name exists, the type does not: what HTTPS and SVCB questions get (contract 6).
NODATA: Final = Answer(rcode=0)


def wire_name(name: str) -> bytes:
    """Return the wire form of a canonical name."""
    return b"".join(bytes((len(label),)) + label for label in name.encode("ascii").split(b".")) + b"\0"


def build_upstream_query(ident: int, name: str, qtype: int, *, edns: bool = True) -> bytes:
    """Return a query for a canonical name: recursion desired, our own EDNS size if any, no options."""
    header = _HEADER.pack(ident, RD, 1, 0, 0, int(edns))
    opt = _OPT.pack(0, QType.OPT, EDNS_SIZE, 0, 0) if edns else b""
    return header + wire_name(name) + _TYPE_CLASS.pack(qtype, CLASS_IN) + opt


def parse_response_untrusted(wire: bytes, query_name: str, qtype: int, ident: int) -> Answer:
    """Read an upstream's response to `build_upstream_query`.

    Malformed: not a response to that query (keep waiting for the real one), or one that cannot be believed.
    """
    if len(wire) < 12:
        raise Malformed(f"a DNS message of {len(wire)} bytes")
    got, flags, questions, *counts = _HEADER.unpack_from(wire)
    asked = wire_name(query_name)
    end = 12 + len(asked)
    if got != ident or not flags & QR or flags >> 11 & 15 or questions != 1:
        raise Malformed("a DNS message that is no response to the query")
    if wire[12:end].lower() != asked or wire[end : end + 4] != _TYPE_CLASS.pack(qtype, CLASS_IN):
        raise Malformed("a DNS response to another question")
    if flags & TC:
        return Answer(rcode=flags & 15, truncated=True)
    if sum(counts) > _MAX_RECORDS:
        raise Malformed(f"a DNS response of {sum(counts)} records")
    try:
        message = dns.message.from_wire(wire, one_rr_per_rrset=True)
        return _read(message, dns.name.from_wire(asked, 0)[0], qtype)
    except (dns.exception.DNSException, ValueError) as error:
        raise Malformed(f"a DNS response that does not parse ({type(error).__name__})") from None


def _read(message: dns.message.Message, asked: dns.name.Name, qtype: int) -> Answer:
    links, final = _follow(message.answer, asked, qtype)
    records = tuple(
        Record(rrset.name.canonicalize().to_wire() or b"", rrset.rdtype, rrset.ttl, _rdata(rrset))
        for rrset in (*links, *final)
    )
    addresses: tuple[IPv4Address | IPv6Address, ...] = ()
    if qtype == QType.A:
        addresses = tuple(IPv4Address(record.rdata) for record in records[len(links) :])
    elif qtype == QType.AAAA:
        addresses = tuple(IPv6Address(record.rdata) for record in records[len(links) :])
    ttls = [record.ttl for record in records]
    return Answer(
        rcode=message.rcode(),
        addresses=addresses,
        min_ttl=min(ttls) if final else min([*ttls, _negative_ttl(message.authority)]),
        cnames=tuple(str(link[0].target).rstrip(".").lower() for link in links),
        records=records,
    )


def _follow(
    rrsets: Iterable[dns.rrset.RRset], asked: dns.name.Name, qtype: int
) -> tuple[list[dns.rrset.RRset], list[dns.rrset.RRset]]:
    """Return the CNAMEs from `asked` on, and the records of `qtype` at their end (RFC 1034 section 3.6.2)."""
    aliases: dict[dns.name.Name, dns.rrset.RRset] = {}
    finals: dict[dns.name.Name, list[dns.rrset.RRset]] = {}
    for rrset in rrsets:
        if rrset.rdclass != CLASS_IN:
            continue
        if rrset.rdtype == qtype:
            finals.setdefault(rrset.name, []).append(rrset)
        elif rrset.rdtype == dns.rdatatype.CNAME and aliases.setdefault(rrset.name, rrset) != rrset:
            raise Malformed("two CNAMEs for one name")
    links: list[dns.rrset.RRset] = []
    at = asked
    while at not in finals and at in aliases:
        # A loop is a chain that does not end, so the one bound finds both.
        if len(links) == MAX_CHAIN:
            raise Malformed(f"a CNAME chain of more than {MAX_CHAIN} links")
        links.append(aliases[at])
        at = aliases[at][0].target
    return links, finals.get(at, [])


def _rdata(rrset: dns.rrset.RRset) -> bytes:
    return rrset[0].to_wire() or b""


def _negative_ttl(authority: Iterable[dns.rrset.RRset]) -> int:
    """RFC 2308 section 5: the smaller of the SOA's own TTL and its minimum field."""
    return min(
        (min(rrset.ttl, rrset[0].minimum) for rrset in authority if rrset.rdtype == dns.rdatatype.SOA),
        default=0,
    )
