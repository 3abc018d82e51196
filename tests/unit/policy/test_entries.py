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
        (" a.test", "a space or a control character", "write a.test"),
        ("a.test\n", "a space or a control character", "write a.test"),
        ("a.test\u00a0", "a space or a control character", "write a.test"),
        ("a b.test", "a space or a control character", "one entry a line"),
        ("a.test\x00", "a space or a control character", "one entry a line"),
        ("a\x1b[31m.test", "a space or a control character", "one entry a line"),
        ("a.test,b.test", "more than one entry", "one entry a flag"),
        ("a.test;b.test", "more than one entry", "one entry a flag"),
        ("https://api.test/v1?x=1", "a scheme", "write the host alone: api.test"),
        ("https://u:p@api.test:8/", "a scheme", "write the host alone: api.test"),
        ("http://[2001:db8::7]:80/", "a scheme", "write the host alone: 2001:db8::7"),
        ("https://", "a scheme", "write the host alone: api.example.org"),
        ("me@api.test", "a user", "write the host alone: api.test"),
        ("api.test:443", "a port", "write api.test, it matches every port"),
        ("api.test:", "a port", "write api.test,"),
        ("10.0.0.5:80", "a port", "write 10.0.0.5,"),
        (":80", "a port", "write api.example.org,"),
        ("[::1]:80", "brackets", "without brackets and without a port"),
        ("::1]", "brackets", "without brackets"),
        ("api.test/v1", "a path", "write the host alone: api.test"),
        ("api.test/24", "a path", "write the host alone: api.test"),
        ("api.test?q", "a path", "write the host alone: api.test"),
        ("api.test#f", "a path", "write the host alone: api.test"),
        ("/v1", "a path", "write the host alone: api.example.org"),
        ("*", "would match everything", "--egress guarded"),
        ("*.*", "would match everything", "--egress guarded"),
        ("*.example.org", "a wildcard", "write .example.org (it also matches example.org itself)"),
        ("*.*.example.org", "a wildcard inside a label", ".example.org"),
        ("api-*.example.org", "a wildcard inside a label", ".example.org"),
        ("*example.org", "a wildcard inside a label", ".example.org"),
        ("a.*.org", "a wildcard inside a label", ".example.org"),
        (".", "an empty host name", "write a name"),
        ("..", "an empty host name", "write a name"),
        ("...", "an empty label", "write a name"),
        (".com", "a top-level name", "such as .example.com"),
        ("com", "a top-level name", "such as example.com"),
        ("com.", "a top-level name", "such as example.com"),
        (".test", "a top-level name", "such as .example.test"),
        ("localhost", "a top-level name", "write a name below it"),
        (".co.uk", "a public suffix", "such as .example.co.uk"),
        ("co.uk", "a public suffix", "such as example.co.uk"),
        (".anything.ck", "a public suffix", "such as .example.anything.ck"),
        (".xn--55qx5d.cn", "a public suffix", "such as .example.xn--55qx5d.cn"),
        (".公司.cn", "a public suffix", "such as .example.xn--55qx5d.cn"),
        ("a..test", "an empty label", "write one dot between labels: a.test"),
        ("a...b..test", "an empty label", "a.b.test"),
        ("..example.org", "an empty label", ".example.org"),
        ("!a.test", "byte 0x21", "letters, digits, hyphens"),
        ("a" * 64 + ".test", "a label of more than 63", "labels of 1 to 63"),
        ("a." * 130 + "test", "a host name of", "253 in all"),
        ("a" * 301, "has 301 characters", "at most 253"),
        ("xn--a.test", "is not an A-label", "letters, digits"),
        ("ｅxample.test", "only stand for others", "its own letters"),
        ("010.0.0.1", "not an IPv4 address", "without leading zeros"),
        ("127.1", "not an IPv4 address", "four decimal numbers"),
        ("0x7f.1", "not an IPv4 address", "four decimal numbers"),
        ("0X7F.0.0.0X1", "not an IPv4 address", "four decimal numbers"),
        ("2130706433", "not an IPv4 address", "four decimal numbers"),
        ("1.2.3.4.5", "not an IPv4 address", "four decimal numbers"),
        ("1.2.3.256", "not an IPv4 address", "four decimal numbers"),
        ("10.0.0.5.", "not an IPv4 address", "four decimal numbers"),
        (".10.0.0.5", "not an IPv4 address", "four decimal numbers"),
        ("a.b.0x1", "not an IPv4 address", "four decimal numbers"),
        ("１２７.0.0.1", "not an IPv4 address", "four decimal numbers"),
        ("10.0.0.0/33", "no prefix length", "0 to 32, as in 10.20.0.0/16"),
        ("10.0.0.0/", "no prefix length", "0 to 32"),
        ("10.0.0.0/08", "no prefix length", "0 to 32"),
        ("10.0.0.0/+8", "no prefix length", "0 to 32"),
        ("10.0.0.0/255.0.0.0", "no prefix length", "0 to 32"),
        ("10.0.0.0/8/8", "no prefix length", "0 to 32"),
        ("2001:db8::/129", "no prefix length", "0 to 128, as in 2001:db8::/32"),
        ("10.20.0.5/16", "bits set beyond", "write 10.20.0.0/16, or 10.20.0.5 for the one address"),
        ("2001:DB8::7", "not spelled the canonical way", "write 2001:db8::7"),
        ("2001:0db8::7", "not spelled the canonical way", "write 2001:db8::7"),
        ("2001:DB8::/32", "not spelled the canonical way", "write 2001:db8::/32"),
        ("2001:db8:0:0:0:0:0:7", "not spelled the canonical way", "write 2001:db8::7"),
        ("::g", "not an IPv6 address", "2001:db8::7"),
        ("1:2:3", "not an IPv6 address", "2001:db8::7"),
        ("fe80::1%eth0", "a zone or an escape", "the bare address"),
        ("a%2eb.test", "a zone or an escape", "the bare address or name"),
        ("::ffff:10.0.0.5", "carries an IPv4 address", "write 10.0.0.5"),
        ("::ffff:a00:5", "carries an IPv4 address", "write 10.0.0.5"),
        ("64:ff9b::a00:5", "carries an IPv4 address", "write 10.0.0.5"),
        ("2001:0:a00:5::34ff:8efa", "carries an IPv4 address", "write 10.0.0.5 and 203.0.113.5"),
        ("64:ff9b::/96", "carries an IPv4 address", "write the IPv4 block"),
        ("2002::/16", "carries an IPv4 address", "write the IPv4 block"),
    ],
)
def test_refused_with_a_hint(text: str, what: str, hint: str) -> None:
    with pytest.raises(PolicyError) as caught:
        parse_entry(Verb.ALLOW, text, "--egress-allow")
    (problem,) = caught.value.problems
    assert what in problem.what
    assert hint in problem.hint
    assert problem.source == "--egress-allow"
    assert problem.what.isprintable()
    assert len(problem.what) < 300


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
