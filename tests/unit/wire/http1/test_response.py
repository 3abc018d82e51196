"""Response heads: where the response ends."""

import pytest

from microagent.errors import Malformed
from microagent.wire.http1 import (
    CHUNKED,
    NO_BODY,
    UNTIL_CLOSE,
    BodyKind,
    Framing,
    ResponseHead,
    parse_response_head_untrusted,
)

FIVE = Framing(BodyKind.LENGTH, 5)
SWITCH = ["Upgrade: websocket", "Connection: Upgrade"]


def head(*fields: str, line: str = "HTTP/1.1 200 OK") -> bytes:
    return "\r\n".join([line, *fields, "", ""]).encode("latin-1")


@pytest.mark.parametrize(
    ("method", "line", "fields", "framing"),
    [
        ("GET", "HTTP/1.1 200 OK", ["Content-Length: 5"], FIVE),
        ("GET", "HTTP/1.1 200 OK", ["Content-Length: 0"], NO_BODY),
        ("GET", "HTTP/1.1 200 OK", ["Transfer-Encoding: chunked"], CHUNKED),
        ("GET", "HTTP/1.1 200 OK", [], UNTIL_CLOSE),
        ("GET", "HTTP/1.0 200 OK", ["Content-Length: 5"], FIVE),
        ("GET", "HTTP/1.1 200", ["Content-Length: 5"], FIVE),
        ("GET", "HTTP/1.1 200 ", ["Content-Length: 5"], FIVE),
        ("GET", "HTTP/1.1 999 Denied \xe9", ["Content-Length: 5"], FIVE),
        ("HEAD", "HTTP/1.1 200 OK", ["Content-Length: 5"], NO_BODY),
        ("HEAD", "HTTP/1.1 200 OK", ["Transfer-Encoding: chunked"], NO_BODY),
        ("HEAD", "HTTP/1.1 200 OK", [], NO_BODY),
        ("GET", "HTTP/1.1 304 Not Modified", ["Content-Length: 5"], NO_BODY),
        ("GET", "HTTP/1.1 204 No Content", [], NO_BODY),
        ("GET", "HTTP/1.1 204 No Content", ["Content-Length: 0"], NO_BODY),
        ("GET", "HTTP/1.1 100 Continue", [], NO_BODY),
        ("GET", "HTTP/1.1 103 Early Hints", ["Link: </x>"], NO_BODY),
        ("GET", "HTTP/1.1 101 Switching Protocols", SWITCH, NO_BODY),
    ],
)
def test_framing(method: str, line: str, fields: list[str], framing: Framing) -> None:
    found = parse_response_head_untrusted(head(*fields, line=line), method)
    assert found.framing == framing
    assert found.status == int(line[9:12])


def test_close() -> None:
    def close(*fields: str, line: str = "HTTP/1.1 200 OK") -> bool:
        return parse_response_head_untrusted(head(*fields, line=line), "GET").close

    assert not close("Content-Length: 5")
    assert close("Content-Length: 5", "Connection: close")
    assert close()
    assert close("Content-Length: 5", line="HTTP/1.0 200 OK")
    assert not close("Content-Length: 5", "Connection: keep-alive", line="HTTP/1.0 200 OK")


def test_a_switch_of_protocols() -> None:
    line = "HTTP/1.1 101 Switching Protocols"
    assert parse_response_head_untrusted(head(*SWITCH, line=line), "GET") == ResponseHead(
        status=101, version=(1, 1), framing=NO_BODY, upgrade="websocket", websocket_accept=(), close=False
    )
    offer = head("Upgrade: h2c", "Connection: Upgrade", "Content-Length: 5")
    assert parse_response_head_untrusted(offer, "GET").upgrade is None


@pytest.mark.parametrize(
    "data",
    [
        head("Content-Length: 5", "Transfer-Encoding: chunked"),
        head("Content-Length: 5", "Content-Length: 5"),
        head("Transfer-Encoding: gzip, chunked"),
        head("Transfer-Encoding: chunked", line="HTTP/1.0 200 OK"),
        head("Content-Length: 5", line="HTTP/1.1 204 No Content"),
        head("Transfer-Encoding: chunked", line="HTTP/1.1 204 No Content"),
        head("Content-Length: 5", line="HTTP/1.1 100 Continue"),
        head(line="HTTP/1.1 101 Switching Protocols"),
        head("Upgrade: websocket", line="HTTP/1.1 101 Switching Protocols"),
        head("Connection: upgrade", line="HTTP/1.1 101 Switching Protocols"),
        head(*SWITCH, "Content-Length: 5", line="HTTP/1.1 101 Switching Protocols"),
        head(*SWITCH, line="HTTP/1.0 101 Switching Protocols"),
        head("Content-Length : 5"),
        head("X: y", " Content-Length: 5"),
        head("X: a\x00b"),
        head("X: a\rContent-Length: 5"),
        head("Connection: content-length", "Content-Length: 5"),
        head(line="HTTP/2.0 200 OK"),
        head(line="HTTP/1.1 20 OK"),
        head(line="HTTP/1.1 099 OK"),
        head(line="HTTP/1.1 2000 OK"),
        head(line="HTTP/1.1  200 OK"),
        head(line="ICY 200 OK"),
        b"HTTP/1.1 200 OK\nContent-Length: 5\n\n",
        b"\r\n" + head("Content-Length: 5"),
        head(*["X: y"] * 201),
        b"",
    ],
)
def test_two_readings_are_none(data: bytes) -> None:
    with pytest.raises(Malformed):
        parse_response_head_untrusted(data, "GET")
