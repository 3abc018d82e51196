"""Queries as guests send them, and as they should not."""

import struct

import dns.edns
import dns.flags
import dns.message
import dns.name
import pytest

from microagent.errors import Malformed
from microagent.wire.dns import QType, parse_query_untrusted


def wire(
    question: bytes = b"\x07example\x03org\x00\x00\x01\x00\x01",
    *,
    flags: int = 0x0100,
    counts: tuple[int, int, int, int] = (1, 0, 0, 0),
    rest: bytes = b"",
) -> bytes:
    return struct.pack("!HHHHHH", 0x1234, flags, *counts) + question + rest


OPT = b"\x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x00"


def test_a_query_of_dnspython() -> None:
    message = dns.message.make_query("WWW.Example.org", "AAAA", use_edns=0, payload=4096, want_dnssec=True)
    message.flags |= dns.flags.CD
    query = parse_query_untrusted(message.to_wire())
    assert (query.ident, query.opcode, query.rd, query.cd) == (message.id, 0, True, True)
    assert (query.name, query.qtype, query.qclass) == ("www.example.org", QType.AAAA, 1)
    assert (query.edns_size, query.edns_version, query.do) == (4096, 0, True)
    assert query.question == b"\x03WWW\x07Example\x03org\x00\x00\x1c\x00\x01"


def test_options_are_read_over() -> None:
    cookie, padding = (dns.edns.OptionType.make(number) for number in (10, 12))
    options = [
        dns.edns.ECSOption("192.0.2.0", 24),
        dns.edns.GenericOption(cookie, bytes(8)),
        dns.edns.GenericOption(padding, bytes(400)),
    ]
    message = dns.message.make_query("example.org", "A", use_edns=0, payload=100, options=options)
    query = parse_query_untrusted(message.to_wire())
    assert (query.name, query.edns_size, query.do) == ("example.org", 512, False)


def test_a_later_edns_version_is_told() -> None:
    query = parse_query_untrusted(wire(counts=(1, 0, 0, 1), rest=OPT[:6] + b"\x01" + OPT[7:]))
    assert query.edns_version == 1


@pytest.mark.parametrize(
    "labels",
    [
        [b"x.sfx", b"test"],
        [b"a", b"te.st"],
        [b"te.", b"st"],
        [b".", b"test"],
        [b"evil.test\x00", b"ok", b"test"],
        [b"with space", b"test"],
        [b"*", b"test"],
        [b"\xff", b"test"],
        ["bücher".encode(), b"test"],
        [b"192", b"0", b"2", b"1"],
        [],
        [b"."],
    ],
)
def test_what_is_no_host_name_has_no_name_but_a_question(labels: list[bytes]) -> None:
    question = b"".join(bytes((len(label),)) + label for label in labels) + b"\x00\x00\x01\x00\x01"
    query = parse_query_untrusted(wire(question))
    assert query.name is None
    assert query.question == question


@pytest.mark.parametrize("name", ["_dmarc.sfx.test", "xn--bcher-kva.test", "a", "1.0.0.127.in-addr.arpa", "A.B"])
def test_names_of_dns(name: str) -> None:
    assert parse_query_untrusted(dns.message.make_query(name, "TXT").to_wire()).name == name.lower()


@pytest.mark.parametrize("opcode", [1, 2, 4, 5, 6, 15])
def test_other_opcodes_are_read_no_further_than_their_question(opcode: int) -> None:
    query = parse_query_untrusted(wire(flags=opcode << 11, counts=(1, 2, 3, 4), rest=b"anything"))
    assert (query.opcode, query.name, query.edns_size) == (opcode, "example.org", None)


LONG = b"\x3f" + b"a" * 63
MALFORMED = {
    "nothing": b"",
    "eleven bytes": bytes(11),
    "a response": wire(flags=0x8100),
    "no question": wire(b"", counts=(0, 0, 0, 0)),
    "two questions": wire(counts=(2, 0, 0, 0), rest=b"\x01a\x00\x00\x01\x00\x01"),
    "an answer": wire(counts=(1, 1, 0, 0), rest=b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x00\x00\x04\x7f\x00\x00\x01"),
    "an authority": wire(counts=(1, 0, 1, 0)),
    "two additionals": wire(counts=(1, 0, 0, 2), rest=OPT * 2),
    "an additional that is no OPT": wire(counts=(1, 0, 0, 1), rest=OPT[:2] + b"\x10" + OPT[3:]),
    "an OPT with an owner": wire(counts=(1, 0, 0, 1), rest=b"\x01a" + OPT),
    "a missing additional": wire(counts=(1, 0, 0, 1)),
    "half an OPT": wire(counts=(1, 0, 0, 1), rest=OPT[:-1]),
    "an option that overruns": wire(counts=(1, 0, 0, 1), rest=OPT[:-1] + b"\x05\x00\x0a\x00\x02x"),
    "half an option": wire(counts=(1, 0, 0, 1), rest=OPT[:-1] + b"\x03\x00\x0a\x00"),
    "junk behind the question": wire(rest=b"\x00"),
    "junk behind OPT": wire(counts=(1, 0, 0, 1), rest=OPT + b"\x00"),
    "a pointer": wire(b"\xc0\x0c\x00\x01\x00\x01"),
    "a forward pointer": wire(b"\x01a\xc0\x20\x00\x01\x00\x01"),
    "a label of 64 bytes": wire(b"\x40" + b"a" * 64 + b"\x00\x00\x01\x00\x01"),
    "a name of 256 bytes": wire(LONG * 3 + b"\x3e" + b"a" * 62 + b"\x00\x00\x01\x00\x01"),
    "a name of 60 kB": wire(LONG * 1000 + b"\x00\x00\x01\x00\x01"),
    "a name without an end": wire(b"\x07example"),
    "a question without a class": wire(b"\x01a\x00\x00\x01\x00"),
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        parse_query_untrusted(data)


def test_the_longest_name_is_read() -> None:
    query = parse_query_untrusted(wire(LONG * 3 + b"\x3d" + b"a" * 61 + b"\x00\x00\x01\x00\x01"))
    assert query.name is not None
    assert len(query.name) == 253
