"""Names between a guest and the host's resolvers: what goes up, what is believed of what comes down, what is kept."""

import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.rdatatype
import pytest
from tests.kernel.conftest import MakeWorkspace
from tests.kernel.test_long_transfers import most_memory
from tests.kernel.upstream import SECOND, STUB, Say, Upstream, reply, upstream
from tests.kernel.workspace import Workspace

from microagent.api.limits import Limits
from microagent.api.link import GATEWAY
from microagent.demo import world
from microagent.demo.internet import Internet
from microagent.demo.oracle import Oracle

pytestmark = pytest.mark.kernel

SOA = "test. 60 IN SOA ns.test. root.test. 1 60 60 60 60"


def ask(
    lab: Workspace,
    name: str,
    qtype: str = "A",
    *,
    tcp: bool = False,
    server: str = str(GATEWAY.ip),
    seconds: float = 10,
    **more: object,
) -> dns.message.Message:
    """What the guest is told; dnspython checks id, question, and that the address asked is the one that answers."""
    query = dns.message.make_query(name, qtype, **more)  # type: ignore[arg-type]
    how = dns.query.tcp if tcp else dns.query.udp
    return lab.guest.call(lambda: how(query, server, timeout=seconds))


def addresses(message: dns.message.Message) -> list[str]:
    return [str(rdata) for rrset in message.answer if rrset.rdtype == dns.rdatatype.A for rdata in rrset]


def a(query: dns.message.Message, address: str = world.API, ttl: int = 60) -> dns.message.Message:
    return reply(query, f"{query.question[0].name} {ttl} IN A {address}")


def says_a(query: dns.message.Message, transport: str) -> Iterable[Say]:
    return [a(query)]


def test_nothing_of_the_guests_message_goes_up_but_name_and_type(
    internet: Internet, oracle: Oracle, workspace: MakeWorkspace
) -> None:
    options = [
        dns.edns.ECSOption("198.51.100.0", 24),
        dns.edns.GenericOption(dns.edns.OptionType.COOKIE, b"client-c"),
        dns.edns.GenericOption(dns.edns.OptionType.PADDING, b"\0" * 400),
        dns.edns.GenericOption(dns.edns.OptionType.NSID, b""),
        dns.edns.GenericOption(65001, b"secret"),  # type: ignore[arg-type]
    ]
    lab = workspace(allow=["www.ok.test"], resolvers=[STUB])
    with upstream(internet, says_a) as stub:
        told = ask(lab, "wWw.Ok.TeSt", use_edns=0, options=options, payload=65535, want_dnssec=True, flags=0x0130)
    assert addresses(told) == [world.API]
    assert not told.options
    ((transport, wire),) = stub.heard
    went = dns.message.from_wire(wire)
    assert (transport, went.options, went.flags) == ("udp", (), dns.flags.RD)
    assert (went.payload, went.ednsflags) == (1232, 0)
    assert went.question[0].name.to_text() == "www.ok.test."
    assert oracle.leaks(()) == ()


def test_answers_that_are_not_to_the_question_are_passed_over(
    internet: Internet, oracle: Oracle, workspace: MakeWorkspace
) -> None:
    """B16, CVE-2023-29483: whoever guesses neither keeps the true answer out nor gets a false one in."""

    def script(query: dns.message.Message, transport: str) -> Iterator[Say]:
        false = a(query, world.EVIL)
        for wrong in (0, 1, 0xFFFF):
            false.id = query.id ^ (wrong or 0x5555)
            yield false
        other = dns.message.make_query("evil.ok.test", "A", id=query.id)
        yield a(other, world.EVIL)
        yield reply(dns.message.make_query(query.question[0].name, "AAAA", id=query.id))
        wire = a(query, world.EVIL).to_wire()
        yield wire[:2] + bytes([wire[2] & 0x7F]) + wire[3:]  # a question, not an answer
        yield wire[:-5]
        yield wire[:11]
        yield wire[:4] + b"\0\2" + wire[6:]
        yield a(query)

    lab = workspace(allow=[".ok.test"], resolvers=[STUB])
    with upstream(internet, script):
        assert addresses(ask(lab, "www.ok.test")) == [world.API]
    assert oracle.leaks(()) == ()


def test_nobody_else_is_heard(internet: Internet, oracle: Oracle, workspace: MakeWorkspace) -> None:
    """B16: the same answer from another address, or another port of the same one, and random ids and ports."""
    lab = workspace(allow=[".ok.test"], resolvers=[STUB])
    made: list[Upstream] = []

    def script(query: dns.message.Message, transport: str) -> Iterator[Say]:
        forged = a(query, world.EVIL).to_wire()
        internet.host.run(lambda: _send_from([(SECOND, 53), (STUB, 5353), (SECOND, 0)], forged, made[0].peers[-1]))
        yield 0.2
        yield a(query)

    with upstream(internet, script) as stub:
        made.append(stub)
        for number in range(16):
            assert addresses(ask(lab, f"w{number}.ok.test")) == [world.API]
        ports = {port for _, port in stub.peers}
        idents = {wire[:2] for _, wire in stub.heard}
    assert len(ports) > 12
    assert len(idents) > 12
    assert oracle.leaks(()) == ()


def _send_from(sources: list[tuple[str, int]], data: bytes, to: tuple[str, int]) -> None:
    for source in sources:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(source)
            sock.sendto(data, to)


def test_what_is_truncated_is_asked_again_over_tcp_however_slowly_that_comes(
    internet: Internet, oracle: Oracle, workspace: MakeWorkspace
) -> None:
    many = [f"www.ok.test. 60 IN A 203.0.113.{n}" for n in range(1, 201)]

    def script(query: dns.message.Message, transport: str) -> Iterator[Say]:
        whole = reply(query, *many)
        if transport == "udp":
            whole.answer.clear()
            whole.flags |= dns.flags.TC
            yield whole
            return
        data = whole.to_wire(max_size=65535)
        data = struct.pack("!H", len(data)) + data
        for piece in (data[:1], data[1:2], data[2:3], data[3:40], data[40:]):
            yield piece
            yield 0.05

    lab = workspace(allow=["www.ok.test"], resolvers=[STUB])
    with upstream(internet, script) as stub:
        short = ask(lab, "www.ok.test", use_edns=0, payload=65535)
        assert (short.flags & dns.flags.TC, short.answer) == (dns.flags.TC, [])
        assert len(addresses(ask(lab, "www.ok.test", tcp=True))) == 200
        assert [transport for transport, _ in stub.heard] == ["udp", "tcp"]
    assert oracle.leaks(()) == ()


def test_the_next_resolver_is_asked_when_one_cannot_and_no_other_ever(
    internet: Internet, oracle: Oracle, workspace: MakeWorkspace
) -> None:
    """B18: refusals, silence and a closed port; then nobody, within five seconds."""
    lab = workspace(allow=[".ok.test"], resolvers=[STUB, SECOND])
    with upstream(internet, says_a, SECOND) as second:
        assert addresses(ask(lab, "closed.ok.test")) == [world.API]
        for rcode in (dns.rcode.SERVFAIL, dns.rcode.REFUSED, dns.rcode.NOTIMP):
            with upstream(internet, lambda query, _, rcode=rcode: [reply(query, rcode=rcode)]) as first:  # type: ignore[misc]
                assert addresses(ask(lab, f"rcode{rcode:d}.ok.test")) == [world.API]
                assert len(first.heard) == 1
        with upstream(internet, lambda *_: []):
            assert addresses(ask(lab, "silent.ok.test")) == [world.API]
        assert len(second.heard) == 5
    with upstream(internet, lambda query, _: [b"\xff" * 40]):
        began = time.monotonic()
        assert ask(lab, "nobody.ok.test").rcode() == dns.rcode.SERVFAIL
        assert time.monotonic() - began < 8  # five, and what a busy machine needs
    lab.wait_for("egress_dns_error", qname="nobody.ok.test")
    assert oracle.leaks(()) == ()


def test_what_is_known_is_not_asked_again_until_its_time_is_over(
    internet: Internet, oracle: Oracle, workspace: MakeWorkspace
) -> None:
    """B17: and what one workspace knows, another has to ask for."""

    def script(query: dns.message.Message, transport: str) -> Iterable[Say]:
        name = query.question[0].name.to_text(omit_final_dot=True)
        if name == "gone.ok.test":
            return [reply(query, authority=SOA, rcode=dns.rcode.NXDOMAIN)]
        if name == "empty.ok.test":
            return [reply(query, authority=SOA)]
        return [a(query, ttl=2 if name == "brief.ok.test" else 60)]

    lab, other = (workspace(allow=[".ok.test"], resolvers=[STUB], name=name) for name in ("lab", "other"))
    with upstream(internet, script) as stub:
        for _ in range(3):
            assert ask(lab, "gone.ok.test").rcode() == dns.rcode.NXDOMAIN
            empty = ask(lab, "EMPTY.ok.test")
            assert (empty.rcode(), empty.answer) == (dns.rcode.NOERROR, [])
            assert addresses(ask(lab, "long.ok.test")) == [world.API]
            told = ask(lab, "brief.ok.test")
            assert told.answer[0].ttl <= 2
        assert stub.names()[:4] == ["gone.ok.test", "empty.ok.test", "long.ok.test", "brief.ok.test"]
        assert set(stub.names()[4:]) <= {"brief.ok.test"}
        time.sleep(2.1)
        before = len(stub.heard)
        ask(lab, "brief.ok.test")
        assert stub.names()[before:] == ["brief.ok.test"]
        assert ask(lab, "long.ok.test").answer[0].ttl < 60
        ask(other, "long.ok.test")
        assert stub.names()[before + 1 :] == ["long.ok.test"]
    assert oracle.leaks(()) == ()


def test_what_is_known_is_bounded_however_large_the_answers(
    internet: Internet, oracle: Oracle, workspace: MakeWorkspace
) -> None:
    """Whoever owns a zone answers each of its 65 000 types with 60 kB, and the guest asks for them all."""
    types, size = range(1000, 1800), 60_000
    data = "00" * size

    def script(query: dns.message.Message, transport: str) -> Iterable[Say]:
        question = query.question[0]
        if question.rdtype == dns.rdatatype.A:
            return [a(query)]
        return [reply(query, f"{question.name} 3600 IN TYPE{int(question.rdtype)} \\# {size} {data}")]

    lab = workspace(allow=["fat.ok.test"], resolvers=[STUB], limits=Limits(dns_queries_per_second=100_000))
    with upstream(internet, script):
        assert addresses(ask(lab, "fat.ok.test")) == [world.API]
        before = most_memory(lab)
        for number in types:
            told = ask(lab, "fat.ok.test", f"TYPE{number}", tcp=True)
            assert len(told.answer[0][0].to_wire()) == size
        # Less than was told: what is kept, and what is on its way.
        assert (most_memory(lab) - before) * 1024 < len(types) * size / 3 * 2
        assert addresses(ask(lab, "fat.ok.test")) == [world.API]
    assert oracle.leaks(()) == ()


def test_a_guests_tcp_may_be_split_slow_and_pipelined(oracle: Oracle, workspace: MakeWorkspace) -> None:
    """B3, B4: the answers come as they are known, and what is never whole keeps nobody else from being answered."""
    lab = workspace(allow=[".ok.test"])
    queries = [dns.message.make_query(name, "A") for name in ("api.ok.test", "evil.test", "alias.ok.test")]
    wires = [struct.pack("!H", len(wire)) + wire for wire in (query.to_wire() for query in queries)]

    def talk() -> dict[int, dns.message.Message]:
        told = {}
        never = socket.create_connection(("192.0.2.53", 53), timeout=10)
        never.sendall(b"\xff\xff\0")
        with never, socket.create_connection(("192.0.2.53", 53), timeout=10) as stream:
            for byte in wires[0]:
                stream.sendall(bytes([byte]))
                time.sleep(0.002)
            stream.sendall(wires[1] + wires[2])
            for _ in queries:
                (length,) = struct.unpack("!H", stream.recv(2, socket.MSG_WAITALL))
                message = dns.message.from_wire(stream.recv(length, socket.MSG_WAITALL))
                told[message.id] = message
        return told

    told = lab.guest.call(talk)
    first, refused, alias = (told[query.id] for query in queries)
    assert (addresses(first), addresses(alias)) == ([world.API], [world.API])
    assert refused.rcode() == dns.rcode.REFUSED
    assert oracle.leaks((), {"api.ok.test", "alias.ok.test"}) == ()


_ZONE = """
$TTL 300
@ IN SOA ns root 1 3600 600 86400 30
@ IN NS ns
ns IN A 203.0.113.53
one.ok IN A 203.0.113.10
six.ok IN AAAA 2001:db8::1
six.ok IN AAAA ::ffff:10.0.0.1
both.ok IN A 203.0.113.10
both.ok IN AAAA 2001:db8::1
inside.ok IN A 10.99.0.1
inside.ok IN A 169.254.169.254
brief.ok 0 IN A 203.0.113.10
ages.ok 2000000 IN A 203.0.113.10
text.ok IN TXT "a" "b\\"c" "\\000\\255"
mail.ok IN MX 10 mx.ok
srv.ok IN SRV 1 2 443 one.ok
caa.ok IN CAA 0 issue "ca.test"
naptr.ok IN NAPTR 1 1 "s" "x" "" one.ok
odd.ok IN TYPE65400 \\# 3 010203
_dmarc.ok IN TXT "v=DMARC1"
*.wild.ok IN A 203.0.113.11
c1.ok IN CNAME c2.ok
c2.ok IN CNAME C3.ok
c3.ok IN CNAME c4.elsewhere
c4.elsewhere IN CNAME one.ok
dangling.ok IN CNAME nothing.elsewhere
loop1.ok IN CNAME loop2.ok
loop2.ok IN CNAME loop1.ok
tree.ok IN DNAME wild.ok
out.ok IN DNAME away.elsewhere
x.away.elsewhere IN A 203.0.113.12
"""
_QUESTIONS = (
    [(name, qtype) for name in ("one", "both", "inside", "six", "ages", "brief") for qtype in ("A", "AAAA")]
    + [("text", "TXT"), ("mail", "MX"), ("srv", "SRV"), ("caa", "CAA"), ("naptr", "NAPTR"), ("odd", "TYPE65400")]
    + [("_dmarc", "TXT"), ("a.b.wild", "A"), ("c1", "A"), ("c1", "CNAME"), ("c1", "TXT"), ("dangling", "A")]
    + [
        ("loop1", "A"),
        ("a.tree", "A"),
        ("tree", "DNAME"),
        ("x.out", "A"),
        ("nothing", "A"),
        ("one", "TXT"),
        ("big", "A"),
    ]
)
_UNBOUND = """
server:
    interface: {address}
    do-daemonize: no
    username: ""
    chroot: ""
    use-syslog: no
    pidfile: ""
    module-config: "iterator"
    cache-max-ttl: 3000000
    max-udp-size: 1232
    local-zone: "test." nodefault
auth-zone:
    name: "test."
    zonefile: "{directory}/zone"
    for-downstream: no
    for-upstream: yes
remote-control:
    control-enable: no
"""


def test_answers_are_those_of_unbound(
    internet: Internet, oracle: Oracle, workspace: MakeWorkspace, tmp_path: Path
) -> None:
    """B11: every kind of answer, chain and loop, over UDP of several sizes and over TCP."""
    big = "".join(f"big.ok IN A 203.0.113.{n}\n" for n in range(1, 121))
    (tmp_path / "zone").write_text(_ZONE + big)
    (tmp_path / "unbound.conf").write_text(_UNBOUND.format(address=STUB, directory=tmp_path))
    lab = workspace(allow=[".ok.test"], resolvers=[STUB])
    argv = internet.host.argv("unbound", "-d", "-c", str(tmp_path / "unbound.conf"))
    with subprocess.Popen(argv, stderr=subprocess.DEVNULL) as unbound:
        try:
            internet.host.run(lambda: _patiently(dns.query.tcp, dns.message.make_query("one.ok.test", "A")))
            for prefix, qtype in _QUESTIONS:
                for size, how in (
                    (None, dns.query.udp),
                    (1232, dns.query.udp),
                    (4096, dns.query.udp),
                    (None, dns.query.tcp),
                ):
                    query = dns.message.make_query(
                        f"{prefix}.ok.test", qtype, use_edns=size is not None, payload=size or 512
                    )
                    theirs = internet.host.run(lambda how=how, query=query: how(query, STUB, timeout=10))  # type: ignore[misc]
                    ours = lab.guest.call(lambda how=how, query=query: how(query, str(GATEWAY.ip), timeout=10))  # type: ignore[misc]
                    assert _summary(ours) == _summary(theirs), (str(theirs), str(ours))
                    assert not ours.flags & (dns.flags.AA | dns.flags.AD)
                    assert all(rrset.ttl <= 86400 for rrset in ours.answer)
        finally:
            unbound.terminate()
    assert oracle.leaks(()) == ()


def _summary(message: dns.message.Message) -> tuple[int, bool, set[tuple[str, str, str]]]:
    """Code, whether it was cut, and the records; without those that we leave out: DNAME beside the CNAME it makes."""
    cut = bool(message.flags & dns.flags.TC)
    wanted = (message.question[0].rdtype, dns.rdatatype.CNAME)
    records = {
        (rrset.name.to_text().lower(), dns.rdatatype.to_text(rrset.rdtype), rdata.to_text().lower())
        for rrset in message.answer
        for rdata in rrset
        if rrset.rdtype in wanted
    }
    return message.rcode(), cut, set() if cut else records


def _patiently(how: Callable[..., dns.message.Message], query: dns.message.Message) -> None:
    """Returns when there is an answer."""
    deadline = time.monotonic() + 20
    while True:
        try:
            how(query, STUB, timeout=1)
            return
        except (OSError, dns.exception.DNSException):
            assert time.monotonic() < deadline
            time.sleep(0.1)
