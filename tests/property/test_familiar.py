"""A connection's requests read by what the one before said: the same facts as by the strict parser, or the same no."""

from collections.abc import Callable
from itertools import combinations, product
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microagent.errors import Malformed
from microagent.wire.http1 import (
    FamiliarRequests,
    FamiliarResponses,
    HeadLimits,
    RequestHead,
    ResponseHead,
    parse_request_head_untrusted,
    parse_response_head_untrusted,
)

LIMITS = HeadLimits(size=300, fields=5)
METHODS = (b"GET", b"POST", b"HEAD", b"OPTIONS", b"CONNECT", b"get", b"G(T", b"")
TARGETS = (
    *(b"/", b"/a", b"/a?b=c?d//", b"//a", b"/\\a", b"/a//b", b"/?", b"/#a", b"*", b"/a b", b"/\xff", b"/%2f", b""),
    *(b"http://a.test/", b"http://b.test/", b"http://a.test", b"a.test", b"/a\tb", b"?a", b"/" + b"x" * 280),
)
VERSIONS = (b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/1.1 ", b"http/1.1", b"HTTP/1.1\t", b"")
ENDS = (b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"\r\nX: y\r\n", b"\r\n ", b"")
LINES = tuple(b"%b %b %b%b" % parts for parts in product(METHODS, TARGETS, VERSIONS, ENDS))
FIELDS = (
    *(b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n", b"Upgrade: websocket\r\n"),
    *(b"Accept: */*\r\n", b"Host: b.test:443\r\n"),
)
WEBSOCKET = b"Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
KEY = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
MORE = (*(b"".join(some) for number in range(3) for some in combinations(FIELDS, number)), WEBSOCKET + KEY)
BLOCKS = tuple(b"Host: a.test\r\n" + more + b"\r\n" for more in MORE)
PLAIN = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"


Facts = TypeVar("Facts", RequestHead, ResponseHead)


def said(parse: Callable[[bytes], Facts], head: bytes) -> Facts | str:
    """The facts, or what is wrong."""
    try:
        return parse(head)
    except Malformed as fault:
        return fault.what


def strictly(head: bytes) -> RequestHead | str:
    return said(lambda data: parse_request_head_untrusted(data, LIMITS), head)


@pytest.mark.parametrize("fields", BLOCKS)
def test_a_familiar_head_says_what_the_strict_parser_says_of_it(fields: bytes) -> None:
    taken = 0
    for line in LINES[:: 1 if fields == BLOCKS[0] else 7]:
        expected = strictly(line + fields)
        for first in (PLAIN[:16] + fields, line + fields):
            familiar = FamiliarRequests(LIMITS)
            said(familiar.parse_untrusted, first)
            assert said(familiar.parse_untrusted, line + fields) == expected
            # What was remembered of this head must not speak for the next one either.
            assert said(familiar.parse_untrusted, PLAIN[:16] + fields) == strictly(PLAIN[:16] + fields)
        taken += not isinstance(expected, str)
    assert taken or isinstance(strictly(PLAIN[:16] + fields), str)


@pytest.mark.parametrize("second", [b"X: y\r\n" + PLAIN, PLAIN[1:], b"GET /\r\nHost: a.test\r\n\r\n", PLAIN[16:], b""])
def test_what_only_ends_like_the_one_before_is_read_anew(second: bytes) -> None:
    familiar = FamiliarRequests(LIMITS)
    familiar.parse_untrusted(PLAIN)
    assert said(familiar.parse_untrusted, second) == strictly(second)


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=4))
def test_any_bytes_in_the_line_are_read_as_strictly(drawn: list[bytes]) -> None:
    familiar = FamiliarRequests(LIMITS)
    for part in drawn:
        for head in (PLAIN, b"GET /" + part + PLAIN[5:], part + PLAIN[3:], PLAIN[:14] + part + PLAIN[14:]):
            assert said(familiar.parse_untrusted, head) == strictly(head)


def test_the_strict_parser_is_asked_once_for_the_same_fields() -> None:
    familiar = FamiliarRequests(LIMITS)
    first = familiar.parse_untrusted(PLAIN)
    second = familiar.parse_untrusted(b"POST /other?query HTTP/1.1\r\nHost: a.test\r\n\r\n")
    assert (second.method, second.target, second.path) == ("POST", b"/other?query", "/other")
    # The strict parser makes a new text of each Host that it reads.
    assert second.host is first.host


ANSWERS = tuple(
    b"HTTP/1.1 %b\r\n%b\r\n" % parts
    for parts in product(
        (b"200 OK", b"204 No Content", b"304 Not Modified", b"101 Switching Protocols", b"20 OK"),
        (
            b"",
            b"Content-Length: 5\r\n",
            b"Content-Length: 50\r\n",
            b"Connection: close\r\n",
            b"A b\r\n",
            b"A: b\r\n" * 6,
        ),
    )
)


@given(st.lists(st.tuples(st.sampled_from(ANSWERS), st.sampled_from(("GET", "HEAD"))), min_size=2, max_size=8))
def test_responses_say_what_the_strict_parser_says_of_them(answers: list[tuple[bytes, str]]) -> None:
    familiar = FamiliarResponses(LIMITS)
    for head, method in answers:
        for _ in range(2):
            expected = said(lambda data, to=method: parse_response_head_untrusted(data, to, LIMITS), head)  # type: ignore[misc]
            assert said(lambda data, to=method: familiar.parse_untrusted(data, to), head) == expected  # type: ignore[misc]


def test_the_strict_parser_is_asked_once_for_the_same_response() -> None:
    familiar = FamiliarResponses(LIMITS)
    first = familiar.parse_untrusted(ANSWERS[1], "GET")
    assert familiar.parse_untrusted(bytes(bytearray(ANSWERS[1])), "GET") is first
    assert familiar.parse_untrusted(ANSWERS[1], "HEAD") is not first
