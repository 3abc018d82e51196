"""Chunked bodies: the byte at which the next message begins, or none."""

import pytest

from microagent.errors import Malformed
from microagent.wire.http1 import ChunkedBody

BODY = b"5\r\nhello\r\n1A;name=a;b\r\n" + b"x" * 26 + b"\r\n0\r\nDigest: abc\r\nX-Y:\r\n\r\n"


def test_the_next_message_begins_where_the_body_ends() -> None:
    assert ChunkedBody().feed(BODY + b"GET /") == (len(BODY), True)
    assert ChunkedBody().feed(b"0\r\n\r\n0\r\n\r\n") == (5, True)
    assert ChunkedBody().feed(b"000\r\n\r\n") == (7, True)


def test_any_pieces() -> None:
    for size in range(1, len(BODY)):
        body = ChunkedBody()
        results = [body.feed(BODY[at : at + size]) for at in range(0, len(BODY), size)]
        assert [done for _, done in results] == [False] * (len(results) - 1) + [True]
        assert sum(used for used, _ in results) == len(BODY)


def test_nothing_belongs_to_a_body_that_is_done() -> None:
    body = ChunkedBody()
    assert body.feed(b"0\r\n\r\n") == (5, True)
    assert body.feed(b"0\r\n\r\n") == (0, True)


def test_a_chunk_may_be_large() -> None:
    body = ChunkedBody()
    assert body.feed(b"fffffffffffffff\r\n" + bytes(100)) == (117, False)


def feed(data: bytes, size: int) -> None:
    """Feed `data` in pieces of `size` bytes."""
    body = ChunkedBody()
    for at in range(0, len(data), size):
        body.feed(data[at : at + size])


MALFORMED = {
    "no size": b"\r\n",
    "a signed size": b"+5\r\nhello\r\n",
    "a prefixed size": b"0x5\r\nhello\r\n",
    "a size with an underscore": b"1_0\r\n",
    "a size behind a space": b" 5\r\nhello\r\n",
    "a size before a space": b"5 \r\nhello\r\n",
    "a space before the extension": b"5 ;x\r\nhello\r\n",
    "a size of 16 digits": b"0000000000000005\r\nhello\r\n",
    "a bare LF behind the size": b"5\nhello\r\n",
    "an extension in quotes": b'5;a="b"\r\nhello\r\n',
    "a quote that is never closed": b'5;a="\\"\r\nhello\r\n',
    "an extension without a name": b"5;\r\nhello\r\n",
    "a space behind the semicolon": b"5; a\r\nhello\r\n",
    "a bare CR in the extension": b"5;a\rb\r\nhello\r\n",
    "a NUL in the extension": b"5;\x00\r\nhello\r\n",
    "an extension of 5 kB": b"5;" + b"a" * 5000 + b"\r\nhello\r\n",
    "extensions of 20 kB": (b"1;" + b"a" * 1000 + b"\r\nx\r\n") * 20,
    "a chunk longer than its size": b"5\r\nhello!\r\n",
    "a chunk shorter than its size": b"5\r\nhell\r\n0\r\n\r\n",
    "a bare LF behind a chunk": b"5\r\nhello\n0\r\n\r\n",
    "a folded trailer": b"0\r\nX: y\r\n z\r\n\r\n",
    "a trailer without a colon": b"0\r\nX\r\n\r\n",
    "a trailer with a space before its colon": b"0\r\nX : y\r\n\r\n",
    "a trailer with a bare LF": b"0\r\nX: y\n\r\n",
    "a bare LF at the end": b"0\r\n\n",
    "a trailer that frames": b"0\r\nContent-Length: 5\r\n\r\n",
    "a trailer that frames otherwise": b"0\r\ntransfer-encoding: chunked\r\n\r\n",
    "a trailer that routes": b"0\r\nHost: evil.example\r\n\r\n",
    "a request for a trailer": b"0\r\nGET / HTTP/1.1\r\n\r\n",
    "trailers of 20 kB": b"0\r\n" + (b"X: " + b"a" * 1000 + b"\r\n") * 20 + b"\r\n",
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED.keys())
@pytest.mark.parametrize("size", [1, 7, 100000])
def test_two_readings_are_none(data: bytes, size: int) -> None:
    with pytest.raises(Malformed):
        feed(data, size)


@pytest.mark.parametrize("data", [b"0\r\rGET / HTTP/1.1\rHost: x\r\r", b"5;\x00", b"5\r\nhelloG", b"0\r\nX\r", b"g"])
def test_an_unfinished_line_is_refused_before_it_is_sent_on(data: bytes) -> None:
    with pytest.raises(Malformed):
        ChunkedBody().feed(data)
