"""The file that would have allowed what was allowed."""

from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from tests.unit.decision.past_records import WHEN, allowed, record

from microagent.decision.engine import Engine
from microagent.decision.replay import replay
from microagent.decision.suggest import suggest
from microagent.policy.model import Mode, Policy, Verb
from microagent.policy.parse import parse_file


def lists(text: str) -> dict[str, list[str]]:
    entries = parse_file(text, "p.yaml")
    return {verb.value: [entry.text for entry in entries if entry.verb is verb] for verb in Verb}


def test_suggest_is_a_policy_that_strict_mode_allows_the_same_with() -> None:
    records = [
        *(allowed(f"{label}.cdn.test") for label in "abc"),
        allowed("api.other.test"),
        allowed("", proto="tcp", dialed="203.0.113.9:22"),
        allowed("", proto="tcp", dialed="[2001:db8::7]:22"),
        allowed("db.corp.test", proto="tcp", dialed="10.0.0.5:5432", reason="lease_listed"),
        allowed("169.254.169.254", proto="http", dialed="169.254.169.254:80", reason="address_listed"),
        allowed("203.0.113.8", proto="http", dialed="203.0.113.8:80"),
        allowed("pinned.test"),
        record("egress_mitm_handshake_error", host="pinned.test", dst="203.0.113.5:443"),
        record("egress_deny", host="evil.test", dst="203.0.113.5:443", proto="tls", reason="name_not_listed"),
    ]
    text = suggest(records)
    assert lists(text) == {
        "allow": [
            "169.254.169.254",
            "2001:db8::7",
            "203.0.113.8",
            "203.0.113.9",
            "api.other.test",
            ".cdn.test",
            "db.corp.test",
        ],
        "passthrough": ["pinned.test"],
    }
    assert "  # the guest refused our certificate: it pins its own, or does not trust the workspace's CA\n" in text
    assert text.count("refused our certificate") == 1
    found = replay(records, Engine(Mode.STRICT, Policy(parse_file(text, "p.yaml"))))
    assert (found.decisions, found.changes) == (11, ())


def test_a_host_whose_certificate_a_client_took_stays_one_to_intercept() -> None:
    """`doctor` begins a handshake with an allowed host, and leaves; a client that pins never sends anything."""
    left = record("egress_mitm_handshake_error", host="api.test", dst="203.0.113.5:443")
    close = {"host": "api.test", "dst": "203.0.113.5:443", "tls": "intercept"}
    used = record("egress_close", **close, bytes_out=75, bytes_in=200)
    unused = record("egress_close", **close, bytes_out=0, bytes_in=0)
    for records in ([left, unused, used], [used, left, unused]):
        text = suggest([allowed("api.test"), *records])
        assert lists(text) == {"allow": ["api.test"], "passthrough": []}
        assert "  # 1 of these the guest left before it sent anything" in text
    assert lists(suggest([allowed("api.test"), left, unused])) == {"allow": [], "passthrough": ["api.test"]}


def test_what_doctor_left_is_no_clients_refusal() -> None:
    """Where nobody else has sent the host anything, what `doctor NAME` left would look like a client that pins."""

    def at(second: int) -> str:
        return f"2026-01-02T03:04:{second:02}.000006Z"

    def left(second: int) -> dict[str, Any]:
        return record("egress_mitm_handshake_error", host="api.test", dst="203.0.113.5:443") | {"ts": at(second)}

    tried = record("enforcement_verified", who="root", checks=["ca"], host="api.test", first=at(10)) | {"ts": at(20)}
    assert lists(suggest([allowed("api.test"), left(10), left(15), tried])) == {
        "allow": ["api.test"],
        "passthrough": [],
    }
    for other in (left(9), left(21)):
        assert lists(suggest([allowed("api.test"), other, left(15), tried]))["passthrough"] == ["api.test"]
    for elsewhere in (tried | {"host": "other.test"}, tried | {"host": "", "first": ""}):
        assert lists(suggest([allowed("api.test"), left(15), elsewhere]))["passthrough"] == ["api.test"]


def test_a_name_that_yaml_takes_for_a_number_stays_a_name() -> None:
    """A guest can ask for any name; one of these would make the whole file one that no reader takes."""
    names = ["-.inf", "-1._", "-1_0.5e-5", "1.5e5", "1._", "1.e-5", "12_0.3e-7", "1_0.1_0", "1_0._", "_.e5"]
    assert lists(suggest([allowed(name) for name in names]))["allow"] == names


def test_suggest_says_what_each_line_is_for() -> None:
    text = suggest(
        [
            allowed("me.github.io"),
            allowed("me.github.io"),
            record("egress_close", host="me.github.io", dst="203.0.113.5:443", bytes_out=10, bytes_in=200),
            record("egress_close", dst="203.0.113.9:22", bytes_out=1, bytes_in=2),
            allowed("", proto="tcp", dialed="203.0.113.9:22"),
        ]
    )
    assert f"  # first seen {WHEN}, flows: 2, bytes out: 10, in: 200\n" in text
    assert "  # multi-tenant: strangers have names under github.io too\n  - me.github.io\n" in text
    assert f"  # first seen {WHEN}, flows: 1, bytes out: 1, in: 2\n  - 203.0.113.9\n" in text


def test_suggest_leaves_a_passthrough_what_it_was() -> None:
    """With an allow entry in its place the guest, which trusts the server's own certificate, would be cut off."""
    spliced = record("egress_allow", host="pinned.test", dst="203.0.113.5:443", proto="tls", tls="passthrough")
    in_plain = allowed("pinned.test", dialed="203.0.113.5:80", proto="http")
    text = suggest([allowed("pinned.test"), spliced, in_plain, allowed("api.other.test")])
    assert lists(text) == {"allow": ["api.other.test"], "passthrough": ["pinned.test"]}
    assert "  # as it was: an entry kept its TLS from being intercepted\n  - pinned.test\n" in text
    since_intercepted = suggest([spliced, allowed("pinned.test")])
    assert lists(since_intercepted) == {"allow": ["pinned.test"], "passthrough": []}


def test_suggest_folds_as_little_as_it_can() -> None:
    deep = [allowed(f"{label}.eu.cdn.test") for label in "abc"]
    assert lists(suggest(deep))["allow"] == [".eu.cdn.test"]
    assert "3 hosts of one domain: a.eu.cdn.test, b.eu.cdn.test, c.eu.cdn.test" in suggest(deep)
    assert lists(suggest([*deep, allowed("cdn.test")]))["allow"] == [".cdn.test"]
    assert lists(suggest(deep[:2]))["allow"] == ["a.eu.cdn.test", "b.eu.cdn.test"]
    tenants = [allowed(f"{label}.github.io") for label in "abcd"]
    assert len(lists(suggest(tenants))["allow"]) == 4
    inside = [*deep, allowed("d.eu.cdn.test", dialed="10.0.0.5:443", reason="name_listed")]
    assert lists(suggest(inside))["allow"] == ["d.eu.cdn.test", ".eu.cdn.test"]


def test_suggest_asks_the_engine_what_a_name_cannot_open() -> None:
    """An exact entry does not lead to the host's own address; the address needs its entry."""
    own = frozenset({ip_address("203.0.113.1")})
    text = suggest([allowed("host.corp.test", dialed="203.0.113.1:443", reason="name_listed")], own)
    assert lists(text)["allow"] == ["203.0.113.1", "host.corp.test"]
    other_port = allowed("host.corp.test", dialed="203.0.113.1:8443", reason="name_listed")
    twice = suggest([allowed("host.corp.test", dialed="203.0.113.1:443", reason="name_listed"), other_port], own)
    assert lists(twice)["allow"] == ["203.0.113.1", "host.corp.test"]
    assert "  # where host.corp.test leads\n  - 203.0.113.1\n" in text


def test_suggest_quotes_what_yaml_would_take_for_a_number() -> None:
    text = suggest([allowed("", proto="tcp", dialed="[2001:10:20:30:40:50:1:2]:22")])
    assert lists(text)["allow"] == ["2001:10:20:30:40:50:1:2"]


def test_suggest_counts_only_numbers() -> None:
    odd = record("egress_close", host="a.test", dst="203.0.113.5:443", bytes_out="7", bytes_in=None)
    assert "bytes out: 0, in: 0" in suggest([allowed("a.test"), odd])


def test_suggest_of_nothing() -> None:
    assert lists(suggest([])) == {"allow": [], "passthrough": []}
    looked_up = record("egress_dns_allow", qname="only.test", qtype="A", reason="name_unlisted")
    assert "# Looked up, never connected to: only.test\n" in suggest([looked_up])


def test_suggest_says_what_no_entry_can() -> None:
    text = suggest([allowed("wiki", proto="http", dialed="203.0.113.5:80")])
    assert "# No entry can stand for 'wiki'.\n" in text
    assert lists(text)["allow"] == []


def test_suggest_says_what_no_entry_can_though_the_host_has_one_for_something_else() -> None:
    leased = allowed("wiki", proto="tcp", dialed="203.0.113.5:22", reason="lease_listed")
    text = suggest([allowed("wiki"), leased])
    assert "# No entry can stand for 'wiki'.\n" in text
    assert lists(text)["allow"] == ["203.0.113.5"]
    assert "No entry" not in suggest([leased])


@pytest.mark.parametrize("dialed", ["203.0.113.5:443", "169.254.169.254:443"])
def test_suggest_writes_nothing_that_no_file_may_say(dialed: str) -> None:
    """The guest chooses its names: an entry that is refused would spoil the whole file."""
    text = suggest([allowed("a.test"), allowed("co.uk", dialed=dialed, reason="address_listed")])
    assert "# No entry can stand for 'co.uk'.\n" in text
    assert lists(text)["allow"] == ["a.test"]


def test_suggest_writes_no_comment_that_a_record_made_up() -> None:
    text = suggest([allowed("a.test") | {"ts": "x\nallow: [evil.test]"}])
    assert "evil" not in text
    assert "first seen unknown" in text


def test_suggest_adds_up_whatever_stands_between_the_records() -> None:
    other = record("egress_deny", host="evil.test", dst="203.0.113.6:443", proto="tls", reason="name_not_listed")
    looked_up = record("egress_dns_allow", qname="a.test", qtype="A", reason="name_unlisted")
    first = record("egress_close", host="a.test", dst="203.0.113.5:443", bytes_out=10, bytes_in=200)
    second = record("egress_udp_close", host="a.test", dst="203.0.113.5:123", bytes_out=1, bytes_in=2)
    datagram = record("egress_udp_allow", host="a.test", dst="203.0.113.5:123", proto="udp", reason="lease_listed")
    stranger = record("egress_close", host="b.test", dst="203.0.113.7:443", bytes_out=1000, bytes_in=1000)
    text = suggest([other, looked_up, allowed("a.test"), first, stranger, datagram, second])
    assert f"  # first seen {WHEN}, flows: 2, bytes out: 11, in: 202\n  - a.test\n" in text
    assert "never connected to" not in text


def test_suggest_counts_no_stranger_to_an_address() -> None:
    """A record that belongs to nobody is not added to the flows of somebody."""
    lost = record("egress_close", dst="nowhere", bytes_out=5, bytes_in=5)
    text = suggest([allowed("", proto="tcp", dialed="203.0.113.9:22"), lost])
    assert "flows: 1, bytes out: 0, in: 0" in text


def test_suggest_knows_what_is_private_to_the_operator() -> None:
    mine = (ip_network("203.0.113.0/24"),)
    records = [allowed(f"{label}.cdn.test", reason="name_listed") for label in "abc"]
    assert lists(suggest(records))["allow"] == [".cdn.test"]
    assert lists(suggest(records, extra_private=mine))["allow"] == ["a.cdn.test", "b.cdn.test", "c.cdn.test"]
    leased = allowed("db.cdn.test", proto="tcp", dialed="203.0.113.5:5432", reason="lease_listed")
    found = suggest([leased], extra_private=mine)
    assert replay([leased], Engine(Mode.STRICT, Policy(parse_file(found, "p.yaml")), extra_private=mine)).changes == ()


def test_suggest_writes_each_entry_that_a_flow_needs() -> None:
    """A Teredo address carries two, and the engine asks for both."""
    carrier = "2001:0:a9fe:a9fe::f5ff:fffa"  # server 169.254.169.254, client 10.0.0.5
    text = suggest([allowed("", proto="tcp", dialed=f"[{carrier}]:22", reason="address_listed")])
    assert lists(text)["allow"] == ["10.0.0.5", "169.254.169.254"]


def test_suggest_sorts_suffixes_among_names_and_keeps_every_comment() -> None:
    records = [
        allowed("wiki", proto="http"),
        record("egress_dns_allow", qname="only.test", qtype="A", reason="name_unlisted"),
        allowed("a.test"),
        allowed("z.test"),
        *(allowed(f"{label}.m.test") for label in "abc"),
    ]
    text = suggest(records)
    assert text.splitlines()[:3] == [
        "# Strict mode with this file allows what was allowed. Read it before you use it.",
        "# No entry can stand for 'wiki'.",
        "# Looked up, never connected to: only.test",
    ]
    assert lists(text)["allow"] == ["a.test", ".m.test", "z.test"]


def test_suggest_folds_tenants_of_one_suffix_with_a_warning() -> None:
    records = [allowed(f"{label}.me.github.io") for label in "abc"]
    text = suggest(records)
    assert lists(text)["allow"] == [".me.github.io"]
    assert "  # multi-tenant: strangers have names under github.io too\n" in text
