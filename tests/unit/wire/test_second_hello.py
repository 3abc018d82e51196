"""A second hello is found behind what may come before it, and says what the same bytes say as a first one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.wire.hellos import openssl_hello

from microagent.errors import Malformed
from microagent.wire.client_hello import parse_client_hello_untrusted, parse_second_hello_untrusted

HELLO = openssl_hello("a.example", ["h2"])
BEFORE = (
    b"\x14\x03\x03\x00\x01\x01",
    b"\x17\x03\x03\x00\x05early",
    b"\x15\x03\x03\x00\x02\x01\x5a",
    b"\x17\x03\x03\x00\x00",
)


@given(st.lists(st.sampled_from(BEFORE), max_size=4))
def test_it_is_found_at_its_last_byte(before: list[bytes]) -> None:
    data = b"".join(before) + HELLO
    for count in range(len(data)):
        assert parse_second_hello_untrusted(data[:count]) is None
    found = parse_second_hello_untrusted(data + b"\x17\x03\x03")
    assert found is not None
    assert (found, found.end) == (parse_client_hello_untrusted(HELLO), len(data))


@pytest.mark.parametrize("within", BEFORE)
def test_nothing_may_be_within_it(within: bytes) -> None:
    pieces = b"".join(b"\x16\x03\x01" + (1).to_bytes(2, "big") + HELLO[at : at + 1] for at in range(5, 50))
    with pytest.raises(Malformed):
        parse_second_hello_untrusted(pieces + within + HELLO)
