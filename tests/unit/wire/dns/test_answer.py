"""Which of an upstream's records are believed."""

import struct
from ipaddress import IPv4Address, IPv6Address

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from microagent.errors import Malformed
from microagent.wire.dns import Answer, QType, build_upstream_query, parse_response_untrusted
from microagent.wire.dns.answer import MAX_CHAIN

NAME = "www.example.org"


def response(*records: str, qtype: str = "A", authority: tuple[str, ...] = ()) -> dns.message.Message:
    """A response to our query for NAME, with records as "owner ttl type data"."""
    query = dns.message.from_wire(build_upstream_query(7, NAME, QType[qtype]))
    found = dns.message.make_response(query)
    for section, lines in ((found.answer, records), (found.authority, authority)):
        for line in lines:
            owner, ttl, kind, data = line.split(" ", 3)
            section.append(dns.rrset.from_text(owner + ".", int(ttl), "IN", kind, data))
    return found


def parse(message: dns.message.Message, qtype: QType = QType.A) -> Answer:
    return parse_response_untrusted(message.to_wire(), NAME, qtype, 7)


def test_our_query_says_nothing_but_name_and_type() -> None:
    query = dns.message.from_wire(build_upstream_query(7, NAME, QType.AAAA))
    assert query.question[0].to_text() == f"{NAME}. IN AAAA"
    assert (query.id, query.flags, query.edns, query.payload) == (7, dns.flags.RD, 0, 1232)
    assert query.options == ()


def test_addresses_at_the_end_of_the_chain() -> None:
    answer = parse(
        response(
            f"{NAME} 300 CNAME a.cdn.example.",
            "b.cdn.example 20 A 192.0.2.1",
            "b.cdn.example 20 A 192.0.2.2",
            "A.cdn.example 60 CNAME B.cdn.example.",
        )
    )
    assert answer.addresses == (IPv4Address("192.0.2.1"), IPv4Address("192.0.2.2"))
    assert answer.cnames == ("a.cdn.example", "b.cdn.example")
    assert (answer.rcode, answer.min_ttl, len(answer.records)) == (0, 20, 4)


def test_ipv6() -> None:
    answer = parse(response(f"{NAME} 300 AAAA ::ffff:10.0.0.1", qtype="AAAA"), QType.AAAA)
    assert answer.addresses == (IPv6Address("::ffff:10.0.0.1"),)


def test_what_was_not_asked_is_not_kept() -> None:
    answer = parse(
        response(
            "other.example.org 300 A 192.0.2.66",
            f"{NAME} 300 AAAA 2001:db8::66",
            f"{NAME} 300 A 192.0.2.1",
            "www.example.org.evil.example 300 A 192.0.2.67",
        )
    )
    assert answer.addresses == (IPv4Address("192.0.2.1"),)
    assert len(answer.records) == 1


def test_negative_answers_live_as_long_as_their_soa_says() -> None:
    soa = "example.org 900 SOA ns.example.org. root.example.org. 1 2 3 4 60"
    message = response(authority=(soa,))
    message.set_rcode(dns.rcode.NXDOMAIN)
    assert parse(message) == Answer(rcode=3, min_ttl=60)
    assert parse(response()) == Answer(rcode=0, min_ttl=0)
    dangling = parse(response(f"{NAME} 30 CNAME gone.example.", authority=(soa,)))
    assert (dangling.addresses, dangling.cnames, dangling.min_ttl) == ((), ("gone.example",), 30)


def test_a_truncated_response_is_asked_again() -> None:
    message = response()
    message.flags |= dns.flags.TC
    assert parse(message).truncated
    assert parse_response_untrusted(message.to_wire()[:40], NAME, QType.A, 7).truncated


def test_a_question_in_another_case_is_ours() -> None:
    wire = response(f"{NAME} 300 A 192.0.2.1").to_wire()
    answer = parse_response_untrusted(wire.replace(b"example", b"EXAMPLE"), NAME, QType.A, 7)
    assert answer.addresses == (IPv4Address("192.0.2.1"),)


def test_chains_end() -> None:
    def chain(links: int) -> dns.message.Message:
        names = [NAME, *(f"n{number}.example" for number in range(1, links + 1))]
        aliases = [f"{names[at]} 300 CNAME {names[at + 1]}." for at in range(links)]
        return response(*aliases, f"{names[-1]} 300 A 192.0.2.1")

    assert len(parse(chain(MAX_CHAIN)).cnames) == MAX_CHAIN
    with pytest.raises(Malformed):
        parse(chain(MAX_CHAIN + 1))
    with pytest.raises(Malformed):
        parse(response(f"{NAME} 300 CNAME a.example.", f"a.example 300 CNAME {NAME}."))
    with pytest.raises(Malformed):
        parse(response(f"{NAME} 300 CNAME {NAME}."))


def test_two_cnames_are_two_answers() -> None:
    with pytest.raises(Malformed):
        parse(response(f"{NAME} 300 CNAME a.example.", f"{NAME} 300 CNAME b.example."))


GOOD = response(f"{NAME} 300 A 192.0.2.1").to_wire()
NOT_OURS = {
    "nothing": b"",
    "another id": b"\x00\x08" + GOOD[2:],
    "a query": build_upstream_query(7, NAME, QType.A),
    "another opcode": GOOD[:2] + bytes((GOOD[2] | 0x20,)) + GOOD[3:],
    "another name": GOOD.replace(b"\x03www", b"\x03wwx"),
    "another type": GOOD.replace(b"\x03org\x00\x00\x01", b"\x03org\x00\x00\x1c", 1),
    "another class": GOOD.replace(b"\x00\x01\x00\x01", b"\x00\x01\x00\x03", 1),
    "no question": GOOD[:4] + b"\x00\x00" + GOOD[6:12] + GOOD[12 + len(NAME) + 6 :],
    "two questions": GOOD[:4] + b"\x00\x02" + GOOD[6:],
    "cut": GOOD[:-3],
    "junk behind": GOOD + b"\x00",
    "more records than it holds": GOOD[:6] + b"\x00\x09" + GOOD[8:],
    "more records than anyone needs": GOOD[:6] + b"\xff\xff" + GOOD[8:],
    "an address of three bytes": GOOD.replace(b"\x00\x04\xc0\x00\x02\x01", b"\x00\x03\xc0\x00\x02"),
    "a pointer to itself": GOOD.replace(b"\xc0\x0c", struct.pack("!H", 0xC000 | GOOD.index(b"\xc0\x0c"))),
}


@pytest.mark.parametrize("wire", NOT_OURS.values(), ids=NOT_OURS.keys())
def test_what_is_not_believed(wire: bytes) -> None:
    with pytest.raises(Malformed):
        parse_response_untrusted(wire, NAME, QType.A, 7)


def test_types_whose_numbers_differ_by_letter_case_only_are_different_types() -> None:
    wire = response(qtype="HTTPS").to_wire()
    with pytest.raises(Malformed):
        parse_response_untrusted(wire, NAME, QType.HTTPS + 32, 7)
