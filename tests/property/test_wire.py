"""Any bytes raise only Malformed; any pieces give the same facts.

The parsers are found by their names, so that a new one is tested before anyone thinks of it.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from typing import Any

import dns.message
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.wire.hellos import ECH, Oracle, alpn, body, message, records, server_name, versions

import microagent.wire
from microagent.errors import Malformed
from microagent.wire.client_hello import ClientHello, parse_client_hello_untrusted
from microagent.wire.dns import (
    QType,
    build_upstream_query,
    parse_query_untrusted,
    parse_response_untrusted,
    reply_error,
    reply_formerr,
    reply_refused,
    truncate_to,
)
from microagent.wire.hostname import normalize_untrusted
from microagent.wire.http1 import ChunkedBody, find_head_end, parse_request_head_untrusted
from microagent.wire.http2 import BlockDecoder
from microagent.wire.sniff import Sniffed, sniff_untrusted

# What a parser wants beside the bytes, by the parameter's name.
ARGUMENTS: dict[str, Any] = {"query_name": "a.example", "qtype": 1, "ident": 7, "request_method": "GET"}


def parsers() -> list[Callable[..., object]]:
    """Every function in wire/ whose name ends in `_untrusted`."""
    modules = pkgutil.walk_packages(microagent.wire.__path__, "microagent.wire.")
    found = {
        name: function
        for module in modules
        for name, function in inspect.getmembers(importlib.import_module(module.name), inspect.isfunction)
        if name.endswith("_untrusted")
    }
    return [found[name] for name in sorted(found)]


def call(parser: Callable[..., object], data: bytes) -> object:
    """The facts, or None if the bytes are Malformed; any other exception is the test's failure."""
    first, *others = inspect.signature(parser).parameters
    try:
        if first == "fields":  # what reads a decoded header block gets what HPACK makes of the bytes
            return parser(BlockDecoder(65536).decode_untrusted(data))
        return parser(**{first: data}, **{name: ARGUMENTS[name] for name in others if name in ARGUMENTS})
    except Malformed:
        return None


HELLO = records(message(body([server_name((0, b"a.example")), alpn(b"h2"), versions(0x0304), (ECH, b"")])))
RESPONSE = (
    build_upstream_query(7, "a.example", 1)[:2]
    + b"\x81\x80\x00\x01\x00\x02\x00\x00\x00\x00\x01a\x07example\x00\x00\x01\x00\x01"
    + b"\xc0\x0c\x00\x05\x00\x01\x00\x00\x00\x10\x00\x04\x01b\xc0\x0e"
    + b"\xc0\x27\x00\x01\x00\x01\x00\x00\x00\x10\x00\x04\xc0\x00\x02\x01"
)
SEEDS = [
    b"api.example.",
    HELLO,
    records(HELLO[5:], 3),
    build_upstream_query(7, "a.example", 1),
    RESPONSE,
    b"POST http://a.example:80/x?y HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\nConnection: close\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: [2001:db8::1]:80\r\nTransfer-Encoding: chunked\r\nUpgrade: websocket\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n",
    b"[2001:db8::1]:443",
    # HTTP/2: three header blocks (a request, a response, trailers), then frames.
    b"\x82\x87\x84\x41\x09a.example\x0f\x0d\x015",
    b"\x88\x00\x01x\x01y",
    b"\x00\x0bgrpc-status\x010",
    b"\x00\x00\x0c\x04\x00\x00\x00\x00\x00\x00\x01\x00\x00\x10\x00\x00\x04\x00\x00\xff\xff",
    b"\x00\x00\x05\x01\x0d\x00\x00\x00\x01\x01\x82\x87\x84\x00\x00\x00\x02\x00\x01\x00\x00\x00\x01hi",
    bytes.fromhex("4500002800000000400600000a2b0002c000020704d201bb"),
]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A good message with a few bytes changed, inserted or taken out."""
    data = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 3)))
        data[start:end] = draw(st.binary(max_size=4))
    return bytes(data)


def pieces(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """`data` cut in up to eight places."""
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=8)))
    return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


@st.composite
def stream(draw: st.DrawFn) -> list[bytes]:
    """Anything, or something nearly good, in pieces."""
    return pieces(draw, draw(st.one_of(st.binary(max_size=300), damaged())))


def test_the_parsers_are_found() -> None:
    names = {parser.__name__ for parser in parsers()}
    assert {"sniff_untrusted", "parse_query_untrusted", "parse_authority_untrusted"} <= names
    for seed in SEEDS:
        assert any(call(parser, seed) is not None for parser in parsers()), seed


@pytest.mark.parametrize("parser", parsers(), ids=lambda parser: parser.__name__)
@given(data=st.one_of(st.binary(max_size=300), damaged()))
def test_any_bytes_raise_only_malformed(parser: Callable[..., object], data: bytes) -> None:
    assert call(parser, data) == call(parser, data)


@given(data=st.one_of(st.binary(max_size=300), damaged()))
def test_names_are_spelled_once(data: bytes) -> None:
    try:
        name = normalize_untrusted(data)
    except Malformed:
        return
    assert normalize_untrusted(name.encode("ascii")) == name == name.lower()


@given(data=stream())
def test_what_was_sniffed_stays(data: list[bytes]) -> None:
    whole = sniff_untrusted(b"".join(data))
    seen = b""
    for piece in data:
        seen += piece
        assert sniff_untrusted(seen) in (Sniffed.MORE, whole)


@given(data=stream())
def test_a_hello_is_the_same_in_any_packets(data: list[bytes]) -> None:
    whole = call(parse_client_hello_untrusted, b"".join(data))
    seen = b""
    found = None
    for piece in data:
        seen += piece
        try:
            found = parse_client_hello_untrusted(seen)
        except Malformed:
            break
        if found is not None:
            break
    assert found == whole


@given(size=st.integers(1, 200), names=st.lists(st.sampled_from([0, 16, 43, 51, ECH]), max_size=4, unique=True))
def test_a_hello_is_the_same_in_any_records(size: int, names: list[int]) -> None:
    known = {0: server_name((0, b"a.example")), 16: alpn(b"h2"), 43: versions(0x0304)}
    handshake = message(body([known.get(name, (name, b"")) for name in names]))
    assert parse_client_hello_untrusted(records(handshake, size)) == parse_client_hello_untrusted(records(handshake))


@given(data=damaged().filter(lambda data: data[:1] == b"\x16"))
def test_openssl_never_sees_another_name(data: bytes) -> None:
    found = call(parse_client_hello_untrusted, data)
    if isinstance(found, ClientHello):
        oracle = Oracle()
        if oracle.feed(data):
            assert (oracle.name and oracle.name.lower().removesuffix(".")) == found.sni


@given(data=stream())
def test_a_head_is_the_same_in_any_packets(data: list[bytes]) -> None:
    whole = b"".join(data)
    seen = b""
    end = -1
    for piece in data:
        seen += piece
        end = find_head_end(seen)
        if end >= 0:
            break
    assert end == find_head_end(whole)
    if end >= 0:
        assert call(parse_request_head_untrusted, seen[:end]) == call(parse_request_head_untrusted, whole[:end])


@st.composite
def chunked(draw: st.DrawFn) -> list[bytes]:
    """A chunked body with bytes behind it, perhaps damaged, in pieces."""
    chunks = draw(st.lists(st.binary(min_size=1, max_size=40), max_size=4))
    data = bytearray(b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks))
    data += draw(st.sampled_from([b"0\r\n\r\n", b"0;x=y\r\nX: y\r\n\r\n"])) + draw(st.binary(max_size=10))
    if draw(st.booleans()):
        at = draw(st.integers(0, len(data)))
        data[at : at + 1] = draw(st.sampled_from([b"", b"\r", b"\n", b"0", b";", b" "]))
    return pieces(draw, bytes(data))


def end_of(data: list[bytes]) -> int | None:
    """Where the body ends; None if it is malformed, -1 if it does not end."""
    parser = ChunkedBody()
    total = 0
    for piece in data:
        try:
            used, done = parser.feed(piece)
        except Malformed:
            return None
        total += used
        if done:
            return total
    return -1


@given(data=chunked())
def test_a_body_ends_at_the_same_byte_in_any_pieces(data: list[bytes]) -> None:
    assert end_of(data) == end_of([b"".join(data)])


@given(data=st.one_of(st.binary(max_size=300), damaged()))
def test_every_query_has_a_reply_that_dnspython_reads(data: bytes) -> None:
    try:
        query = parse_query_untrusted(data)
    except Malformed:
        reply = reply_formerr(data)
        assert reply is None or dns.message.from_wire(reply).id == int.from_bytes(data[:2], "big")
        return
    for reply in (reply_refused(query, "why"), reply_error(query, 16), truncate_to(query, bytes(2000), udp=True)):
        assert query.question in reply
    if query.opcode == 0:
        assert dns.message.from_wire(reply_refused(query, "why")).id == query.ident


@given(data=st.binary(max_size=200), counts=st.binary(min_size=6, max_size=6))
def test_any_records_behind_our_own_question(data: bytes, counts: bytes) -> None:
    counts = bytes(byte & 1 if at % 2 == 0 else byte for at, byte in enumerate(counts))
    wire = RESPONSE[:6] + counts + RESPONSE[12:27] + data
    call(parse_response_untrusted, wire)
    with pytest.raises(Malformed):
        parse_response_untrusted(wire, "b.example", QType.A, 7)
