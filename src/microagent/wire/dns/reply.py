"""What a guest is told: its own question byte for byte, whose case it may check, then the answer (RFC 1035).

Every reply has RA set and neither AA nor AD: this is a resolver, which speaks for nobody and validates
nothing.
"""

import struct
from typing import Final

from microagent.wire.dns.answer import Answer, Record
from microagent.wire.dns.codes import (
    CD,
    DO,
    EDE_BLOCKED,
    EDE_OPTION,
    EDNS_SIZE,
    PLAIN_SIZE,
    QR,
    RA,
    RD,
    TC,
    QType,
    Rcode,
)
from microagent.wire.dns.query import Query

# The longest question leaves 224 bytes of a 512-byte datagram for the text, and a reason should not need TCP.
_MAX_EDE_TEXT: Final = 200
# RFC 1035 section 4.1.4: a pointer has 14 bits.
_MAX_POINTER: Final = 0x3FFF

_HEADER: Final = struct.Struct("!HHHHHH")
_RECORD: Final = struct.Struct("!HHIH")
_OPT: Final = struct.Struct("!BHHIH")
_EDE: Final = struct.Struct("!HHH")


def reply_refused(query: Query, ede_text: str, rcode: int = Rcode.REFUSED) -> bytes:
    """Return REFUSED or `rcode`; if the query has OPT, with Extended DNS Error 15 (RFC 8914) and `ede_text`, cut."""
    text = ede_text.encode()[:_MAX_EDE_TEXT].decode(errors="ignore").encode()
    return _reply(query, rcode, options=_EDE.pack(EDE_OPTION, 2 + len(text), EDE_BLOCKED) + text)


def reply_error(query: Query, rcode: int) -> bytes:
    """Return a reply without records."""
    return _reply(query, rcode)


def reply_formerr(wire: bytes) -> bytes | None:
    """Return FORMERR for what `parse_query_untrusted` refused; None where a reply could start a loop."""
    if len(wire) < 12:
        return None
    ident, flags = struct.unpack_from("!HH", wire)
    if flags & QR:
        return None
    return _HEADER.pack(ident, QR | flags & (0x7800 | RD) | RA | Rcode.FORMERR, 0, 0, 0, 0)


def build_reply(query: Query, answer: Answer, ttl_cap: int) -> bytes:
    """Return `answer` to `query`, no TTL above `ttl_cap` seconds (what a cache has left of it)."""
    records = _pack_records(query, answer.records, ttl_cap)
    return _reply(query, answer.rcode, count=len(answer.records), records=records)


def truncate_to(query: Query, response: bytes, udp: bool) -> bytes:
    """Return `response`, or if it is more than the guest takes, its head with TC set (RFC 2181 section 9)."""
    limit = min(query.edns_size or PLAIN_SIZE, EDNS_SIZE) if udp else 0xFFFF
    if len(response) <= limit:
        return response
    ident, flags = struct.unpack_from("!HH", response)
    opt = _opt(query, 0, b"")
    return _HEADER.pack(ident, flags | TC, 1, 0, 0, 1 if opt else 0) + query.question + opt


def _reply(query: Query, rcode: int, *, count: int = 0, records: bytes = b"", options: bytes = b"") -> bytes:
    opt = _opt(query, rcode, options)
    if rcode > 15 and not opt:
        rcode = Rcode.SERVFAIL
    flags = QR | RA | query.opcode << 11 | rcode & 15
    if query.rd:
        flags |= RD
    if query.cd:
        flags |= CD
    return _HEADER.pack(query.ident, flags, 1, count, 0, 1 if opt else 0) + query.question + records + opt


def _opt(query: Query, rcode: int, options: bytes) -> bytes:
    """OPT answers OPT (RFC 6891 section 6.1.1), with DO as it came (RFC 3225 section 3)."""
    if query.edns_size is None:
        return b""
    ttl = rcode >> 4 << 24 | (DO if query.do else 0)
    return _OPT.pack(0, QType.OPT, EDNS_SIZE, ttl, len(options)) + options


def _pack_records(query: Query, records: tuple[Record, ...], ttl_cap: int) -> bytes:
    """Join the records; owners become pointers to the question or to the CNAME that named them."""
    at = 12 + len(query.question)
    seen = {query.question[:-4].lower(): 12}
    parts: list[bytes] = []
    for record in records:
        pointer = seen.get(record.owner)
        owner = record.owner if pointer is None else (0xC000 | pointer).to_bytes(2, "big")
        head = _RECORD.pack(record.rtype, 1, min(record.ttl, ttl_cap), len(record.rdata))
        rdata_at = at + len(owner) + len(head)
        if record.rtype == QType.CNAME and rdata_at <= _MAX_POINTER:
            seen.setdefault(record.rdata.lower(), rdata_at)
        parts += (owner, head, record.rdata)
        at = rdata_at + len(record.rdata)
    return b"".join(parts)
