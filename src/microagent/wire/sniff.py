"""Which parser a client's first bytes belong to.

The rule is lopsided on purpose. A flow taken for opaque is decided by its address and then relayed unread,
so everything that some server might read as TLS or HTTP, however sloppily written, must not be called
opaque: it goes to the strict parser, and is refused there.
"""

import re
from enum import StrEnum
from typing import Final

# As much as the ClientHello and the HTTP head may have (contract 12).
MAX_SNIFF: Final = 65536

_HANDSHAKE: Final = 0x16
# RFC 8446 section 5.1 and its successors: 20 change_cipher_spec, 21 alert, 22 handshake, 23 data, 24
# heartbeat, 25, 26. OpenSSL tolerates warning alerts before the ClientHello, so any record type may be the
# start of a TLS stream.
_RECORD_TYPES: Final = range(0x14, 0x1B)

# Leading blank bytes are skipped because servers skip them (RFC 9112 section 2.2); then comes a token.
_FIRST_WORD: Final = re.compile(rb"[\t\n\r ]*+[!#$%&'*+\-.^_`|~0-9A-Za-z]*+")
_BLANK: Final = b"\t\v\f "
# HTTP/0.9 has no version to be known by: a method in capitals and a path.
_BARE_REQUEST: Final = re.compile(rb"[\t\n\r ]*+[A-Z]++[\t\v\f ]++(?:/|https?:)")


class Sniffed(StrEnum):
    """What the first bytes are; MORE: they could still become any of the three."""

    TLS = "tls"
    HTTP = "http"
    OPAQUE = "opaque"
    MORE = "more"


def sniff_untrusted(data: bytes) -> Sniffed:
    """Name the protocol of a client's stream from its first bytes; never raises.

    More bytes never change an answer other than MORE.
    """
    if not data:
        return Sniffed.MORE
    first = data[0]
    if first == _HANDSHAKE:
        return Sniffed.TLS
    if first in _RECORD_TYPES:
        if len(data) == 1:
            return Sniffed.MORE
        return Sniffed.TLS if data[1] == 3 else Sniffed.OPAQUE
    if first & 0x80:
        return _sniff_sslv2(data)
    return _sniff_text(data)


def _sniff_sslv2(data: bytes) -> Sniffed:
    """A two-byte length, CLIENT-HELLO (1), then version 0.2 or 3.x (RFC 5246 appendix E.2)."""
    for value, expected in zip(data[2:4], ((1,), (0, 3)), strict=False):
        if value not in expected:
            return Sniffed.OPAQUE
    return Sniffed.TLS if len(data) > 3 else Sniffed.MORE


def _sniff_text(data: bytes) -> Sniffed:
    """A request line is known by its end, not by its method: servers take methods that nobody has listed."""
    data = data[:MAX_SNIFF]
    word = _FIRST_WORD.match(data)
    after = word.end() if word else 0
    if after == len(data):
        return _undecided(data)
    if data[after] not in _BLANK:
        return Sniffed.OPAQUE
    if _BARE_REQUEST.match(data):
        return Sniffed.HTTP
    end = data.find(b"\n", after)
    if b"HTTP/" in (data[:end] if end >= 0 else data).upper():
        return Sniffed.HTTP
    return Sniffed.OPAQUE if end >= 0 else _undecided(data)


def _undecided(data: bytes) -> Sniffed:
    # Past the cap the HTTP parser gets it, which refuses it: an endless first line must not buy an unread relay.
    return Sniffed.MORE if len(data) < MAX_SNIFF else Sniffed.HTTP
