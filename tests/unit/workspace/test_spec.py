"""A workspace's settings survive JSON, and every wrong field is named."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.kernel.certificates import certify

from microagent.errors import MicroagentError, PolicyError
from microagent.policy.model import Mode, Verb
from microagent.policy.parse import parse_entry
from microagent.workspace.egress import Egress
from microagent.workspace.spec import WorkspaceSpec, from_json

ENTRIES = (
    parse_entry(Verb.ALLOW, ".example.org", "policy.yaml:2:5"),
    parse_entry(Verb.PASSTHROUGH, "10.20.0.0/16", "--egress-passthrough"),
)
SPEC = WorkspaceSpec(
    name="research",
    image="base",
    command=("sh", "-c", "echo 'ü'"),
    env=(("A", "1"), ("B", "")),
    memory_mib=512,
    cpus=2,
    egress=Egress(Mode.STRICT, ENTRIES),
    ephemeral=True,
    upstream_ca=certify("root", None, ca=True).pem,
)


def test_settings_survive_json() -> None:
    assert from_json(json.loads(json.dumps(SPEC.to_json()))) == SPEC


def test_defaults_are_guarded_without_entries() -> None:
    spec = from_json({"name": "a", "image": "base"})
    assert (spec.egress, spec.command, spec.ephemeral) == (Egress(Mode.GUARDED, ()), (), False)


@pytest.mark.parametrize("name", ["", "-a", "A", "../x", "a/b", "a.b", "a_b", "a" * 64, "a\n", "ä", ".."])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(PolicyError, match="is not a workspace name"):
        from_json({"name": name, "image": "base"})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("image", ""),
        ("image", "--help"),
        ("image", "a\nb"),
        ("command", "true"),
        ("command", [1]),
        ("command", ["a\0b"]),
        ("command", ["x" * 200_000]),
        ("command", ["\ud800"]),
        ("env", {"1A": "x"}),
        ("env", {"A B": "x"}),
        ("env", {"A": 1}),
        ("memory_mib", 63),
        ("memory_mib", True),
        ("memory_mib", "512"),
        ("cpus", 0),
        ("cpus", 65),
        ("ephemeral", 1),
        ("upstream_ca", "not PEM"),
        ("upstream_ca", ["x"]),
        ("egress", {"mode": "loose"}),
        ("egress", {"modus": "strict"}),
        ("egress", {"mode": "strict", "entries": [{"verb": "allow", "entry": "*"}]}),
        ("egress", {"mode": "off", "entries": [{"verb": "allow", "entry": "a.example"}]}),
        ("privileged", True),
    ],
)
def test_wrong_fields_are_named(field: str, value: Any) -> None:
    with pytest.raises(PolicyError):
        from_json({"name": "a", "image": "base", field: value})


def test_roots_without_interception_are_refused() -> None:
    with pytest.raises(PolicyError, match="with egress off no server is verified"):
        from_json(SPEC.to_json() | {"egress": {"mode": "off"}})


def test_all_problems_are_reported_at_once() -> None:
    with pytest.raises(PolicyError) as caught:
        from_json({"name": "-", "cpus": 0, "colour": "red"})
    assert len(caught.value.problems) == 4


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda v: st.lists(v) | st.dictionaries(st.text(), v)
)


@given(st.dictionaries(st.sampled_from([*SPEC.to_json(), "other"]), json_values) | json_values)
def test_any_json_is_settings_or_an_error(document: Any) -> None:
    with suppress(MicroagentError):
        from_json(document)
