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

# Go's TLS takes warning alerts of any version up to 15.255 before the ClientHello, and drops them.
_WARNING: Final = re.compile(rb"\x15[\x00-\x0f].\x00\x02\x01", re.DOTALL)

# What separates words is to Python's str.split, and so to http.server, all of this (RFC 9112 section 3 speaks of
# "whitespace-delimited" and lists fewer). The word itself may be anything: Apache and werkzeug take it for a method.
_BLANK: Final = rb"\t\v\f\r\x1c-\x20\x85\xa0"
_FIRST_WORD: Final = re.compile(rb"[\n" + _BLANK + rb"]*+([^\n\x7f\x00-\x08\x0e-\x1b" + _BLANK + rb"]*+)")
_METHOD: Final = re.compile(rb"[A-Za-z][A-Za-z_-]{2,}")
_VERSION: Final = re.compile(rb"HTTP/", re.IGNORECASE)
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0e-\x1b\x7f]")
# A request line need not end in a version that anybody knows: nginx, squid and llhttp (Node.js, aiohttp) take one
# without for HTTP/0.9, and llhttp reads fields behind it, Host among them; it takes RTSP/1.0 for a version, too. GET
# may then ask for anything (http.server), and so does CONNECT. PROXY announces what will be read behind it.
_TARGET: Final = rb"(?:[/*]|(?i:https?):|[A-Za-z][A-Za-z0-9+.-]*+://)"
_BARE_REQUEST: Final = re.compile(
    rb"[\n" + _BLANK + rb"]*+(?:[A-Za-z_-]++[" + _BLANK + rb"]++" + _TARGET + rb"|(?:GET|CONNECT)[" + _BLANK + rb"]++"
    rb"[^\n" + _BLANK + rb"\x00-\x08\x0e-\x1b\x7f]|PROXY )"
)
# Apache takes any word for a method, where it is told to be lenient.
_BEHIND_ANY_WORD: Final = re.compile(rb"[" + _BLANK + rb"]++" + _TARGET)
_PROXY_V2: Final = b"\r\n\r\n\0\r\nQUIT\n"
# Protocols that begin like text and do not end their lines: AMQP, CORBA, RMI, XMPP, JSON. No server is known to take
# these for the beginning of a request that takes nobody's bytes for a method.
_OTHERS: Final = (b"AMQP\0", b"GIOP\1", b"JRMI\0", b"<?xml", b"<stream:", b"{", b"[")


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
        return Sniffed.TLS if data[1] == 3 else _sniff_alert(data)
    if first & 0x80 and (kind := _sniff_sslv2(data)) is not Sniffed.OPAQUE:
        return kind
    return _sniff_text(data)


def _sniff_alert(data: bytes) -> Sniffed:
    """A warning of an odd version; nothing else that is not 3 is taken for a record by anybody."""
    if _WARNING.match(data):
        return Sniffed.TLS
    rest = b"\x15\0\0\0\2\1"[len(data) :]
    return Sniffed.MORE if rest and _WARNING.match(data + rest) else Sniffed.OPAQUE


def _sniff_sslv2(data: bytes) -> Sniffed:
    """A two-byte length, CLIENT-HELLO (1), then version 0.2 or 3.x (RFC 5246 appendix E.2)."""
    for value, expected in zip(data[2:4], ((1,), (0, 3)), strict=False):
        if value not in expected:
            return Sniffed.OPAQUE
    return Sniffed.TLS if len(data) > 3 else Sniffed.MORE


def _sniff_text(data: bytes) -> Sniffed:
    """A request line is known by its end, not by its method: servers take methods that nobody has listed.

    A control byte ends the waiting for one, but not behind what looks like a method: a target may hold any byte.
    """
    data = data[:MAX_SNIFF]
    if data.startswith(_OTHERS):
        return Sniffed.OPAQUE
    if data.startswith(_PROXY_V2) or _BARE_REQUEST.match(data):
        return Sniffed.HTTP
    if _PROXY_V2.startswith(data):
        return Sniffed.MORE
    first = _FIRST_WORD.match(data)
    assert first is not None  # noqa: S101  (it matches nothing, too)
    start, after = first.span(1)
    newline = data.find(b"\n", start)
    end = newline if newline >= 0 else len(data)
    version = _VERSION.search(data, start, end)
    control = _CONTROL.search(data, start, end)
    if control and not (version and version.end() <= control.start()):
        method_like = _METHOD.fullmatch(data, start, after) is not None
        if method_like and control.start() == after:
            return Sniffed.HTTP
        if not method_like:
            return Sniffed.OPAQUE
    if version or (newline >= 0 and _BEHIND_ANY_WORD.match(data, after, end)):
        return Sniffed.HTTP
    return Sniffed.OPAQUE if newline >= 0 else _undecided(data)


def _undecided(data: bytes) -> Sniffed:
    # Past the cap the HTTP parser gets it, which refuses it: an endless first line must not buy an unread relay.
    return Sniffed.MORE if len(data) < MAX_SNIFF else Sniffed.HTTP
