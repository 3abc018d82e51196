"""Records back to questions; replaying them; and the file that would have allowed them."""

from ipaddress import ip_address
from typing import Any

import pytest

from microagent.decision.engine import Engine, Proto, Question
from microagent.decision.past import endpoint, past_decisions
from microagent.decision.replay import replay
from microagent.decision.suggest import suggest
from microagent.decision.verdict import Action, Reason
from microagent.policy.model import Mode, Policy, Verb
from microagent.policy.parse import parse_entry, parse_file

WHEN = "2026-01-02T03:04:05.000006Z"


def record(event: str, **fields: Any) -> dict[str, Any]:
    return {"v": 1, "ts": WHEN, "event": event, "workspace": "w", **fields}


def allowed(host: str, dialed: str = "203.0.113.5:443", proto: str = "tls", **fields: Any) -> dict[str, Any]:
    fields = {"reason": "public_unlisted", "unlisted": True} | fields
    return record("egress_allow", host=host, dst=dialed, dialed=dialed, proto=proto, **fields)


def policy(**lists: list[str]) -> Policy:
    return Policy(tuple(parse_entry(Verb(verb), text, "") for verb, texts in lists.items() for text in texts))


@pytest.mark.parametrize(
    ("fields", "question"),
    [
        (
            allowed("a.test"),
            Question(Proto.TLS, 443, "a.test", ip_address("203.0.113.5")),
        ),
        (
            allowed("a.test") | {"dst": "203.0.113.99:443"},
            Question(Proto.TLS, 443, "a.test", ip_address("203.0.113.5")),
        ),
        (
            allowed("a.test", proto="tcp", dialed="203.0.113.5:22", reason="lease_listed"),
            Question(Proto.TCP, 22, address=ip_address("203.0.113.5"), leased=("a.test",)),
        ),
        (
            allowed("", proto="tcp", dialed="[2001:db8::7]:22", reason="address_listed"),
            Question(Proto.TCP, 22, address=ip_address("2001:db8::7")),
        ),
        (
            record("egress_udp_deny", dst="203.0.113.5:123", proto="udp", reason="address_not_listed"),
            Question(Proto.UDP, 123, address=ip_address("203.0.113.5")),
        ),
        (
            record("egress_dns_deny", qname="a.test", qtype="TXT", server="10.0.0.1", reason="name_not_listed"),
            Question(Proto.DNS, 53, "a.test", qtype="TXT"),
        ),
    ],
)
def test_a_question_read_back(fields: dict[str, Any], question: Question) -> None:
    (decided,) = past_decisions([fields])
    assert decided.question == question
    assert decided.when == WHEN
    assert decided.reason == fields["reason"]
    assert decided.action is (Action.ALLOW if fields["event"].endswith("allow") else Action.DENY)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        record("egress_close", host="a.test", dst="203.0.113.5:443", reason="name_listed"),
        record("egress_deny", host="a.test", dst="203.0.113.5:443", proto="tls", reason="host_mismatch"),
        record("egress_deny", host="a.test", dst="203.0.113.5:443", proto="tls", reason="not a reason"),
        record("egress_deny", host="a.test", dst="203.0.113.5:443", proto="tls"),
        record("egress_deny", host="a b", dst="203.0.113.5:443", proto="tls", reason="name_not_listed"),
        record("egress_deny", host="ü.test", dst="203.0.113.5:443", proto="tls", reason="name_not_listed"),
        record("egress_deny", host="a.test", dst="203.0.113.5", proto="tls", reason="name_not_listed"),
        record("egress_deny", host="a.test", dst="nowhere:443", proto="tls", reason="name_not_listed"),
        record("egress_deny", host="a.test", proto="tls", reason="name_not_listed"),
        record("egress_deny", host="a.test", dst="203.0.113.5:443", proto="gopher", reason="name_not_listed"),
        record("egress_dns_deny", qname="\\x00", qtype="A", reason="name_not_listed"),
        record("egress_udp_deny", dst="203.0.113.5:443", proto="udp", reason="quic"),
    ],
)
def test_what_no_policy_decides_or_nobody_can_read(fields: dict[str, Any]) -> None:
    assert list(past_decisions([fields])) == []


def test_a_dns_question_counts_once() -> None:
    asked = record("egress_dns_allow", qname="a.test", qtype="A", flow="1", reason="name_listed")
    other = asked | {"flow": "2"}
    unnumbered = {key: value for key, value in asked.items() if key != "flow"}
    assert len(list(past_decisions([asked, asked | {"ttl": 60}, other, unnumbered, unnumbered]))) == 4
    dialed_twice = allowed("a.test", flow="3")
    assert len(list(past_decisions([dialed_twice, dialed_twice]))) == 2


@pytest.mark.parametrize(
    ("event", "action"),
    [
        ("egress_allow", Action.ALLOW),
        ("egress_deny", Action.DENY),
        ("egress_internal_deny", Action.DENY),
        ("egress_udp_allow", Action.ALLOW),
        ("egress_udp_deny", Action.DENY),
        ("egress_udp_internal_deny", Action.DENY),
    ],
)
def test_every_event_that_is_a_decision(event: str, action: Action) -> None:
    fields = record(event, host="a.test", dst="203.0.113.5:99", proto="udp", reason="inside_private")
    assert [decided.action for decided in past_decisions([fields])] == [action]


def test_endpoint() -> None:
    assert endpoint("203.0.113.5:22") == (ip_address("203.0.113.5"), 22)
    assert endpoint("[::1]:22") == (ip_address("::1"), 22)
    for text in ("", None, "203.0.113.5", "a.test:22", "203.0.113.5:x"):
        with pytest.raises(ValueError, match=r".+"):
            endpoint(text)


def test_replay_lists_what_would_change() -> None:
    denied = record("egress_deny", host="new.test", dst="203.0.113.9:80", proto="http", reason="name_not_listed")
    records = [allowed("gone.test"), allowed("kept.test"), allowed("gone.test"), denied, allowed("kept.test")]
    found = replay(records, Engine(Mode.STRICT, policy(allow=["kept.test", ".new.test"])))
    assert (found.decisions, found.changed) == (5, 3)
    (gone, twice), (new, once) = found.changes
    assert (gone.target, twice, new.target, once) == ("gone.test:443", 2, "new.test:80", 1)
    assert (gone.then, gone.reason_then) == (Action.ALLOW, Reason.PUBLIC_UNLISTED)
    assert (gone.now, gone.reason_now) == (Action.DENY, Reason.NAME_NOT_LISTED)
    assert (gone.rule, gone.would_permit) == ("", "allow: gone.test")
    assert (new.now, new.rule, new.would_permit) == (Action.ALLOW, "allow: .new.test", "")


def test_replay_of_the_same_policy_changes_nothing() -> None:
    assert replay([allowed("a.test"), allowed("", proto="tcp")], Engine(Mode.GUARDED, Policy())).changes == ()


@pytest.mark.parametrize(
    ("fields", "target"),
    [
        (allowed("a.test"), "a.test:443"),
        (allowed("a.test", proto="tcp", dialed="203.0.113.5:22"), "a.test:22"),
        (allowed("", proto="tcp", dialed="203.0.113.5:22"), "203.0.113.5:22"),
        (allowed("", proto="tcp", dialed="[2001:db8::7]:22"), "[2001:db8::7]:22"),
        (record("egress_dns_allow", qname="a.test", qtype="A", reason="name_unlisted"), "a.test A"),
    ],
)
def test_targets_read_like_targets(fields: dict[str, Any], target: str) -> None:
    ((change, _),) = replay([fields], Engine(Mode.STRICT, Policy())).changes
    assert change.target == target


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
        allowed("", proto="http", dialed="169.254.169.254:80", reason="address_listed"),
        allowed("pinned.test"),
        record("egress_mitm_handshake_error", host="pinned.test", dst="203.0.113.5:443"),
        record("egress_deny", host="evil.test", dst="203.0.113.5:443", proto="tls", reason="name_not_listed"),
    ]
    text = suggest(records)
    assert lists(text) == {
        "allow": [
            "169.254.169.254",
            "2001:db8::7",
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
    assert (found.decisions, found.changes) == (10, ())


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


def test_suggest_writes_no_comment_that_a_record_made_up() -> None:
    text = suggest([allowed("a.test") | {"ts": "x\nallow: [evil.test]"}])
    assert "evil" not in text
    assert "first seen unknown" in text
