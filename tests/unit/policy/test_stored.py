"""Entries through the agent's store and to the mediator: the same, or refused."""

import json
from typing import Any

import pytest

from microagent.errors import PolicyError
from microagent.policy.model import Verb
from microagent.policy.parse import parse_entry
from microagent.policy.stored import entries_from_json, entries_to_json


def test_there_and_back() -> None:
    texts = ["a.test", ".github.io", "10.0.0.5", "10.0.0.0/8", "2001:db8::7", "::/0", "host.b2", "xn--bcher-kva.test"]
    entries = tuple(parse_entry(verb, text, f"{text} here") for text in texts for verb in Verb)
    stored = json.loads(json.dumps(entries_to_json(entries)))
    assert entries_from_json(stored) == entries
    assert stored[0] == {"verb": "allow", "entry": "a.test", "origin": "a.test here"}
    assert "strangers" in stored[2]["warning"]


def test_origin_and_warning_may_be_missing() -> None:
    (entry,) = entries_from_json([{"verb": "allow", "entry": "a.test"}])
    assert (entry.origin, entry.warning) == ("", "")


@pytest.mark.parametrize(
    "item",
    [
        {},
        {"verb": "allow"},
        {"entry": "a.test"},
        {"verb": "deny", "entry": "a.test"},
        {"verb": "allow", "entry": None},
        {"verb": "allow", "entry": 5},
        {"verb": "allow", "entry": "a.test", "origin": None},
        {"verb": "allow", "entry": "a.test", "warning": 1},
        {"verb": "allow", "entry": ""},
        {"verb": "allow", "entry": "."},
        {"verb": "allow", "entry": "A.test"},
        {"verb": "allow", "entry": "a.test."},
        {"verb": "allow", "entry": "a..test"},
        {"verb": "allow", "entry": "..a.test"},
        {"verb": "allow", "entry": "*.test"},
        {"verb": "allow", "entry": "bücher.test"},
        {"verb": "allow", "entry": "10.0.0.5/32"},
        {"verb": "allow", "entry": "10.0.0.5/8"},
        {"verb": "allow", "entry": "010.0.0.5"},
        {"verb": "allow", "entry": "127.1"},
        {"verb": "allow", "entry": "2001:DB8::7"},
        {"verb": "allow", "entry": "a.test:443"},
        {"verb": [], "entry": "a.test"},
        "a.test",
        None,
        [],
    ],
)
def test_what_was_not_written_by_us(item: Any) -> None:
    with pytest.raises(PolicyError, match="is not a stored entry") as caught:
        entries_from_json([item])
    assert caught.value.hint == "the store is damaged or was edited; set the policy anew"
