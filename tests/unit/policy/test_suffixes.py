"""The public suffix list, through the three questions that are put to it."""

import pytest

from microagent.policy.suffixes import Suffix, registered_domain, shared_suffix, suffix_kind


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("com", Suffix.REGISTRY),
        ("co.uk", Suffix.REGISTRY),
        ("anything.ck", Suffix.REGISTRY),
        ("www.ck", Suffix.NONE),
        ("test", Suffix.REGISTRY),
        ("xn--p1ai", Suffix.REGISTRY),
        ("github.io", Suffix.MULTI_TENANT),
        ("s3.amazonaws.com", Suffix.MULTI_TENANT),
        ("example.com", Suffix.NONE),
        ("example.co.uk", Suffix.NONE),
        ("me.github.io", Suffix.NONE),
        ("ok.test", Suffix.NONE),
    ],
)
def test_suffix_kind(name: str, kind: Suffix) -> None:
    assert suffix_kind(name) is kind


@pytest.mark.parametrize(
    ("name", "domain", "shared"),
    [
        ("a.b.example.co.uk", "example.co.uk", ""),
        ("example.co.uk", "example.co.uk", ""),
        ("co.uk", "", ""),
        ("a.me.github.io", "me.github.io", "github.io"),
        ("github.io", "", "github.io"),
        ("wiki", "", ""),
        ("10.0.0.5", "", ""),
        ("10.0.0.0/8", "", ""),
        ("2001:db8::7", "", ""),
    ],
)
def test_domains(name: str, domain: str, shared: str) -> None:
    assert registered_domain(name) == domain
    assert shared_suffix(name) == shared
