"""PTR names and the addresses they stand for."""

from ipaddress import ip_address

import pytest

from microagent.wire.dns import qtype_text, reverse_address


@pytest.mark.parametrize("text", ["192.0.2.1", "0.0.0.0", "255.255.255.255", "2001:db8::7", "::"])
def test_the_way_back(text: str) -> None:
    address = ip_address(text)
    assert reverse_address(address.reverse_pointer) == address


@pytest.mark.parametrize(
    "name",
    [
        "1.2.0.192.in-addr.arpa.example",
        "2.0.192.in-addr.arpa",
        "01.2.0.192.in-addr.arpa",
        "256.2.0.192.in-addr.arpa",
        "1.0.0.127.in-addr.arpa.in-addr.arpa",
        "7." * 31 + "ip6.arpa",
        "g." * 32 + "ip6.arpa",
    ],
)
def test_what_stands_for_none(name: str) -> None:
    assert reverse_address(name) is None


def test_types_without_a_name_have_a_number() -> None:
    assert [qtype_text(number) for number in (1, 65, 65400)] == ["A", "HTTPS", "TYPE65400"]
