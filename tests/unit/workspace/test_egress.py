"""A policy that changes: entries and grants come and go, and the store gives back what it was given."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from microagent.errors import ApiError, PolicyError
from microagent.policy.model import Entry, Mode, Verb
from microagent.policy.parse import parse_entry
from microagent.policy.stored import entries_from_json
from microagent.workspace.changes import LONGEST_GRANT, change_from_json
from microagent.workspace.egress import Egress, Grant, from_json, vetted

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
LATER = NOW + timedelta(minutes=10)


def allow(text: str) -> Entry:
    return parse_entry(Verb.ALLOW, text, "a test")


STRICT = Egress(Mode.STRICT, (allow("api.ok.test"), parse_entry(Verb.PASSTHROUGH, "pinned.test", "a flag")))


def texts(egress: Egress) -> set[str]:
    return {str(entry) for entry in egress.policy.entries}


def test_a_grant_is_in_the_policy_until_it_ends() -> None:
    egress = STRICT.with_entry(allow("new.test"), LATER)
    assert "allow: new.test" in texts(egress.without_grants(()))
    assert egress.grants == (Grant(allow("new.test"), LATER),)
    assert egress.without_grants(egress.grants) == STRICT


def test_an_entry_that_is_there_changes_nothing() -> None:
    assert STRICT.with_entry(allow("api.ok.test")) is STRICT
    assert STRICT.with_entry(allow("api.ok.test"), LATER) is STRICT


def test_the_longer_grant_counts_and_an_entry_is_longer_than_any_grant() -> None:
    short = STRICT.with_entry(allow("new.test"), LATER)
    assert short.with_entry(allow("new.test"), LATER - timedelta(minutes=1)) is short
    longer = short.with_entry(allow("new.test"), LATER + timedelta(hours=1))
    assert [grant.until for grant in longer.grants] == [LATER + timedelta(hours=1)]
    forever = longer.with_entry(allow("new.test"))
    assert (forever.grants, texts(forever)) == ((), texts(longer))


def test_allow_for_a_passthrough_entry_is_refused_since_it_would_change_nothing() -> None:
    with pytest.raises(ApiError, match="beats an allow entry") as caught:
        STRICT.with_entry(allow("pinned.test"))
    assert caught.value.hint == "revoke pinned.test first, then allow it"


def test_revoke_takes_entries_and_grants_however_the_name_is_spelled() -> None:
    both = STRICT.with_entry(parse_entry(Verb.PASSTHROUGH, "api.ok.test", ""), LATER)
    assert texts(both.without("API.ok.Test.")) == {"passthrough: pinned.test"}


@pytest.mark.parametrize(
    ("wanted", "hint"),
    [
        ("a.sfx.test", ".sfx.test is what allows it"),
        ("10.20.0.5", "10.20.0.0/16 is what allows it"),
        ("other.test", "`microagent policy show NAME` lists them"),
    ],
)
def test_revoke_of_what_is_no_entry_names_the_one_that_allows_it(wanted: str, hint: str) -> None:
    egress = Egress(Mode.STRICT, (allow(".sfx.test"), allow("10.20.0.0/16")))
    with pytest.raises(ApiError) as caught:
        egress.without(wanted)
    assert (caught.value.code, caught.value.hint) == ("not_found", hint)


def test_set_replaces_entries_and_grants() -> None:
    egress = STRICT.with_entry(allow("new.test"), LATER).with_entries((allow("only.test"),))
    assert texts(egress) == {"allow: only.test"}
    assert egress.mode is Mode.STRICT


@pytest.mark.parametrize(
    "body",
    [{"op": "allow", "entry": "a.test"}, {"op": "revoke", "entry": "a.test"}, {"op": "set", "entries": []}],
    ids=["allow", "revoke", "set"],
)
def test_mode_off_has_no_policy_to_change(body: object) -> None:
    with pytest.raises(ApiError, match="egress is off"):
        change_from_json(body, "", NOW)(Egress(Mode.OFF))


def test_the_store_gives_back_what_it_was_given() -> None:
    egress = STRICT.with_entry(allow("new.test"), LATER)
    assert from_json(json.loads(json.dumps(egress.to_json()))) == egress


@pytest.mark.parametrize("until", [5, "soon", "2026-03-01T12:00:00"])
def test_a_damaged_grant_is_refused(until: object) -> None:
    with pytest.raises(ValueError, match=r"until|isoformat"):
        from_json({"mode": "strict", "entries": [{"verb": "allow", "entry": "a.test", "until": until}]})


def test_entries_from_a_socket_are_judged_as_if_they_were_typed() -> None:
    stored = [{"verb": "allow", "entry": ".com", "origin": "x"}, {"verb": "allow", "entry": "ok.test", "origin": "x"}]
    with pytest.raises(PolicyError) as caught:
        vetted(entries_from_json(stored))
    assert len(caught.value.problems) == 1


def test_changes_from_json() -> None:
    grant = change_from_json({"op": "passthrough", "entry": "New.Test", "seconds": 600}, "policy, by root", NOW)
    (granted,) = grant(STRICT).grants
    assert (str(granted.entry), granted.entry.origin, granted.until) == (
        "passthrough: new.test",
        "policy, by root",
        NOW + timedelta(minutes=10),
    )
    revoke = change_from_json({"op": "revoke", "entry": "api.ok.test"}, "", NOW)
    assert texts(revoke(STRICT)) == {"passthrough: pinned.test"}
    items = [{"verb": "allow", "entry": "only.test", "origin": "policy.yaml:1:9"}]
    assert texts(change_from_json({"op": "set", "entries": items}, "", NOW)(STRICT)) == {"allow: only.test"}


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        {},
        {"op": "deny", "entry": "a.test"},
        {"op": "allow"},
        {"op": "allow", "entry": 5},
        {"op": "allow", "entry": "a.test", "unknown": 1},
        {"op": "allow", "entry": "a.test", "seconds": "600"},
        {"op": "allow", "entry": "a.test", "seconds": True},
        {"op": "allow", "entry": "a.test", "seconds": 0},
        {"op": "allow", "entry": "a.test", "seconds": LONGEST_GRANT + 1},
        {"op": "set", "entries": "a.test"},
        {"op": "revoke", "entry": "a.test", "seconds": 5},
    ],
)
def test_what_is_no_change_is_refused(body: object) -> None:
    with pytest.raises(ApiError) as caught:
        change_from_json(body, "", NOW)
    assert caught.value.code == "invalid"


@pytest.mark.parametrize("entry", ["*.ok.test", "https://ok.test", ".com", "010.0.0.1", ""])
def test_wrong_entries_are_told_as_everywhere(entry: str) -> None:
    with pytest.raises(PolicyError):
        change_from_json({"op": "allow", "entry": entry}, "", NOW)
    with pytest.raises(PolicyError):
        change_from_json({"op": "set", "entries": [{"verb": "allow", "entry": entry}]}, "", NOW)
