"""Request heads: one reading or 400."""

import h11
import pytest

from microagent.errors import Malformed
from microagent.wire.http1 import (
    CHUNKED,
    NO_BODY,
    BodyKind,
    Framing,
    RequestHead,
    find_head_end,
    parse_request_head_untrusted,
)
from microagent.wire.http1.head import DEFAULT_LIMITS
from microagent.wire.http1.request import parse_authority_untrusted


def head(*fields: str, line: str = "GET / HTTP/1.1", host: str | None = "api.example") -> bytes:
    """A head with these fields; `host` None leaves out the Host that comes first."""
    lines = [line, *([] if host is None else [f"Host: {host}"]), *fields, "", ""]
    return "\r\n".join(lines).encode("latin-1")


def test_all_facts() -> None:
    found = parse_request_head_untrusted(
        head(
            "content-length:\t17 ",
            "Upgrade: WebSocket, h2c",
            "Connection: Upgrade , close",
            line="POST /v1//x/?q=http://other.example/ HTTP/1.1",
            host="API.Example.:8080",
        )
    )
    assert found == RequestHead(
        method="POST",
        target=b"/v1//x/?q=http://other.example/",
        path="/v1//x/",
        version=(1, 1),
        host="api.example",
        port=8080,
        framing=Framing(BodyKind.LENGTH, 17),
        upgrade="websocket,h2c",
        websocket_key=None,
        connect=False,
        close=True,
        absolute_scheme=None,
    )


@pytest.mark.parametrize(
    ("line", "host", "expected"),
    [
        ("GET http://api.example HTTP/1.1", "api.example", ("/", "http")),
        ("GET HTTP://API.example:80/a?b HTTP/1.1", "api.example", ("/a", "http")),
        ("GET http://api.example/a HTTP/1.1", "api.example:80", ("/a", "http")),
        ("GET https://api.example/?b HTTP/1.1", "api.example:443", ("/", "https")),
        ("OPTIONS * HTTP/1.1", "api.example", ("*", None)),
    ],
)
def test_targets(line: str, host: str, expected: tuple[str, str | None]) -> None:
    found = parse_request_head_untrusted(head(line=line, host=host))
    assert (found.path, found.absolute_scheme) == expected
    assert found.host == "api.example"


def test_connect() -> None:
    found = parse_request_head_untrusted(head(line="CONNECT a.example:443 HTTP/1.1", host="a.example:443"))
    assert (found.connect, found.host, found.port, found.path) == (True, "a.example", 443, "")


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"a.example", ("a.example", None)),
        (b"a_b.example:65535", ("a_b.example", 65535)),
        (b"192.0.2.1:8080", ("192.0.2.1", 8080)),
        (b"[2001:DB8::1]", ("2001:db8::1", None)),
        (b"[0:0::2]:80", ("::2", 80)),
    ],
)
def test_authorities(raw: bytes, expected: tuple[str, int | None]) -> None:
    assert parse_authority_untrusted(raw) == expected


@pytest.mark.parametrize(
    "raw",
    [
        "",
        ":80",
        "a.example:",
        "a.example:0",
        "a.example:080",
        "a.example:65536",
        "a.example:+80",
        "a.example:8_0",
        "a.example:80:80",
        "user@a.example",
        "a.example,b.example",
        "a.example b.example",
        "a.example\tb.example",
        "a%00.example",
        "a.example/",
        "a..example",
        ".a.example",
        "a.example..",
        "a.example\x85",
        "a\xa0.example",
        "b\xfccher.example",
        "127.1",
        "010.0.0.1",
        "0x7f.1",
        "0x7f000001",
        "2130706433",
        "192.0.2.1.",
        "1.2.3",
        "::1",
        "[::1",
        "[::1]x",
        "[fe80::1%eth0]",
        "[fe80::1%25eth0]",
        "[192.0.2.1]",
        "[::ffff:010.0.0.1]",
        "[v1.fe80::a]",
        "*",
        "a" * 64 + ".example",
        "a." * 127 + "a",
    ],
)
def test_hosts_with_two_readings(raw: str) -> None:
    with pytest.raises(Malformed):
        parse_request_head_untrusted(head(host=raw))


SMUGGLING = {
    "no Host": head(host=None),
    "no Host in HTTP/1.0": head(line="GET / HTTP/1.0", host=None),
    "two Hosts": head("Host: evil.example"),
    "the same Host twice": head("host: api.example"),
    "a space before Host's colon": head("Host : evil.example"),
    "a folded Host": head(" evil.example"),
    "a tab that folds": head("X: y", "\tz"),
    "a folded first field": b"GET / HTTP/1.1\r\n Host: api.example\r\n\r\n",
    "both framings": head("Content-Length: 5", "Transfer-Encoding: chunked"),
    "both framings, the other way": head("Transfer-Encoding: chunked", "Content-Length: 5"),
    "two lengths": head("Content-Length: 5", "Content-Length: 6"),
    "the same length twice": head("Content-Length: 5", "Content-Length: 5"),
    "a list of lengths": head("Content-Length: 5, 5"),
    "an empty length": head("Content-Length: "),
    "a signed length": head("Content-Length: +5"),
    "a negative length": head("Content-Length: -5"),
    "a hexadecimal length": head("Content-Length: 0x5"),
    "a length with an underscore": head("Content-Length: 1_0"),
    "a length with a leading zero": head("Content-Length: 010"),
    "a length with a space in it": head("Content-Length: 1 0"),
    "a length of 19 digits": head("Content-Length: 1000000000000000000"),
    "a length in other digits": head("Content-Length: \xb2"),
    "a coding before chunked": head("Transfer-Encoding: gzip, chunked"),
    "a coding after chunked": head("Transfer-Encoding: chunked, identity"),
    "identity": head("Transfer-Encoding: identity"),
    "a comma before chunked": head("Transfer-Encoding: ,chunked"),
    "chunked in quotes": head('Transfer-Encoding: "chunked"'),
    "a vertical tab before chunked": head("Transfer-Encoding: \x0bchunked"),
    "chunked with a parameter": head("Transfer-Encoding: chunked;q=1"),
    "chunked twice": head("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"),
    "an empty coding": head("Transfer-Encoding:"),
    "chunked in HTTP/1.0": head("Transfer-Encoding: chunked", line="POST / HTTP/1.0"),
    "a space before Transfer-Encoding's colon": head("Transfer-Encoding : chunked"),
    "a field without a colon": head("Transfer-Encoding chunked"),
    "a field without a name": head(": x"),
    "a name beyond ASCII": head("X\xe9: x"),
    "a NUL in a value": head("X: a\x00b"),
    "a control byte in a value": head("X: a\x1bb"),
    "DEL in a value": head("X: a\x7fb"),
    "a bare CR in a value": head("X: a\rHost: evil.example"),
    "a bare CR before the colon": head("X\r: a"),
    "a bare LF between fields": b"GET / HTTP/1.1\r\nHost: api.example\nX: y\r\n\r\n",
    "bare LFs throughout": b"GET / HTTP/1.1\nHost: api.example\n\n",
    "a bare LF at the end": b"GET / HTTP/1.1\r\nHost: api.example\r\n\n",
    "CR CR LF": b"GET / HTTP/1.1\r\nHost: api.example\r\r\n\r\n",
    "an empty line first": b"\r\n" + head(),
    "a space first": b" " + head(),
    "bytes behind the blank line": head() + b"G",
    "no blank line": head()[:-2],
    "nothing": b"",
    "a blank line": b"\r\n",
    "Connection names Host": head("Connection: close, Host"),
    "Connection names Content-Length": head("Connection: content-length", "Content-Length: 5"),
    "Connection names Transfer-Encoding": head("Connection: Transfer-Encoding", "Transfer-Encoding: chunked"),
    "an Upgrade that is empty": head("Upgrade: "),
    "an Upgrade with a space": head("Upgrade: web socket"),
    "two spaces in the line": head(line="GET  / HTTP/1.1"),
    "a tab in the line": head(line="GET\t/ HTTP/1.1"),
    "a space behind the line": head(line="GET / HTTP/1.1 "),
    "a space in the target": head(line="GET /a b HTTP/1.1"),
    "HTTP/0.9": b"GET /\r\n\r\n",
    "HTTP/1.2": head(line="GET / HTTP/1.2"),
    "HTTP/2.0": head(line="PRI * HTTP/2.0"),
    "HTTP/01.1": head(line="GET / HTTP/01.1"),
    "http/1.1": head(line="GET / http/1.1"),
    "no method": head(line=" / HTTP/1.1"),
    "a method with a colon": head(line="GE:T / HTTP/1.1"),
    "an empty target": head(line="GET  HTTP/1.1"),
    "a star that is not for OPTIONS": head(line="GET * HTTP/1.1"),
    "a fragment": head(line="GET /a#b HTTP/1.1"),
    "a target beyond ASCII": head(line="GET /\xe9 HTTP/1.1"),
    "a target with a NUL": head(line="GET /\x00 HTTP/1.1"),
    "an authority for GET": head(line="GET api.example:80 HTTP/1.1"),
    "a relative path": head(line="GET a HTTP/1.1"),
    "two slashes": head(line="GET //evil.example/x HTTP/1.1"),
    "slash and backslash": head(line="GET /\\evil.example/x HTTP/1.1"),
    "a URL whose query begins at once": head(line="GET http://api.example?@evil.example/x HTTP/1.1"),
    "two slashes in a URL": head(line="GET http://api.example//evil.example/x HTTP/1.1"),
    "a URL of another host": head(line="GET http://evil.example/ HTTP/1.1"),
    "a URL of another port": head(line="GET http://api.example:8080/ HTTP/1.1"),
    "a URL of another scheme's port": head(line="GET https://api.example/ HTTP/1.1", host="api.example:80"),
    "a URL with user-info": head(line="GET http://api.example@evil.example/ HTTP/1.1"),
    "a URL with our user-info": head(line="GET http://user@api.example/ HTTP/1.1"),
    "a URL with a backslash": head(line="GET http:/\\evil.example HTTP/1.1"),
    "a URL with a backslash behind the host": head(line="GET http://api.example\\@evil.example/ HTTP/1.1"),
    "a URL without a host": head(line="GET http:///x HTTP/1.1"),
    "another scheme": head(line="GET ftp://api.example/ HTTP/1.1"),
    "CONNECT to another host": head(line="CONNECT evil.example:443 HTTP/1.1", host="api.example:443"),
    "CONNECT to another port": head(line="CONNECT api.example:443 HTTP/1.1", host="api.example:80"),
    "CONNECT to a path": head(line="CONNECT / HTTP/1.1"),
    "too many fields": head(*["X: y"] * DEFAULT_LIMITS.fields),
    "too many bytes": head("X: " + "y" * DEFAULT_LIMITS.size),
}


@pytest.mark.parametrize("data", SMUGGLING.values(), ids=SMUGGLING.keys())
def test_two_readings_are_none(data: bytes) -> None:
    with pytest.raises(Malformed):
        parse_request_head_untrusted(data)


@pytest.mark.parametrize(
    ("case", "what"),
    [
        ("a bare LF between fields", "a line of an HTTP head ends in a bare LF"),
        ("a bare CR in a value", "a bare CR in an HTTP head"),
        ("a NUL in a value", "a NUL in an HTTP head"),
        ("a folded Host", "a folded line in an HTTP head"),
        ("a space before Host's colon", "a space before the colon of an HTTP field"),
        ("a control byte in a value", "a control byte in an HTTP head"),
        ("a field without a colon", "an HTTP head that does not parse"),
        ("HTTP/2.0", "HTTP version 2.0"),
    ],
)
def test_a_refusal_says_why(case: str, what: str) -> None:
    with pytest.raises(Malformed) as caught:
        parse_request_head_untrusted(SMUGGLING[case])
    assert caught.value.what == what


@pytest.mark.parametrize(
    ("fields", "framing"),
    [
        ([], NO_BODY),
        (["Content-Length: 0"], NO_BODY),
        (["Content-Length: 999999999999999999"], Framing(BodyKind.LENGTH, 999999999999999999)),
        (["Transfer-Encoding: Chunked"], CHUNKED),
        (["X-Content-Length: 5", "Content-Length-X: 5"], NO_BODY),
    ],
)
def test_framing(fields: list[str], framing: Framing) -> None:
    assert parse_request_head_untrusted(head(*fields)).framing == framing


@pytest.mark.parametrize(
    ("version", "connection", "close"),
    [
        ("1.1", None, False),
        ("1.1", "keep-alive, TE", False),
        ("1.1", "Close", True),
        ("1.1", "keep-alive, close", True),
        ("1.0", None, True),
        ("1.0", "Keep-Alive", False),
    ],
)
def test_close(version: str, connection: str | None, close: bool) -> None:
    fields = [] if connection is None else [f"Connection: {connection}"]
    assert parse_request_head_untrusted(head(*fields, line=f"GET / HTTP/{version}")).close is close


def test_the_limits_are_inclusive() -> None:
    parse_request_head_untrusted(head(*["X: y"] * (DEFAULT_LIMITS.fields - 1)))
    filler = DEFAULT_LIMITS.size - len(head("X: "))
    assert len(head("X: " + "y" * filler)) == DEFAULT_LIMITS.size
    parse_request_head_untrusted(head("X: " + "y" * filler))


def test_the_end_of_a_head() -> None:
    data = head() + b"body" + head()
    assert find_head_end(data) == len(head())
    assert find_head_end(bytearray(data), len(head())) == len(data)
    assert find_head_end(head()[:-1]) == -1
    assert find_head_end(b"GET / HTTP/1.1\nHost: x\n\nrest") == 24


@pytest.mark.parametrize("data", [head(), head("Content-Length: 5"), head("X: \xe9\tb", line="OPTIONS * HTTP/1.1")])
def test_h11_agrees(data: bytes) -> None:
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(data)
    event = connection.next_event()
    found = parse_request_head_untrusted(data)
    assert isinstance(event, h11.Request)
    assert (event.method.decode(), event.target) == (found.method, found.target)
