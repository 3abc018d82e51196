"""What the facts about a running workspace mean: each check holds, and each can fail."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest

from microagent.doctor import probe
from microagent.doctor.probe import Said, answers_untrusted
from microagent.doctor.workspace import DIRECT, FOREIGN_RESOLVER, METADATA, PRIVATE, Facts, Plan, address_of, findings
from microagent.errors import Malformed
from microagent.policy.model import Mode, Policy, Verb
from microagent.policy.parse import parse_entry
from microagent.wire.dns import QType, Rcode, build_upstream_query, parse_query_untrusted, reply_refused

NAME = "doctor-0.microagent.invalid"
GATEWAY = "10.43.0.1"
HANDSHAKE = Said("answer", b"\x16\x03\x03")


def plan(*entries: str, mode: Mode = Mode.STRICT) -> Plan:
    return Plan(mode, Policy(tuple(parse_entry(Verb.ALLOW, text, "a test") for text in entries)), NAME)


def refused(decision: str, rcode: Rcode = Rcode.REFUSED) -> Said:
    query = parse_query_untrusted(build_upstream_query(1, NAME, QType.A))
    return Said("answer", reply_refused(query, f"name_not_listed {decision}", rcode))


def denied(decision: str, server: str) -> dict[str, Any]:
    return {"event": "egress_dns_deny", "id": decision, "server": server, "qname": NAME}


FINE = Facts(
    said={
        "gateway": Said("answer", bytes(20) + b"\0\0\xff\xfe"),
        "resolver": refused("d1"),
        "clock": Said("clock", number=1000),
        "foreign resolver": refused("d2"),
        "quic": Said("refused"),
        "ipv6": Said("silent"),
        "metadata": Said("refused"),
        "private address": Said("refused"),
        "direct address": Said("reset"),
    },
    moved={"refused_udp": 1, "drop_ipv6": 1, "refused_inside_tcp": 1},
    records=[
        denied("d1", GATEWAY),
        denied("d2", FOREIGN_RESOLVER),
        {"event": "egress_deny", "dst": f"{DIRECT}:80"},
        {"event": "egress_internal_deny", "dst": f"{PRIVATE}:80"},
        {"event": "egress_allow", "host": "api.ok.test"},
    ],
    before=999.0,
    after=1001.0,
    ca_lines=9,
    bundles={"SSL_CERT_FILE": 9},
    nameservers=[GATEWAY],
    runtimes={"curl": ""},
    reached={443: HANDSHAKE},
)


def failed(facts: Facts) -> set[str]:
    found = findings(plan("api.ok.test"), facts)
    assert all(bool(one.fix) is not one.ok for one in found)
    return {one.name for one in found if not one.ok}


def test_all_holds() -> None:
    assert len(findings(plan("api.ok.test"), FINE)) == 14
    assert failed(FINE) == set()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("mediator", {"alive": False}),
        ("rules", {"repaired": ("rules",)}),
        ("ca", {"bundles": {"SSL_CERT_FILE": 9, "PIP_CERT": 8}}),
        ("ca", {"bundles": {"SSL_CERT_FILE": None}}),
        ("ca", {"bundles": {}}),
        ("ca of curl", {"runtimes": {"curl": "unable to get local issuer certificate"}}),
        ("resolver", {"nameservers": []}),
        ("resolver", {"nameservers": ["127.0.0.53"]}),
        ("allowed host", {"reached": {}}),
        ("allowed host", {"reached": {443: Said("reset"), 80: Said("closed"), 22: Said("open")}}),
        ("allowed host", {"reached": {443: Said("answer", b"\x15\x03\x03"), 80: Said("answer", b"SSH-2.0")}}),
        ("clock", {"before": 1010.0, "after": 1011.0}),
        ("clock", {"before": 990.0, "after": 991.0}),
    ],
)
def test_what_the_host_sees_fails_its_check(name: str, change: dict[str, Any]) -> None:
    assert failed(dataclasses.replace(FINE, **change)) == {name}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gateway", Said("silent")),
        ("gateway", Said("answer", bytes(20) + b"\x03")),
        ("clock", Said("error", number=22)),
        ("resolver", Said("silent")),
        ("resolver", refused("d1", Rcode.NXDOMAIN)),
        ("foreign resolver", Said("silent")),
        ("foreign resolver", refused("d1")),
        ("foreign resolver", refused("unheard-of")),
        ("foreign resolver", Said("answer", b"\xff" * 40)),
        ("foreign resolver", Said("answer", b"\xff")),
        ("quic", Said("answer", b"\0")),
        ("quic", Said("silent")),
        ("ipv6", Said("answer", b"\0")),
        ("metadata", Said("open")),
        ("metadata", Said("silent")),
        ("private address", Said("open")),
        ("direct address", Said("open")),
        ("direct address", Said("answer", b"SSH-2.0")),
    ],
)
def test_what_the_guest_says_fails_its_check(name: str, said: Said) -> None:
    assert failed(dataclasses.replace(FINE, said={**FINE.said, name: said})) == {name}


def test_a_guest_that_sent_nothing_is_not_believed() -> None:
    facts = dataclasses.replace(FINE, moved={}, records=[])
    closed = {"quic", "ipv6", "metadata", "private address", "direct address"}
    assert failed(facts) == closed | {"foreign resolver", "resolver", "allowed host"}


def test_a_host_without_tls_may_speak_something_else() -> None:
    for port, words in ((80, b"HTTP/1.1 200"), (22, b"SSH-2.0")):
        facts = dataclasses.replace(FINE, reached={443: Said("reset"), port: Said("answer", words)})
        assert failed(facts) == set()
        (found,) = (one for one in findings(plan("api.ok.test"), facts) if one.name == "allowed host")
        assert f"port {port}, answers" in found.detail


def test_the_host_that_is_asked_is_an_intercepted_one_if_there_is_such() -> None:
    pinned = parse_entry(Verb.PASSTHROUGH, "pinned.ok.test", "a test")
    listed = parse_entry(Verb.ALLOW, "api.ok.test", "a test")
    assert Plan(Mode.GUARDED, Policy((pinned,)), NAME).host == "pinned.ok.test"
    assert Plan(Mode.GUARDED, Policy((pinned,)), NAME).trusting_host == ""
    assert Plan(Mode.GUARDED, Policy((pinned, listed)), NAME).trusting_host == "api.ok.test"
    assert Plan(Mode.STRICT, Policy((pinned, listed)), NAME).trusting_host == "api.ok.test"


def test_words_of_the_guest_are_inert_and_short() -> None:
    facts = dataclasses.replace(FINE, nameservers=["\x1b[31m" + "x" * 1000], runtimes={"git": "\x1b]0;\n" * 200})
    details = [one.detail for one in findings(plan("api.ok.test"), facts)]
    assert all(len(detail) <= 200 and detail.isprintable() for detail in details)


def test_what_the_policy_opens_is_not_tried() -> None:
    assert plan("api.ok.test").untried(FINE.reached) == []
    assert "direct address" not in plan("api.ok.test", mode=Mode.GUARDED).questions
    opened = plan(METADATA, f"{DIRECT}/32", "10.0.0.0/8")
    untried = ["metadata", "private address", "direct address"]
    assert not opened.questions.keys() & set(untried)
    assert [line.partition(":")[0] for line in opened.untried(None)] == ["allowed host", *untried, "trust of git"]


@pytest.mark.parametrize(("mode", "what"), [(Mode.STRICT, "trust of git"), (Mode.GUARDED, "trust of each runtime")])
def test_trust_without_a_host_to_try_it_with_is_said(mode: Mode, what: str) -> None:
    """In strict mode, the others are tried with a name that is refused."""

    def said(*entries: str, reached: Mapping[int, Said] | None) -> list[str]:
        return [line for line in plan(*entries, mode=mode).untried(reached) if line.startswith("trust")]

    silent = {443: Said("silent"), 80: Said("answer", b"HTTP/1.1 200 OK")}
    assert said("api.ok.test", reached=FINE.reached) == []
    assert said("api.ok.test", reached=silent) == [f"{what}: api.ok.test answers no TLS at port 443"]
    assert said("api.ok.test", reached={}) == [f"{what}: api.ok.test answers no TLS at port 443"]
    assert said(".ok.test", reached=None) == [f"{what}: no exact allow entry names a host to try it with"]


def test_records_that_matter() -> None:
    strict = plan("api.ok.test")
    assert all(map(strict.concerns, FINE.records))
    others = [{"qname": "other.test"}, {"host": ""}, {"dst": f"{DIRECT}:443"}, {"event": "gap"}]
    assert not any(map(strict.concerns, others))
    assert not plan().concerns({"host": ""})


def test_the_address_is_the_one_the_mediator_told() -> None:
    told = {"event": "egress_dns_allow", "qname": "api.ok.test"}
    assert (
        address_of("api.ok.test", [told, {**told, "answers": []}, {**told, "qname": "x.test", "answers": ["::"]}]) == ""
    )
    assert address_of("api.ok.test", [told, {**told, "answers": ["203.0.113.10", "203.0.113.11"]}]) == "203.0.113.10"


def test_the_probe_is_read() -> None:
    questions = [probe.ping(GATEWAY), probe.clock(), probe.tcp(DIRECT, 80), probe.udp(DIRECT, 443, b"\0")]
    assert questions == ["ping 10.43.0.1", "clock", "tcp 203.0.113.1 80 -", "udp 203.0.113.1 443 00"]
    said = answers_untrusted(b"answer 0aff\nclock 1000\nreset\nerror 101\n", questions)
    assert said == [Said("answer", b"\x0a\xff"), Said("clock", number=1000), Said("reset"), Said("error", number=101)]


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"reset",
        b"reset\nreset\n",
        b"clock 5\n",
        b"answer\n",
        b"answer 0\n",
        b"answer 0A\n",
        b"answer " + b"00" * 1501 + b"\n",
        b"error -1\n",
        b"error \xd9\xa1\n",
        b"reset \n",
        b"reset\r\n",
        b"ok\n",
    ],
)
def test_what_no_probe_says_is_malformed(text: bytes) -> None:
    with pytest.raises(Malformed):
        answers_untrusted(text, [probe.tcp(DIRECT, 80)])
