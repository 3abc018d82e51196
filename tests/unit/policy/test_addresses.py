"""What an address is, at the edges of every block and through every disguise."""

from ipaddress import IPv4Address, ip_address, ip_network
from pathlib import Path

import pytest

from microagent.policy import address_table, make_address_table
from microagent.policy.addresses import (
    NEVER_BY_NAME_V4,
    PRIVATE_V4,
    AddressClass,
    carries_ipv4,
    classify,
    decode,
    wholly_never_by_name,
)

PUBLIC, PRIVATE, NEVER = AddressClass.PUBLIC, AddressClass.PRIVATE, AddressClass.NEVER_BY_NAME


@pytest.mark.parametrize(
    ("first", "last", "kind", "what"),
    [
        ("0.0.0.1", "0.255.255.255", NEVER, "this network"),
        ("10.0.0.0", "10.255.255.255", PRIVATE, "RFC 1918"),
        ("100.64.0.0", "100.127.255.255", PRIVATE, "shared address space"),
        ("127.0.0.0", "127.255.255.255", NEVER, "loopback"),
        ("169.254.0.0", "169.254.255.255", NEVER, "link-local"),
        ("172.16.0.0", "172.31.255.255", PRIVATE, "RFC 1918"),
        ("192.0.0.11", "192.0.0.255", NEVER, "IETF Protocol Assignments"),
        ("192.88.99.0", "192.88.99.255", NEVER, "6to4 relay anycast"),
        ("192.168.0.0", "192.168.255.255", PRIVATE, "RFC 1918"),
        ("198.18.0.0", "198.19.255.255", PRIVATE, "benchmarking"),
        ("224.0.0.0", "239.255.255.255", NEVER, "multicast"),
        ("240.0.0.0", "255.255.255.254", NEVER, "reserved"),
        ("64:ff9b:1:0:100::", "64:ff9b:1:ffff:ffff:ffff:ffff:ffff", NEVER, "IPv4-IPv6 translation"),
        ("100::", "100::ffff:ffff:ffff:ffff", NEVER, "Discard-Only Address Block"),
        ("100:0:0:1::", "100::1:ffff:ffff:ffff:ffff", NEVER, "Dummy IPv6 Prefix"),
        ("2001:1::", "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff", NEVER, "IETF Protocol Assignments"),
        ("2001:2::", "2001:2:0:ffff:ffff:ffff:ffff:ffff", PRIVATE, "benchmarking"),
        ("2001:10::", "2001:1f:ffff:ffff:ffff:ffff:ffff:ffff", NEVER, "ORCHID"),
        ("5f00::", "5f00:ffff:ffff:ffff:ffff:ffff:ffff:ffff", NEVER, "Segment Routing (SRv6) SIDs"),
        ("fc00::", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", PRIVATE, "unique local"),
        ("fe80::", "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff", NEVER, "link-local"),
        ("fec0::", "feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", PRIVATE, "site-local"),
        ("ff00::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", NEVER, "multicast"),
    ],
)
def test_a_block_from_first_to_last(first: str, last: str, kind: AddressClass, what: str) -> None:
    for text in (first, last):
        found = classify(ip_address(text))
        assert (found.kind, found.what) == (kind, what), text


@pytest.mark.parametrize(
    ("text", "kind", "what"),
    [
        ("0.0.0.0", NEVER, "unspecified"),
        ("255.255.255.255", NEVER, "broadcast"),
        ("169.254.169.254", NEVER, "metadata"),
        ("168.63.129.16", NEVER, "metadata"),
        ("100.100.100.200", NEVER, "metadata"),
        ("192.0.0.192", NEVER, "metadata"),
        ("192.0.0.9", NEVER, "IETF Protocol Assignments"),
        ("fd00:ec2::254", NEVER, "metadata"),
        ("::", NEVER, "unspecified"),
        ("::1", NEVER, "loopback"),
        ("8.8.8.8", PUBLIC, ""),
        ("9.255.255.255", PUBLIC, ""),
        ("11.0.0.0", PUBLIC, ""),
        ("100.63.255.255", PUBLIC, ""),
        ("100.128.0.0", PUBLIC, ""),
        ("168.63.129.15", PUBLIC, ""),
        ("168.63.129.17", PUBLIC, ""),
        ("172.15.255.255", PUBLIC, ""),
        ("172.32.0.0", PUBLIC, ""),
        ("192.0.1.0", PUBLIC, ""),
        ("192.31.196.1", PUBLIC, ""),
        ("198.17.255.255", PUBLIC, ""),
        ("198.20.0.0", PUBLIC, ""),
        ("223.255.255.255", PUBLIC, ""),
        ("192.0.2.1", PUBLIC, ""),
        ("198.51.100.1", PUBLIC, ""),
        ("203.0.113.1", PUBLIC, ""),
        ("2001:db8::1", PUBLIC, ""),
        ("3fff::1", PUBLIC, ""),
        ("2001:200::", PUBLIC, ""),
        ("2606:4700:4700::1111", PUBLIC, ""),
        ("2620:4f:8000::1", PUBLIC, ""),
    ],
)
def test_single_addresses(text: str, kind: AddressClass, what: str) -> None:
    found = classify(ip_address(text))
    assert (found.kind, found.what) == (kind, what)


@pytest.mark.parametrize(
    ("text", "carried"),
    [
        ("10.0.0.1", ["10.0.0.1"]),
        ("2001:db8::1", ["2001:db8::1"]),
        ("::", ["::"]),
        ("::1", ["::1"]),
        ("::2", ["0.0.0.2"]),
        ("::ffff:10.0.0.1", ["10.0.0.1"]),
        ("::10.0.0.1", ["10.0.0.1"]),
        ("::ffff:0:10.0.0.1", ["10.0.0.1"]),
        ("::fffe:10.0.0.1", ["::fffe:a00:1"]),
        ("64:ff9b::10.0.0.1", ["10.0.0.1"]),
        ("64:ff9b::1:0:0", ["64:ff9b::1:0:0"]),
        ("64:ff9b:1::10.0.0.1", ["10.0.0.1"]),
        ("64:ff9b:1:7::10.0.0.1", ["10.0.0.1"]),
        # RFC 6052 section 2.4, its table of examples, under this prefix: /48, /56, /64.
        ("64:ff9b:1:c000:2:2100::", ["192.0.2.33", "0.2.33.0", "2.33.0.0", "0.0.0.0"]),
        ("64:ff9b:1:c0:0:221::", ["192.0.2.33", "0.2.33.0", "0.0.0.0"]),
        ("64:ff9b:1::c0:2:2100:0", ["192.0.2.33", "33.0.0.0"]),
        ("64:ff9b:1:0:100::1", ["64:ff9b:1:0:100::1"]),
        ("2002:a00:1::7", ["10.0.0.1"]),
        ("2003:a00:1::7", ["2003:a00:1::7"]),
        ("2001:0:cb00:7105::f5ff:fffe", ["203.0.113.5", "10.0.0.1"]),
        ("2001:1:cb00:7105::f5ff:fffe", ["2001:1:cb00:7105::f5ff:fffe"]),
    ],
)
def test_decode(text: str, carried: list[str]) -> None:
    assert [str(address) for address in decode(ip_address(text))] == carried


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("::ffff:169.254.169.254", NEVER),
        ("64:ff9b::a9fe:a9fe", NEVER),
        ("2002:a9fe:a9fe::", NEVER),
        ("::ffff:8.8.8.8", PUBLIC),
        ("2001:0:cb00:7105::f5ff:fffe", PRIVATE),  # public server, private client
        ("2001:0:a00:1::5601:5601", NEVER),  # private server, metadata client
        ("2001:0:a9fe:a9fe::f5ff:fffe", NEVER),  # metadata server, private client
    ],
)
def test_a_carrier_is_the_worst_of_what_it_carries(text: str, kind: AddressClass) -> None:
    assert classify(ip_address(text)).kind is kind


def test_the_hosts_own_addresses_are_never_by_name() -> None:
    own = frozenset(map(ip_address, ("203.0.113.1", "10.0.0.1", "2001:db8::1")))
    for text in ("203.0.113.1", "10.0.0.1", "2001:db8::1", "::ffff:203.0.113.1"):
        found = classify(ip_address(text), own)
        assert (found.kind, found.what) == (NEVER, "an address of this host")
    assert classify(ip_address("203.0.113.2"), own).kind is PUBLIC


def test_what_the_operator_adds_is_private_and_takes_nothing_away() -> None:
    extra = (ip_network("198.51.100.0/24"), ip_network("2001:db8::/32"), ip_network("169.254.0.0/16"))
    for text in ("198.51.100.7", "2001:db8::7", "64:ff9b::198.51.100.7"):
        found = classify(ip_address(text), extra_private=extra)
        assert (found.kind, found.what) == (PRIVATE, "private by this host's configuration")
    assert classify(ip_address("169.254.169.254"), extra_private=extra).what == "metadata"
    assert classify(ip_address("10.0.0.1"), extra_private=extra).what == "RFC 1918"
    assert classify(ip_address("198.51.101.7"), extra_private=extra).kind is PUBLIC


def test_the_kernels_sets_hold_what_the_table_says() -> None:
    for kind, blocks in ((PRIVATE, PRIVATE_V4), (NEVER, NEVER_BY_NAME_V4)):
        assert blocks
        for block in blocks:
            for address in (block.network_address, block.broadcast_address):
                assert classify(address).kind is kind
        assert not any(a.overlaps(b) for a in blocks for b in blocks if a is not b)
    listed = {ip_network(block) for block, kind, _ in address_table.TABLE if ":" not in block and kind == "private"}
    assert set(PRIVATE_V4) == listed


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.0/8", True),
        ("126.0.0.0/7", False),
        ("169.254.169.254", True),
        ("240.0.0.0/4", True),
        ("224.0.0.0/3", True),
        ("192.0.0.0/23", False),
        ("10.0.0.0/8", False),
        ("100.100.100.200", True),
        ("100.100.100.200/31", False),
        ("0.0.0.0/0", False),
        ("fe80::/10", True),
        ("fe80::/9", False),
        ("::/0", False),
    ],
)
def test_wholly_never_by_name(text: str, expected: bool) -> None:
    assert wholly_never_by_name(ip_network(text)) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.0.0.0/8", False),
        ("10.0.0.5", False),
        ("2001:db8::/32", False),
        ("::", False),
        ("::1", False),
        ("::/0", False),
        ("::/95", False),
        ("::/96", True),
        ("::2", True),
        ("::ffff:0:0/96", True),
        ("::ffff:a00:5", True),
        ("64:ff9b::/96", True),
        ("64:ff9b:1::/48", True),
        ("64:ff9b:1:0:100::1", False),
        ("2001::/32", True),
        ("2001:0:1::/64", True),
        ("2002:a00::/24", True),
    ],
)
def test_carries_ipv4(text: str, expected: bool) -> None:
    assert carries_ipv4(ip_network(text)) is expected


def test_the_table_is_what_the_script_makes_of_the_registries() -> None:
    folder = Path(address_table.__file__).parent
    rendered = make_address_table.render((folder / "special_purpose.csv").read_text("utf-8"))
    assert rendered == (folder / "address_table.py").read_text("utf-8")


def test_python_knows_no_block_that_we_lack() -> None:
    """What ipaddress calls private is inside here too, documentation aside: an oracle for the CSV."""
    documentation = [ip_network(b) for b in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24")]
    for step in range(0, 1 << 32, 65_521):
        address = IPv4Address(step)
        if address.is_private and not any(address in block for block in documentation):
            assert classify(address).kind is not PUBLIC, address


def test_what_is_added_to_the_table_is_looked_for_in_every_address_that_is_carried() -> None:
    """Teredo carries two: the server first, then the client with its bits inverted (RFC 4380 section 4)."""
    teredo = ip_address("2001:0:cb00:7105:0:0:34ff:8ef6")
    assert decode(teredo) == (ip_address("203.0.113.5"), ip_address("203.0.113.9"))
    assert classify(teredo).kind is PUBLIC
    for carried in decode(teredo):
        assert classify(teredo, frozenset({carried})).kind is NEVER
        assert classify(teredo, extra_private=(ip_network(carried),)).kind is PRIVATE
