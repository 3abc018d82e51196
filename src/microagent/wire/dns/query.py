"""A guest's query: one question, read once, by hand, because every flow begins with one."""

import struct
from dataclasses import dataclass
from typing import Final

from microagent.errors import Malformed
from microagent.wire.dns.codes import CD, DO, OPCODE_QUERY, PLAIN_SIZE, QR, RD, QType
from microagent.wire.hostname import normalize_untrusted

# RFC 1035 section 3.1: a name has at most 255 octets, its final zero among them.
_MAX_WIRE_NAME: Final = 255
_MAX_LABEL: Final = 63

_HEADER: Final = struct.Struct("!HHHHHH")
_TYPE_CLASS: Final = struct.Struct("!HH")
_RECORD: Final = struct.Struct("!BHHIH")  # a record whose owner is the root
_OPTION: Final = struct.Struct("!HH")


@dataclass(frozen=True, slots=True)
class Query:
    """One question, and what its reply must repeat.

    `name` is canonical (see `hostname`), None when the question holds what cannot be a host name (a dot or
    a NUL inside a label, the root): such a query is still answered, with a refusal. `question` is the
    section as it came, case and all. `edns_size` is the datagram the guest takes, at least 512, None
    without an OPT record; an `edns_version` other than 0 wants BADVERS. With an `opcode` other than 0 the
    rest was not read.
    """

    ident: int
    opcode: int
    rd: bool
    cd: bool
    name: str | None
    question: bytes
    qtype: int
    qclass: int
    edns_size: int | None = None
    edns_version: int = 0
    do: bool = False


def parse_query_untrusted(wire: bytes) -> Query:
    """Read a whole DNS message, no length prefix, as a query; Malformed wants `reply_formerr`."""
    if len(wire) < 12:
        raise Malformed(f"a DNS message of {len(wire)} bytes")
    ident, flags, questions, answers, authorities, additionals = _HEADER.unpack_from(wire)
    if flags & QR:
        raise Malformed("a DNS response where a query must be")
    if questions != 1:
        raise Malformed(f"a DNS query with {questions} questions")
    name, at = _name(wire)
    if len(wire) - at < 4:
        raise Malformed("a DNS question that ends early")
    qtype, qclass = _TYPE_CLASS.unpack_from(wire, at)
    at += 4
    opcode = flags >> 11 & 15
    edns_size, edns_version, do = None, 0, False
    # Other opcodes give their sections other meanings (RFC 2136). They are answered and never acted on.
    if opcode == OPCODE_QUERY:
        if answers or authorities or additionals > 1:
            raise Malformed("a DNS query that carries records")
        if additionals:
            edns_size, edns_version, do = _opt(wire, at)
        elif at != len(wire):
            raise Malformed("bytes after a DNS query")
    return Query(
        ident=ident,
        opcode=opcode,
        rd=bool(flags & RD),
        cd=bool(flags & CD),
        name=name,
        question=wire[12:at],
        qtype=qtype,
        qclass=qclass,
        edns_size=edns_size,
        edns_version=edns_version,
        do=do,
    )


def _name(wire: bytes) -> tuple[str | None, int]:
    """Read the name of the question; return it and where it ends."""
    labels: list[bytes] = []
    at = 12
    try:
        while length := wire[at]:
            # A compression pointer (0xC0) has nothing yet to point to.
            if length > _MAX_LABEL:
                raise Malformed(f"a DNS label that begins with 0x{length:02x}")
            labels.append(wire[at + 1 : at + 1 + length])
            at += 1 + length
            if at >= 12 + _MAX_WIRE_NAME:
                raise Malformed(f"a DNS name of more than {_MAX_WIRE_NAME} bytes")
    except IndexError:
        raise Malformed("a DNS name that ends early") from None
    at += 1
    text = b".".join(labels)
    if text.count(b".") != len(labels) - 1:
        return None, at  # a dot inside a label: two names in one
    try:
        return normalize_untrusted(text), at
    except Malformed:
        return None, at


def _opt(wire: bytes, at: int) -> tuple[int, int, bool]:
    """Read the one additional record as OPT (RFC 6891 section 6.1); return its size, version and DO bit.

    Options are checked for fit and dropped: none is forwarded, and none changes an answer (contract 6).
    """
    if len(wire) - at < 11:
        raise Malformed("a DNS record that ends early")
    owner, kind, size, ttl, length = _RECORD.unpack_from(wire, at)
    if owner or kind != QType.OPT:
        raise Malformed("a DNS query that carries a record other than OPT")
    at += 11
    if len(wire) - at != length:
        raise Malformed("bytes after a DNS query")
    while length >= 4:
        step = 4 + _OPTION.unpack_from(wire, at)[1]
        at += step
        length -= step
    if length:
        raise Malformed("an EDNS option that does not fit")
    return max(PLAIN_SIZE, size), ttl >> 16 & 255, bool(ttl & DO)
