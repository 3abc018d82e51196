"""The numbers of DNS that this house speaks about (IANA, Domain Name System Parameters)."""

from enum import IntEnum
from functools import lru_cache
from typing import Final

import dns.rdatatype

CLASS_IN: Final = 1
OPCODE_QUERY: Final = 0

# Header flags (RFC 1035 section 4.1.1; CD: RFC 4035 section 3.2.2).
QR: Final = 0x8000
TC: Final = 0x0200
RD: Final = 0x0100
RA: Final = 0x0080
CD: Final = 0x0010
# In the OPT record's TTL (RFC 3225).
DO: Final = 0x8000

# The largest datagram that crosses every path unfragmented (DNS flag day 2020; RFC 9715 section 3.2 allows 1400).
EDNS_SIZE: Final = 1232
# RFC 1035 section 4.2.1, and RFC 6891 section 6.2.3: smaller offers mean this.
PLAIN_SIZE: Final = 512
# RFC 8914 section 4.16: refused by the operator of this resolver.
EDE_OPTION: Final = 15
EDE_BLOCKED: Final = 15


class QType(IntEnum):
    """The types that are decided or answered in a way of their own; all others are just numbers."""

    A = 1
    CNAME = 5
    SOA = 6
    NULL = 10
    PTR = 12
    AAAA = 28
    OPT = 41
    SVCB = 64
    HTTPS = 65
    IXFR = 251
    AXFR = 252
    ANY = 255


class Rcode(IntEnum):
    """Response codes; BADVERS does not fit the header and exists only with EDNS (RFC 6891 section 9)."""

    NOERROR = 0
    FORMERR = 1
    SERVFAIL = 2
    NXDOMAIN = 3
    NOTIMP = 4
    REFUSED = 5
    BADVERS = 16


@lru_cache(maxsize=256)
def qtype_text(qtype: int) -> str:
    """Return `A`, `HTTPS`, or `TYPE65400` for a type without a name (RFC 3597 section 5)."""
    return dns.rdatatype.to_text(dns.rdatatype.RdataType.make(qtype))
