"""`policy explain`: the contract's object, and the entry that misses by least."""

import json
from typing import Any

import pytest

from microagent.decision.engine import Engine
from microagent.decision.explain import explain
from microagent.errors import PolicyError
from microagent.policy.model import Mode, Policy, Verb
from microagent.policy.parse import parse_entry

ENTRIES = (
    "api.ok.test",
    ".sfx.test",
    "deep.name.below.test",
    "10.20.0.0/16",
    "10.20.7.0/24",
    "203.0.113.80",
    "2001:db8:1::/48",
    "0.0.0.0/0",
)


def engine(mode: Mode, *left_out: str) -> Engine:
    allow = tuple(
        parse_entry(Verb.ALLOW, text, f"p.yaml:{n}") for n, text in enumerate(ENTRIES) if text not in left_out
    )
    return Engine(mode, Policy((*allow, parse_entry(Verb.PASSTHROUGH, ".pin.test", "--egress-passthrough"))))


def test_an_allow() -> None:
    assert explain(engine(Mode.STRICT), "https://a.pin.test/x") == {
        "action": "allow",
        "reason": "name_listed",
        "rule": "passthrough: .pin.test",
        "host": "a.pin.test",
        "address": "",
        "address_class": "",
        "tls": "passthrough",
        "would_permit": "",
        "target": "https://a.pin.test/x",
        "proto": "tls",
        "port": 443,
        "unlisted": False,
        "meaning": "an entry names this host",
        "origin": "--egress-passthrough",
        "nearest": None,
    }


def test_a_denial_is_json_and_says_what_would_permit_it() -> None:
    found = explain(engine(Mode.STRICT, "0.0.0.0/0"), "10.21.0.5:22")
    assert json.loads(json.dumps(found)) == found
    assert (found["action"], found["reason"], found["rule"]) == ("deny", "inside_private", None)
    assert (found["address"], found["address_class"]) == ("10.21.0.5", "private")
    assert found["would_permit"] == "allow: 10.21.0.5"
    assert found["origin"] == ""


@pytest.mark.parametrize(
    ("target", "entry", "why"),
    [
        (
            "v1.api.ok.test",
            "allow: api.ok.test",
            "it matches that name alone; .api.ok.test would match what is below it",
        ),
        ("xsfx.test", "allow: .sfx.test", "it matches whole labels: sfx.test, and names that end in .sfx.test"),
        ("below.test", "allow: deep.name.below.test", "it is about names below below.test"),
        ("name.below.test", "allow: deep.name.below.test", "it is about names below name.below.test"),
        ("api.0k.test", "allow: api.ok.test", "it is spelled differently"),
        ("apj.ok.test", "allow: api.ok.test", "it is spelled differently"),
        # Another host of the same domain.
        ("time.name.below.test", None, ""),
        ("10.20.0.5:99", None, ""),
        ("10.21.0.5", "allow: 10.20.0.0/16", "it covers 10.20.0.0 to 10.20.255.255"),
        ("10.20.8.5", None, ""),
        ("203.0.113.81", "allow: 203.0.113.80", "it is another address"),
        ("2001:db8:2::1", "allow: 2001:db8:1::/48", "it covers 2001:db8:1::"),
        ("198.51.100.1", None, ""),
        ("fd00::1", None, ""),
        ("something.else.entirely", None, ""),
    ],
)
def test_the_nearest_entry(target: str, entry: str | None, why: str) -> None:
    nearest: dict[str, Any] | None = explain(engine(Mode.STRICT, "0.0.0.0/0"), target)["nearest"]
    assert (nearest and nearest["entry"]) == entry
    if nearest:
        assert nearest["why"].startswith(why)
        assert nearest["origin"].startswith("p.yaml:")


def test_a_block_that_covers_a_metadata_address_is_near_but_does_not_count() -> None:
    found = explain(engine(Mode.GUARDED), "169.254.169.254")
    assert found["reason"] == "inside_never_by_name"
    assert found["nearest"]["entry"] == "allow: 0.0.0.0/0"
    assert "needs an entry of its own" in found["nearest"]["why"]


def test_what_guarded_lets_through_has_a_nearest_entry_too() -> None:
    found = explain(engine(Mode.GUARDED), "v1.api.ok.test")
    assert (found["action"], found["unlisted"]) == ("allow", True)
    assert found["nearest"]["entry"] == "allow: api.ok.test"


def test_no_target() -> None:
    with pytest.raises(PolicyError):
        explain(engine(Mode.STRICT), "a b")


def test_a_large_policy_is_explained_as_well() -> None:
    entries = tuple(parse_entry(Verb.ALLOW, f"n{n}.large.test", "") for n in range(5000))
    found = explain(Engine(Mode.STRICT, Policy(entries)), "m1.large.test")
    assert found["nearest"]["why"] == "it is spelled differently"
