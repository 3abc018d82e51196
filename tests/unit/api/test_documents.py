"""Small YAML files, read strictly."""

import pytest

from microagent.api.documents import decode
from microagent.errors import PolicyError

KEYS = ("name", "cpus", "env", "list", "flag")


def test_plain_values() -> None:
    text = 'name: "1"\ncpus: 2\nenv: {A: b}\nlist: [x, "y"]\nflag: true\n'
    found = decode(text, "f.yaml", KEYS)
    assert found.values == {"name": "1", "cpus": 2, "env": {"A": "b"}, "list": ["x", "y"], "flag": True}
    assert found.places["env"] == (3, 1)


def test_an_empty_file_is_an_empty_mapping() -> None:
    assert decode("# nothing\n", "f.yaml", KEYS).values == {}


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("nam: x", "f.yaml:1:1: unknown key 'nam'"),
        ("cpus: 1\ncpus: 2", "f.yaml:2:1: cpus is there twice"),
        ("env: {A: b, A: c}", "A is there twice"),
        ("cpus: 010", "no meaning here"),
        ("cpus: 1_0", "no meaning here"),
        ("cpus: 1.5", "no meaning here"),
        ("name: yes", "no meaning here"),
        ("name:", "no value"),
        ("name: ~", "no value"),
        ("cpus: -01", "no meaning here"),
        ("cpus: -0", "no meaning here"),
        ("name: !!str x", "tag"),
        ("name: &a x\nenv: *a", "anchor"),
        ("a: b\n---\nc: d", "document"),
        ("- name", "not a mapping"),
        ("name: [", "not YAML"),
        ("1: x", "a key that is not text"),
    ],
)
def test_everything_else_has_a_place(text: str, what: str) -> None:
    with pytest.raises(PolicyError) as caught:
        decode(text, "f.yaml", KEYS)
    assert what in caught.value.what
    assert "policy" not in caught.value.hint


def test_a_near_miss_is_told_the_right_spelling() -> None:
    with pytest.raises(PolicyError) as caught:
        decode("cpu: 1", "f.yaml", KEYS)
    assert caught.value.hint == "did you mean 'cpus'?"
