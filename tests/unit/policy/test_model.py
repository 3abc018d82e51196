"""Which entry answers: passthrough before allow, exact before suffix, long before short, whatever the order."""

from ipaddress import ip_address, ip_network
from itertools import permutations

import pytest

from microagent.errors import PolicyError
from microagent.policy.model import NOTHING, Kind, Mode, Policy, Verb
from microagent.policy.parse import parse_entry


def policy(*texts: str) -> Policy:
    """`.a.test` is an allow entry, `!.a.test` a passthrough entry."""
    return Policy(
        tuple(
            parse_entry(Verb.PASSTHROUGH if text.startswith("!") else Verb.ALLOW, text.lstrip("!"), f"#{number}")
            for number, text in enumerate(texts)
        )
    )


@pytest.mark.parametrize(
    ("texts", "name", "found"),
    [
        (["a.test"], "a.test", "allow: a.test"),
        (["a.test"], "b.a.test", None),
        (["a.test"], "test", None),
        ([".a.test"], "a.test", "allow: .a.test"),
        ([".a.test"], "c.b.a.test", "allow: .a.test"),
        ([".a.test"], "xa.test", None),
        ([".a.test"], "a.test.b.test", None),
        ([".a.test", "b.a.test"], "b.a.test", "allow: b.a.test"),
        ([".a.test", ".b.a.test"], "c.b.a.test", "allow: .b.a.test"),
        ([".a.test", "!.b.a.test"], "c.b.a.test", "passthrough: .b.a.test"),
        (["!.a.test", "b.a.test"], "b.a.test", "passthrough: .a.test"),
        (["!.a.test", ".b.a.test"], "b.a.test", "passthrough: .a.test"),
        (["a.test", "!a.test"], "a.test", "passthrough: a.test"),
        (["10.0.0.1"], "a.test", None),
        ([], "a.test", None),
    ],
)
def test_match_name(texts: list[str], name: str, found: str | None) -> None:
    for order in permutations(texts):
        entry = policy(*order).match_name(name)
        assert (entry and str(entry)) == found


@pytest.mark.parametrize(
    ("texts", "address", "found"),
    [
        (["10.0.0.5"], "10.0.0.5", "allow: 10.0.0.5"),
        (["10.0.0.5"], "10.0.0.4", None),
        (["10.0.0.0/8"], "10.255.255.255", "allow: 10.0.0.0/8"),
        (["10.0.0.0/8"], "11.0.0.0", None),
        (["10.0.0.0/8", "10.0.0.0/16", "10.0.0.5"], "10.0.0.5", "allow: 10.0.0.5"),
        (["10.0.0.0/8", "10.0.0.0/16"], "10.0.0.5", "allow: 10.0.0.0/16"),
        (["!10.0.0.0/8", "10.0.0.5"], "10.0.0.5", "passthrough: 10.0.0.0/8"),
        (["0.0.0.0/0"], "255.255.255.255", "allow: 0.0.0.0/0"),
        (["0.0.0.0/0"], "2001:db8::1", None),
        (["::/0"], "2001:db8::1", "allow: ::/0"),
        (["::/0"], "10.0.0.5", None),
        (["::/0"], "::ffff:10.0.0.5", None),
        (["10.0.0.5"], "::ffff:10.0.0.5", "allow: 10.0.0.5"),
        (["10.0.0.5"], "2001:0:a00:5::34ff:8efa", None),  # Teredo: server 10.0.0.5, client 203.0.113.5
        (["10.0.0.5", "203.0.113.5"], "2001:0:a00:5::34ff:8efa", "allow: 10.0.0.5"),
    ],
)
def test_match_address(texts: list[str], address: str, found: str | None) -> None:
    for order in permutations(texts):
        entry = policy(*order).match_address(ip_address(address))
        assert (entry and str(entry)) == found


@pytest.mark.parametrize(
    ("texts", "address", "own"),
    [
        (["127.0.0.1"], "127.0.0.1", True),
        (["127.0.0.0/8"], "127.0.0.1", True),
        (["0.0.0.0/0"], "127.0.0.1", False),
        (["10.0.0.0/8"], "10.0.0.1", False),
        (["10.0.0.0/8", "10.0.0.1"], "10.0.0.1", True),
        (["!10.0.0.0/8", "10.0.0.1"], "10.0.0.1", True),
        (["!127.0.0.1"], "127.0.0.1", True),
        (["127.0.0.1"], "127.0.0.2", False),
        (["127.0.0.1"], "2001:0:7f00:1::34ff:8efa", False),  # Teredo: the client has no entry
        (["127.0.0.1", "203.0.113.5"], "2001:0:7f00:1::34ff:8efa", True),
    ],
)
def test_an_entry_about_the_address_itself(texts: list[str], address: str, own: bool) -> None:
    for order in permutations(texts):
        assert policy(*order).has_own_entry(ip_address(address)) is own


def test_exact_looks_at_no_suffix_and_at_both_lists() -> None:
    found = policy("!.a.test", "b.a.test", "!c.a.test", ".d.test")
    assert str(found.exact("b.a.test")) == "allow: b.a.test"
    assert str(found.exact("c.a.test")) == "passthrough: c.a.test"
    assert found.exact("a.test") is None
    assert found.exact("d.test") is None


def test_of_two_equal_entries_the_first_is_reported() -> None:
    for text, asked in (("a.test", "a.test"), (".a.test", "b.a.test")):
        entry = policy(text, text).match_name(asked)
        assert entry is not None
        assert entry.origin == "#0"
    entry = policy("10.0.0.0/8", "10.0.0.0/8").match_address(ip_address("10.0.0.1"))
    assert entry is not None
    assert entry.origin == "#0"


def test_nothing() -> None:
    assert NOTHING.match_name("a.test") is None
    assert NOTHING.match_address(ip_address("10.0.0.1")) is None
    assert not NOTHING.has_own_entry(ip_address("127.0.0.1"))
    assert not NOTHING.has_exact_names
    assert NOTHING.address_networks == ()
    assert NOTHING.warnings == ()


def test_what_the_ruleset_asks() -> None:
    assert policy("a.test").has_exact_names
    assert policy("!a.test").has_exact_names
    assert not policy(".a.test", "10.0.0.0/8").has_exact_names
    assert policy(".a.test", "10.0.0.0/8", "!::1").address_networks == (ip_network("10.0.0.0/8"), ip_network("::1"))


def test_the_digest_is_about_entries_alone() -> None:
    one = policy("a.test", "!b.test", "10.0.0.5")
    assert one.digest == policy("10.0.0.5", "!b.test", "a.test", "a.test").digest
    assert one.digest != policy("!a.test", "!b.test", "10.0.0.5").digest
    assert one.digest != policy("a.test", "b.test", "10.0.0.5").digest
    assert one.digest != NOTHING.digest
    assert NOTHING.digest == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_warnings_are_given_once() -> None:
    found = policy(".github.io", "!.github.io", "a.test", "0.0.0.0/0").warnings
    assert len(found) == 2
    assert "strangers" in found[0]
    assert "good part of the internet" in found[1]


def test_an_entry_shows_as_a_policy_file_would_have_it() -> None:
    entries = policy(".a.test", "!10.0.0.5").entries
    assert [str(entry) for entry in entries] == ["allow: .a.test", "passthrough: 10.0.0.5"]
    assert [entry.kind for entry in entries] == [Kind.SUFFIX, Kind.ADDRESS]


@pytest.mark.parametrize(
    ("text", "mode"),
    [("", Mode.GUARDED), ("guarded", Mode.GUARDED), ("strict", Mode.STRICT), ("off", Mode.OFF)],
)
def test_modes(text: str, mode: Mode) -> None:
    assert Mode.parse(text) is mode


@pytest.mark.parametrize("text", ["Strict", " strict", "on", "none", "0"])
def test_any_other_mode_is_an_error_that_names_the_three(text: str) -> None:
    with pytest.raises(PolicyError, match="is not an egress mode") as caught:
        Mode.parse(text)
    assert all(mode.value in caught.value.hint for mode in Mode)
