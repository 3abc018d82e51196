"""The ClientHello, believed only in one reading; OpenSSL's server is the second opinion."""

import pytest
from tests.unit.wire.hellos import (
    ECH,
    SNI,
    Oracle,
    alpn,
    body,
    hello,
    message,
    openssl_hello,
    records,
    server_name,
    vector,
    versions,
)

from microagent.errors import Malformed
from microagent.wire.client_hello import MAX_HELLO, ClientHello, parse_client_hello_untrusted

NAME = server_name((0, b"api.example.org"))


@pytest.mark.parametrize("tls12", [False, True])
@pytest.mark.parametrize("name", ["api.example.org", "a", "x" * 63 + "." + "y" * 63 + ".example.org", None])
@pytest.mark.parametrize("protocols", [None, ["h2", "http/1.1"]])
def test_hellos_of_openssl_are_read(name: str | None, protocols: list[str] | None, tls12: bool) -> None:
    found = parse_client_hello_untrusted(openssl_hello(name, protocols, tls12=tls12))
    assert found is not None
    assert found.sni == name
    assert found.alpn == tuple(protocol.encode() for protocol in protocols or ())
    assert found.supported_versions == (() if tls12 else found.supported_versions)
    assert tls12 or 0x0304 in found.supported_versions
    assert not found.ech


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 60, 90, 16384])
def test_any_records_and_any_packets_give_the_same_name_at_the_same_byte_as_openssl(size: int) -> None:
    whole = openssl_hello("api.example.org", ["h2"])
    data = records(whole[5:], size)
    expected = parse_client_hello_untrusted(whole)
    oracle = Oracle()
    needed = oracle.feed(data)
    assert oracle.name == "api.example.org"
    for count in range(len(data) + 1):
        found = parse_client_hello_untrusted(data[:count])
        assert found == (expected if count == needed else None), count


def test_early_data_behind_the_hello_is_not_looked_at() -> None:
    data = hello(NAME)
    behind = b"\x14\x03\x03\x00\x01\x01" + b"\x17\x03\x03\x00\x05early"
    assert parse_client_hello_untrusted(data + behind) == parse_client_hello_untrusted(data)


def test_all_facts() -> None:
    data = hello(alpn(b"h2", b"http/1.1"), (ECH, b"\x01"), versions(0x0304, 0x3A3A), server_name((0, b"A.Example.")))
    assert parse_client_hello_untrusted(data) == ClientHello(
        sni="a.example", alpn=(b"h2", b"http/1.1"), ech=True, supported_versions=(0x0304, 0x3A3A), end=len(data)
    )


def test_a_name_behind_60_kib_of_key_shares_is_found() -> None:
    data = hello((51, bytes(60000)), NAME)
    found = parse_client_hello_untrusted(data)
    assert found is not None
    assert found.sni == "api.example.org"


@pytest.mark.parametrize("extensions", [None, ()])
def test_no_extensions_is_no_name(extensions: tuple[()] | None) -> None:
    data = records(message(body(extensions)))
    assert parse_client_hello_untrusted(data) == ClientHello(None, (), False, (), len(data))


AMBIGUOUS = {
    "two host names": hello(server_name((0, b"a.example"), (0, b"b.example"))),
    "an unknown name type first": hello(server_name((1, b"a.example"), (0, b"b.example"))),
    "an unknown name type last": hello(server_name((0, b"a.example"), (1, b"b.example"))),
    "only an unknown name type": hello(server_name((7, b"a.example"))),
    "server_name twice": hello(NAME, NAME),
    "another extension twice": hello(NAME, (51, b""), (51, b"")),
    "an empty extension": hello((SNI, b"")),
    "an empty list": hello(server_name()),
    "an empty name": hello(server_name((0, b""))),
    "a list longer than the extension": hello((SNI, b"\x00\x20" + b"\x00\x00\x01a")),
    "a list shorter than the extension": hello((SNI, b"\x00\x04" + b"\x00\x00\x01a" + b"x")),
    "a name shorter than the list": hello((SNI, vector(2, b"\x00\x00\x01ab"))),
    "an IPv4 address": hello(server_name((0, b"192.0.2.1"))),
    "an IPv6 address": hello(server_name((0, b"2001:db8::1"))),
    "a hexadecimal address": hello(server_name((0, b"0x7f.1"))),
    "a decimal address": hello(server_name((0, b"2130706433"))),
    "a NUL": hello(server_name((0, b"evil.example\x00.a.example"))),
    "a port": hello(server_name((0, b"a.example:443"))),
    "a space": hello(server_name((0, b"a example"))),
    "a letter beyond ASCII": hello(server_name((0, "bücher.example".encode()))),
    "256 bytes": hello(server_name((0, b"a." * 128))),
    "ALPN that is empty": hello(alpn()),
    "ALPN with an empty name": hello(alpn(b"h2", b"")),
    "ALPN that overruns": hello((16, b"\x00\x03\x05h2")),
    "ALPN with 257 names": hello(alpn(*[b"x"] * 257)),
    "supported_versions of odd length": hello((43, b"\x03\x03\x04\x03")),
    "supported_versions that is empty": hello((43, b"\x00")),
    "extensions longer than the hello": records(message(body(None) + b"\x00\x05\x00\x33\x00\x00")),
    "extensions shorter than the hello": records(message(body(None) + b"\x00\x00\x00\x33\x00\x00")),
    "half an extension head": records(message(body(None) + b"\x00\x03\x00\x33\x00")),
    "an extension that overruns": records(message(body(None) + b"\x00\x05\x00\x33\x00\x09x")),
    "a session id of 33 bytes": records(message(body(session=bytes(33)))),
    "no cipher suites": records(message(body(ciphers=b""))),
    "half a cipher suite": records(message(body(ciphers=b"\x13\x01\x13"))),
    "no compression method": records(message(body(compressions=b""))),
    "hello version 2.0": records(message(body(version=b"\x02\x00"))),
    "a body of two bytes": records(message(b"\x03\x03")),
    "a body that ends in its ciphers": records(message(body(None)[:70])),
    "an empty body": records(message(b"")),
    "a ServerHello": records(message(body(), kind=2)),
    "bytes behind the hello in its record": records(message(body()) + b"\x01"),
    "a second hello in the same record": records(message(body()) * 2),
    "record version 2.0": records(message(body()), version=b"\x02\x00"),
    "record version 3.153": records(message(body()), version=b"\x03\x99"),
    "an alert first": records(b"\x01\x70", kind=21) + hello(NAME),
    "a change_cipher_spec first": records(b"\x01", kind=20) + hello(NAME),
    "an empty handshake record first": b"\x16\x03\x01\x00\x00" + hello(NAME),
    "a record of more than 2^14 bytes": b"\x16\x03\x01\x40\x01" + message(body()),
    "a handshake of 2^24-1 bytes": b"\x16\x03\x01\x00\x04\x01\xff\xff\xff",
    "an SSLv2 hello": b"\x80\x2e\x01\x03\x01\x00\x15\x00\x00\x00\x10",
    "HTTP": b"GET / HTTP/1.1\r\n",
}


@pytest.mark.parametrize("data", AMBIGUOUS.values(), ids=AMBIGUOUS.keys())
def test_two_readings_are_none(data: bytes) -> None:
    with pytest.raises(Malformed):
        parse_client_hello_untrusted(data)


@pytest.mark.parametrize(
    "between", [b"\x16\x03\x01\x00\x00", b"\x15\x03\x01\x00\x02\x01\x00", b"\x14\x03\x03\x00\x01\x01"]
)
def test_nothing_may_stand_between_the_records_of_a_hello(between: bytes) -> None:
    first, second = hello(NAME, size=60)[:65], hello(NAME, size=60)[65:]
    assert parse_client_hello_untrusted(first + second) is not None
    with pytest.raises(Malformed):
        parse_client_hello_untrusted(first + between + second)


@pytest.mark.parametrize(
    "start", [b"\x15", b"\x16\x02", b"\x16\x03\x01\x40\x01", b"\x16\x03\x01\x02\x00\x02\x00\x00\x10"]
)
def test_a_hopeless_start_is_refused_before_it_is_whole(start: bytes) -> None:
    with pytest.raises(Malformed):
        parse_client_hello_untrusted(start)


def test_the_cap_counts_the_wire_and_holds_for_any_chunking() -> None:
    data = hello((51, bytes(MAX_HELLO - 400)), NAME, size=100)
    with pytest.raises(Malformed):
        parse_client_hello_untrusted(data)
    seen = [parse_client_hello_untrusted(data[:count]) for count in range(0, MAX_HELLO - 100, 5000)]
    assert seen == [None] * len(seen)
    with pytest.raises(Malformed):
        parse_client_hello_untrusted(data[: MAX_HELLO + 5])
