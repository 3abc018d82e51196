"""Records back to questions, and replaying them."""

from ipaddress import ip_address
from typing import Any

import pytest
from tests.unit.decision.past_records import WHEN, allowed, record

from microagent.decision.engine import Engine, Proto, Question
from microagent.decision.past import endpoint, past_decisions, past_question
from microagent.decision.replay import replay
from microagent.decision.verdict import Action, Reason
from microagent.policy.model import Mode, Policy, Verb
from microagent.policy.parse import parse_entry


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
            # As `Host: 203.0.113.5` leaves it: decided by the address, which is then on record as the host too.
            allowed("203.0.113.5", proto="http", dialed="203.0.113.5:80", reason="address_listed"),
            Question(Proto.HTTP, 80, address=ip_address("203.0.113.5")),
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
    assert decided.question == past_question(fields) == question
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
        record("egress_allow", host="203.0.113.6", dst="203.0.113.5:80", proto="http", reason="public_unlisted"),
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
    assert past_question(fields) is None


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
    assert (gone.proto, new.proto) == ("tls", "http")
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
