"""Every way to write an entry: the spelling it becomes, or what is wrong and what to write instead."""

import pytest

from microagent.errors import PolicyError
from microagent.policy.entries import parse_entry
from microagent.policy.model import Kind, Verb


@pytest.mark.parametrize(
    ("text", "kind", "canonical"),
    [
        ("api.openai.com", Kind.EXACT, "api.openai.com"),
        ("API.OpenAI.com.", Kind.EXACT, "api.openai.com"),
        ("_sip._tcp.example.org", Kind.EXACT, "_sip._tcp.example.org"),
        ("github.io", Kind.EXACT, "github.io"),
        ("db2.corp.b2", Kind.EXACT, "db2.corp.b2"),
        ("bücher.example.org", Kind.EXACT, "xn--bcher-kva.example.org"),
        (".example.org", Kind.SUFFIX, ".example.org"),
        (".Example.ORG.", Kind.SUFFIX, ".example.org"),
        (".bücher.example", Kind.SUFFIX, ".xn--bcher-kva.example"),
        (".example.co.uk", Kind.SUFFIX, ".example.co.uk"),
        ("10.0.0.5", Kind.ADDRESS, "10.0.0.5"),
        ("10.0.0.5/32", Kind.ADDRESS, "10.0.0.5"),
        ("10.20.0.0/16", Kind.ADDRESS, "10.20.0.0/16"),
        ("0.0.0.0/0", Kind.ADDRESS, "0.0.0.0/0"),
        ("2001:db8::7", Kind.ADDRESS, "2001:db8::7"),
        ("2001:db8::7/128", Kind.ADDRESS, "2001:db8::7"),
        ("2001:db8::/32", Kind.ADDRESS, "2001:db8::/32"),
        ("::1", Kind.ADDRESS, "::1"),
    ],
)
def test_accepted(text: str, kind: Kind, canonical: str) -> None:
    entry = parse_entry(Verb.ALLOW, text, "here")
    assert (entry.kind, entry.text, entry.origin) == (kind, canonical, "here")
    assert (entry.network is not None) == (kind is Kind.ADDRESS)
    assert parse_entry(Verb.ALLOW, entry.text, "here").text == entry.text


@pytest.mark.parametrize(
    ("text", "what", "hint"),
    [
        ("", "an empty entry", "write a name"),
        ("  ", "an empty entry", "write a name"),
        (" a.test", "has a space or a control character in it", "write a.test"),
        ("a.test\n", "has a space or a control character in it", "write a.test"),
        ("a.test\u00a0", "has a space or a control character in it", "write a.test"),
        ("a b.test", "has a space or a control character in it", "one entry a line"),
        ("a.test\x00", "has a space or a control character in it", "one entry a line"),
        ("a\x1b[31m.test", "has a space or a control character in it", "one entry a line"),
        ("a.test,b.test", "is more than one entry", "one entry a flag"),
        ("a.test;b.test", "is more than one entry", "one entry a flag"),
        ("https://api.test/v1?x=1", "has a scheme in it", "write the host alone: api.test"),
        ("https://u:p@api.test:8/", "has a scheme in it", "write the host alone: api.test"),
        ("http://[2001:db8::7]:80/", "has a scheme in it", "write the host alone: 2001:db8::7"),
        ("https://", "has a scheme in it", "write the host alone: api.example.org"),
        ("me@api.test", "has a user in it", "write the host alone: api.test"),
        ("api.test:443", "has a port in it", "write api.test, it matches every port"),
        ("api.test:", "has a port in it", "write api.test,"),
        ("10.0.0.5:80", "has a port in it", "write 10.0.0.5,"),
        (":80", "has a port in it", "write api.example.org,"),
        ("[::1]:80", "has brackets in it", "without brackets and without a port"),
        ("::1]", "has brackets in it", "without brackets"),
        ("api.test/v1", "has a path in it", "write the host alone: api.test"),
        ("api.test/24", "has a path in it", "write the host alone: api.test"),
        ("api.test?q", "has a path in it", "write the host alone: api.test"),
        ("api.test#f", "has a path in it", "write the host alone: api.test"),
        ("/v1", "has a path in it", "write the host alone: api.example.org"),
        ("*", "would match everything", "--egress guarded"),
        ("*.*", "would match everything", "--egress guarded"),
        ("*.example.org", "has a wildcard in it", "write .example.org (it also matches example.org itself)"),
        ("*.*.example.org", "has a wildcard inside a label", ".example.org"),
        ("api-*.example.org", "has a wildcard inside a label", ".example.org"),
        ("*example.org", "has a wildcard inside a label", ".example.org"),
        ("a.*.org", "has a wildcard inside a label", ".example.org"),
        ("10.20.*", "has a wildcard in it", "10.20.0.0/16"),
        ("10.20.*.*", "has a wildcard in it", "10.20.0.0/16"),
        ("10.20.0.0-10.20.0.9", "is not an IPv4 address", "10.20.0.0/16"),
        (".", "is not a host name: an empty host name", "write a name"),
        ("..", "is not a host name: an empty host name", "write a name"),
        ("...", "is not a host name: an empty label in a host name", "write a name"),
        (".com", "is a top-level name, and would match strangers' names", "such as .example.com"),
        ("com", "is a top-level name", "such as example.com"),
        ("com.", "is a top-level name", "such as example.com"),
        (".test", "is a top-level name, and would match strangers' names", "such as .example.test"),
        ("localhost", "is a top-level name", "write a name below it"),
        (".co.uk", "is a public suffix, and would match strangers' names", "such as .example.co.uk"),
        ("co.uk", "is a public suffix", "such as example.co.uk"),
        (".anything.ck", "is a public suffix, and would match strangers' names", "such as .example.anything.ck"),
        (".xn--55qx5d.cn", "is a public suffix, and would match strangers' names", "such as .example.xn--55qx5d.cn"),
        (".公司.cn", "is a public suffix, and would match strangers' names", "such as .example.xn--55qx5d.cn"),
        ("a..test", "is not a host name: an empty label in a host name", "write one dot between labels: a.test"),
        ("a...b..test", "is not a host name: an empty label in a host name", "a.b.test"),
        ("..example.org", "is not a host name: an empty label in a host name", ".example.org"),
        ("!a.test", "is not a host name: byte 0x21 in a host name", "letters, digits, hyphens"),
        ("a" * 64 + ".test", "is not a host name: a label of more than 63 bytes in a host name", "labels of 1 to 63"),
        ("a." * 130 + "test", "is not a host name: a host name of 264 bytes, the limit is 253", "253 in all"),
        ("a" * 301, "has 301 characters", "at most 253"),
        ("010.0.0.1", "is not an IPv4 address", "without leading zeros"),
        ("127.1", "is not an IPv4 address", "four decimal numbers"),
        ("0x7f.1", "is not an IPv4 address", "four decimal numbers"),
        ("0X7F.0.0.0X1", "is not an IPv4 address", "four decimal numbers"),
        ("2130706433", "is not an IPv4 address", "four decimal numbers"),
        ("1.2.3.4.5", "is not an IPv4 address", "four decimal numbers"),
        ("1.2.3.256", "is not an IPv4 address", "four decimal numbers"),
        ("10.0.0.5.", "is not an IPv4 address", "four decimal numbers"),
        (".10.0.0.5", "is not an IPv4 address", "four decimal numbers"),
        ("a.b.0x1", "is not an IPv4 address", "four decimal numbers"),
        ("１２７.0.0.1", "is not an IPv4 address", "four decimal numbers"),
        ("10.0.0.0/33", "has no prefix length after the slash", "0 to 32, as in 10.20.0.0/16"),
        ("10.0.0.0/", "has no prefix length after the slash", "0 to 32"),
        ("10.0.0.0/08", "has no prefix length after the slash", "0 to 32"),
        ("10.0.0.0/+8", "has no prefix length after the slash", "0 to 32"),
        ("10.0.0.0/255.0.0.0", "has no prefix length after the slash", "0 to 32"),
        ("10.0.0.0/8/8", "has no prefix length after the slash", "0 to 32"),
        ("2001:db8::/129", "has no prefix length after the slash", "0 to 128, as in 2001:db8::/32"),
        ("10.20.0.5/16", "has bits set beyond its prefix", "write 10.20.0.0/16, or 10.20.0.5 for the one address"),
        ("2001:DB8::7", "is not spelled the canonical way", "write 2001:db8::7"),
        ("2001:0db8::7", "is not spelled the canonical way", "write 2001:db8::7"),
        ("2001:DB8::/32", "is not spelled the canonical way", "write 2001:db8::/32"),
        ("2001:db8:0:0:0:0:0:7", "is not spelled the canonical way", "write 2001:db8::7"),
        ("::g", "is not an IPv6 address", "2001:db8::7"),
        ("1:2:3", "is not an IPv6 address", "2001:db8::7"),
        ("fe80::1%eth0", "has a zone or an escape in it", "the bare address"),
        ("a%2eb.test", "has a zone or an escape in it", "the bare address or name"),
        ("::ffff:10.0.0.5", "carries an IPv4 address, and is matched by that", "write 10.0.0.5"),
        ("::ffff:a00:5", "carries an IPv4 address, and is matched by that", "write 10.0.0.5"),
        ("64:ff9b::a00:5", "carries an IPv4 address, and is matched by that", "write 10.0.0.5"),
        (
            "2001:0:a00:5::34ff:8efa",
            "carries an IPv4 address, and is matched by that",
            "write 10.0.0.5 and 203.0.113.5",
        ),
        ("64:ff9b::/96", "carries an IPv4 address, and is matched by that", "write the IPv4 block"),
        ("2002::/16", "carries an IPv4 address, and is matched by that", "write the IPv4 block"),
    ],
)
def test_refused_with_a_hint(text: str, what: str, hint: str) -> None:
    with pytest.raises(PolicyError) as caught:
        parse_entry(Verb.ALLOW, text, "--egress-allow")
    (problem,) = caught.value.problems
    assert problem.what in (what, f"{text!r} {what}") or (len(text) > 70 and problem.what.endswith(what))
    assert hint in problem.hint
    assert problem.hint[0].islower()
    assert problem.source == "--egress-allow"
    assert problem.what.isprintable()
    assert len(problem.what) < 300


@pytest.mark.parametrize(
    ("text", "what", "hint"),
    [
        ("xn--a.test", "'xn--a.test' is not a host name: xn--a is not an A-label: ", "a name has letters"),
        (
            "a\u200db.test",
            "'a\\u200db.test' is not a host name: not an internationalised host name: ",
            "write each label",
        ),
        ("ｅx.test", "'ｅx.test' is not a host name: letters or dots that only stand for others", "write each label"),
    ],
)
def test_faults_of_u_labels(text: str, what: str, hint: str) -> None:
    with pytest.raises(PolicyError) as caught:
        parse_entry(Verb.ALLOW, text, "")
    assert caught.value.what.startswith(what)
    assert caught.value.hint.startswith(hint)


def test_a_hint_can_be_taken() -> None:
    """Where the hint is to write something, that is accepted."""
    for text in ("*.example.org", "2001:DB8::7", "::ffff:10.0.0.5", " a.test", "10.20.0.5/16", "https://a.test/"):
        with pytest.raises(PolicyError) as caught:
            parse_entry(Verb.ALLOW, text, "")
        advised = caught.value.hint.split("write ")[1].removeprefix("the host alone: ").split(" ")[0].rstrip(",")
        parse_entry(Verb.ALLOW, advised, "")


def test_long_texts_are_cut() -> None:
    with pytest.raises(PolicyError) as caught:
        parse_entry(Verb.ALLOW, "x" * 1000, "")
    assert "x..." in caught.value.what
    assert len(caught.value.what) < 130


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        (".github.io", ".github.io also matches names that strangers register there; list the ones you mean"),
        (".s3.amazonaws.com", "strangers"),
        ("0.0.0.0/0", "0.0.0.0/0 opens a good part of the internet"),
        ("10.0.0.0/7", "good part of the internet"),
        ("2000::/3", "good part of the internet"),
        ("οpen.test", "οpen mixes GREEK and LATIN letters: the entry is xn--pen-8yc.test"),
        ("ехаmple.org", "mixes CYRILLIC and LATIN letters: the entry is xn--mple-43d3a6i.org"),
    ],
)
def test_warned_about(text: str, warning: str) -> None:
    assert warning in parse_entry(Verb.PASSTHROUGH, text, "").warning


@pytest.mark.parametrize(
    "text", ["github.io", "me.github.io", ".example.org", "10.0.0.0/8", "2001::/16", "bücher.test", "пример.test"]
)
def test_not_warned_about(text: str) -> None:
    assert parse_entry(Verb.ALLOW, text, "").warning == ""
