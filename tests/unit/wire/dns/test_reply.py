"""What guests are told, read back by dnspython."""

from ipaddress import IPv4Address

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from microagent.wire.dns import (
    NODATA,
    Answer,
    QType,
    Query,
    Rcode,
    build_reply,
    parse_query_untrusted,
    parse_response_untrusted,
    pointer_answer,
    reply_error,
    reply_formerr,
    reply_refused,
    truncate_to,
)

NAME = "wWw.ExAmple.oRg"


def ask(name: str = NAME, qtype: str = "A", edns: int | None = 1400) -> tuple[dns.message.Message, Query]:
    """A query as dnspython makes it and as we read it; `edns` is the size offered, None for no OPT."""
    message = dns.message.make_query(name, qtype, use_edns=-1 if edns is None else 0, payload=edns or 0)
    return message, parse_query_untrusted(message.to_wire())


def read(message: dns.message.Message, reply: bytes) -> dns.message.Message:
    """The reply as dnspython reads it, found to answer the query."""
    found = dns.message.from_wire(reply)
    assert message.is_response(found)
    assert found.question[0].name.labels == message.question[0].name.labels  # the very case
    assert found.flags & (dns.flags.RA | dns.flags.AA | dns.flags.AD) == dns.flags.RA
    return found


def upstream(*rrsets: tuple[str, str, list[str]], name: str = "www.example.org", qtype: str = "A") -> Answer:
    """What an upstream's answer with these records is read as."""
    response = dns.message.make_response(dns.message.make_query(name, qtype, id=7))
    response.answer = [dns.rrset.from_text_list(owner + ".", 300, "IN", kind, data) for owner, kind, data in rrsets]
    return parse_response_untrusted(response.to_wire(), name, QType[qtype], 7)


def test_a_refusal_carries_its_reason_to_those_who_can_read_it() -> None:
    message, query = ask()
    reply = reply_refused(query, "denied by policy (d-123)")
    found = read(message, reply)
    assert found.rcode() is dns.rcode.REFUSED
    assert found.options == (dns.edns.EDEOption(dns.edns.EDECode.BLOCKED, "denied by policy (d-123)"),)
    message, query = ask(edns=None)
    reply = reply_refused(query, "denied by policy (d-123)")
    assert reply[12:] == query.question
    assert read(message, reply).rcode() is dns.rcode.REFUSED


def test_the_longest_refusal_fits_the_smallest_datagram() -> None:
    message, query = ask(".".join(["a" * 63] * 3 + ["b" * 61]), edns=512)
    reply = reply_refused(query, "é" * 300)
    assert len(reply) <= 512
    option = read(message, reply).options[0]
    assert isinstance(option, dns.edns.EDEOption)
    assert option.text == "é" * 100


@pytest.mark.parametrize("rcode", [Rcode.SERVFAIL, Rcode.NXDOMAIN, Rcode.NOTIMP])
@pytest.mark.parametrize("edns", [None, 1232])
def test_errors(rcode: Rcode, edns: int | None) -> None:
    message, query = ask(edns=edns)
    found = read(message, reply_error(query, rcode))
    assert int(found.rcode()) == int(rcode)
    assert (found.edns, found.payload) == ((-1, 0) if edns is None else (0, 1232))


def test_a_later_edns_version_is_refused_by_name() -> None:
    message, query = ask()
    assert read(message, reply_error(query, Rcode.BADVERS)).rcode() is dns.rcode.BADVERS
    message, query = ask(edns=None)
    assert read(message, reply_error(query, Rcode.BADVERS)).rcode() is dns.rcode.SERVFAIL


def test_flags_that_must_come_back_do() -> None:
    message = dns.message.make_query(NAME, "A", want_dnssec=True)
    message.flags = dns.flags.Flag(dns.flags.CD)
    found = read(message, reply_error(parse_query_untrusted(message.to_wire()), Rcode.SERVFAIL))
    assert found.flags & (dns.flags.RD | dns.flags.CD) == dns.flags.CD
    assert found.ednsflags & dns.flags.DO


def test_formerr() -> None:
    message, _ = ask()
    reply = reply_formerr(message.to_wire()[:20])
    assert reply is not None
    found = dns.message.from_wire(reply)
    assert (found.id, found.rcode(), found.question) == (message.id, dns.rcode.FORMERR, [])
    assert reply_formerr(bytes(11)) is None
    assert reply_formerr(reply) is None


def test_an_answer_under_the_case_that_was_asked() -> None:
    message, query = ask()
    answer = upstream(
        ("www.example.org", "CNAME", ["Edge.cdn.example."]),
        ("edge.cdn.example", "A", ["192.0.2.1"]),
        ("edge.cdn.example", "A", ["192.0.2.2"]),
    )
    reply = build_reply(query, answer, 60)
    found = read(message, reply)
    assert [str(rrset) for rrset in found.answer] == [
        f"{NAME}. 60 IN CNAME Edge.cdn.example.",
        "Edge.cdn.example. 60 IN A 192.0.2.1\nEdge.cdn.example. 60 IN A 192.0.2.2",
    ]
    assert reply.count(b"\x03cdn") == 1  # owners are pointers


def test_a_ttl_is_capped_and_never_raised() -> None:
    message, query = ask()
    found = read(message, build_reply(query, upstream(("www.example.org", "A", ["192.0.2.1"])), 86400))
    assert found.answer[0].ttl == 300


def test_names_inside_data_survive() -> None:
    message, query = ask("example.org", "MX")
    response = dns.message.make_response(dns.message.make_query("example.org", "MX", id=7))
    response.answer = [dns.rrset.from_text("example.org.", 9, "IN", "MX", "10 Mail.example.org.", "20 mx.example.")]
    answer = parse_response_untrusted(response.to_wire(), "example.org", 15, 7)
    assert read(message, build_reply(query, answer, 60)).answer == response.answer


def test_nodata() -> None:
    message, query = ask(qtype="HTTPS")
    found = read(message, build_reply(query, NODATA, 60))
    assert (found.rcode(), found.answer) == (dns.rcode.NOERROR, [])


def test_pointers() -> None:
    message, query = ask("1.2.0.192.in-addr.arpa", "PTR")
    assert query.name is not None
    found = read(message, build_reply(query, pointer_answer(query.name, ("a.example", "b.example"), 30), 60))
    assert [str(rdata) for rdata in found.answer[0]] == ["a.example.", "b.example."]


@pytest.mark.parametrize(("edns", "limit"), [(None, 512), (600, 600), (65535, 1232)])
def test_what_is_too_long_for_a_datagram_is_asked_again_over_tcp(edns: int | None, limit: int) -> None:
    message, query = ask(edns=edns)
    answer = upstream(("www.example.org", "A", [str(IPv4Address(n)) for n in range(100)]))
    whole = build_reply(query, answer, 60)
    assert truncate_to(query, whole, udp=False) == whole
    cut = truncate_to(query, whole, udp=True)
    assert len(cut) <= limit
    found = read(message, cut)
    assert found.flags & dns.flags.TC
    assert found.answer == []
    small = build_reply(query, NODATA, 60)
    assert truncate_to(query, small, udp=True) == small
