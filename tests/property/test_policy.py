"""Whatever is written, read or asked: the policy's promises hold."""

import json
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from microagent.decision.engine import Engine, Proto, Question
from microagent.decision.explain import explain
from microagent.decision.leases import Leases
from microagent.decision.replay import replay
from microagent.decision.suggest import suggest
from microagent.decision.target import parse_target
from microagent.decision.verdict import Verdict
from microagent.errors import Malformed, PolicyError
from microagent.policy.addresses import Address, AddressClass, classify, decode
from microagent.policy.model import Entry, Mode, Policy, Verb
from microagent.policy.names import ascii_name
from microagent.policy.parse import entries_from_json, entries_to_json, parse_bytes, parse_entry, parse_file
from microagent.wire.hostname import normalize_untrusted

# Few labels, so that entries and questions meet.
names = st.lists(st.sampled_from(["a", "b", "ab", "xn--bcher-kva"]), min_size=1, max_size=3).map(
    lambda labels: ".".join([*labels, "test"])
)
v4 = st.one_of(
    st.sampled_from(
        ["203.0.113.5", "203.0.113.6", "10.0.0.5", "10.0.0.6", "127.0.0.1", "169.254.169.254", "224.0.0.1"]
    ),
    st.integers(0, 2**32 - 1).map(lambda bits: str(IPv4Address(bits))),
)
v6 = st.one_of(
    st.sampled_from(["::1", "fd00::1", "2001:db8::1", "fe80::1", "64:ff9b:1:a00:0:500::", "2001:0:a00:5::34ff:8efa"]),
    st.integers(0, 2**128 - 1).map(lambda bits: str(IPv6Address(bits))),
    st.builds(
        lambda prefix, text: str(IPv6Address(int(IPv6Address(prefix)) | int(IPv4Address(text)))),
        st.sampled_from(["::ffff:0:0", "64:ff9b::", "::ffff:0:0:0", "64:ff9b:1::"]),
        v4,
    ),
)
addresses = st.one_of(v4.map(IPv4Address), v6.map(IPv6Address))
networks = st.builds(lambda text, length: str(ip_network(f"{text}/{length}", strict=False)), v4, st.integers(0, 32))


def entry(verb: Verb, text: str) -> Entry | None:
    try:
        return parse_entry(verb, text, "here")
    except PolicyError:
        return None  # an address that carries another is no entry


entries = st.builds(
    entry, st.sampled_from(list(Verb)), st.one_of(names, names.map(lambda name: "." + name), v4, v6, networks)
).filter(lambda found: found is not None)
policies = st.lists(entries, max_size=6).map(lambda found: tuple(e for e in found if e))
modes = st.sampled_from([Mode.GUARDED, Mode.STRICT])


@st.composite
def questions(draw: st.DrawFn) -> Question:
    proto = draw(st.sampled_from(list(Proto)))
    name = draw(names if proto is Proto.DNS else st.none() | names | st.just("wiki"))
    address = draw(addresses if name is None else st.none() | addresses)
    leased = tuple(draw(st.lists(names, max_size=3)))
    port = draw(st.sampled_from([22, 53, 80, 443, 853]))
    qtype = draw(st.sampled_from(["A", "PTR", "ANY", "TXT"])) if proto is Proto.DNS else ""
    dialled = proto is not Proto.DNS and address is not None
    own, unresolved = (draw(st.booleans()) if asked else False for asked in (dialled, dialled and name is not None))
    return Question(proto, port, name, address, leased, qtype, not unresolved, own)


@st.composite
def hosts(draw: st.DrawFn) -> dict[str, Any]:
    own = frozenset(draw(st.lists(addresses, max_size=2)))
    return {"host_addresses": own, "extra_private": draw(st.sampled_from([(), (ip_network("203.0.113.0/28"),)]))}


def facts(verdict: Verdict) -> tuple[object, ...]:
    """A verdict without where its rule was written."""
    return (*(getattr(verdict, name) for name in Verdict.__slots__ if name != "rule"), str(verdict.rule))


@given(policies, entries, questions(), modes, hosts())
def test_adding_an_entry_never_turns_an_allow_into_a_deny(
    listed: tuple[Entry, ...], added: Entry, question: Question, mode: Mode, host: dict[str, Any]
) -> None:
    before = Engine(mode, Policy(listed), **host).decide(question)
    after = Engine(mode, Policy((*listed, added)), **host).decide(question)
    assert after.allowed or not before.allowed


@given(st.data(), policies, questions(), modes, hosts())
def test_order_never_matters(
    data: st.DataObject, listed: tuple[Entry, ...], question: Question, mode: Mode, host: dict[str, Any]
) -> None:
    shuffled = tuple(data.draw(st.permutations(listed)))
    one = Engine(mode, Policy(listed), **host).decide(question)
    other = Engine(mode, Policy(shuffled), **host).decide(question)
    assert facts(one) == facts(other)
    assert Policy(listed).digest == Policy(shuffled).digest


@given(policies, questions(), hosts())
def test_guarded_allows_whatever_strict_allows(
    listed: tuple[Entry, ...], question: Question, host: dict[str, Any]
) -> None:
    strict = Engine(Mode.STRICT, Policy(listed), **host).decide(question)
    guarded = Engine(Mode.GUARDED, Policy(listed), **host).decide(question)
    assert guarded.allowed or not strict.allowed


@given(questions(), hosts())
def test_an_empty_strict_policy_denies_everything_but_what_was_leased_to_ptr(
    question: Question, host: dict[str, Any]
) -> None:
    verdict = Engine(Mode.STRICT, Policy(), **host).decide(question)
    assert not verdict.allowed or verdict.reason == "ptr_leased"


@given(policies, questions(), modes, hosts())
def test_what_is_said_to_permit_does_permit(
    listed: tuple[Entry, ...], question: Question, mode: Mode, host: dict[str, Any]
) -> None:
    verdict = Engine(mode, Policy(listed), **host).decide(question)
    assume(verdict.would_permit)
    assert not verdict.allowed
    permits = tuple(
        parse_entry(Verb.ALLOW, permit.removeprefix("allow: "), "") for permit in verdict.would_permit.split(", ")
    )
    assert Engine(mode, Policy(listed + permits), **host).decide(question).allowed


@given(policies, questions(), modes, hosts())
def test_verdicts_hang_together(
    listed: tuple[Entry, ...], question: Question, mode: Mode, host: dict[str, Any]
) -> None:
    verdict = Engine(mode, Policy(listed), **host).decide(question)
    assert verdict.allowed != ("denied" in verdict.signals)
    assert not (verdict.unlisted and verdict.rule)
    assert not (verdict.internal and verdict.allowed)
    if not verdict.allowed:
        assert verdict.tls == "none"
        assert verdict.internal == (verdict.address_class in ("private", "never_by_name"))
    if verdict.rule:
        assert verdict.rule in listed
    if verdict.unlisted:
        assert mode is Mode.GUARDED
        assert verdict.address_class in ("", "public")


@given(policies, addresses, st.lists(names, min_size=1, max_size=3), st.lists(names, max_size=3), modes)
def test_a_refused_name_is_not_let_through_by_another_on_its_address(
    listed: tuple[Entry, ...], address: Address, refused: list[str], others: list[str], mode: Mode
) -> None:
    engine = Engine(mode, Policy(listed))
    alone = engine.decide(Question(Proto.TCP, 22, address=address, leased=tuple(refused)))
    for crowd in ((*others, *refused), (*refused, *others)):
        assert alone.allowed or not engine.decide(Question(Proto.TCP, 22, address=address, leased=crowd)).allowed


@given(v4.map(IPv4Address), hosts())
def test_a_disguise_changes_no_classification(address: IPv4Address, host: dict[str, Any]) -> None:
    plain = classify(address, **host)
    bits = int(address)
    for carrier in (bits | 0xFFFF << 32, bits | 0x64FF9B << 96, bits << 80 | 0x2002 << 112, bits | 0xFFFF0000 << 32):
        disguised = IPv6Address(carrier)
        if disguised not in host["host_addresses"]:
            assert decode(disguised) == (address,)
            assert classify(disguised, **host) == plain


@given(st.integers(0, 2**32 - 1).map(IPv4Address))
def test_ipaddress_calls_nothing_private_that_is_public_here(address: IPv4Address) -> None:
    documentation = [ip_network(b) for b in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24")]
    if address.is_private and not any(address in block for block in documentation):
        assert classify(address).kind is not AddressClass.PUBLIC


@given(st.one_of(st.binary(max_size=300), st.text(max_size=80).map(lambda text: text.encode("utf-8", "surrogatepass"))))
def test_normalisation_raises_only_malformed_and_is_idempotent(raw: bytes) -> None:
    try:
        name = normalize_untrusted(raw)
    except Malformed:
        return
    assert normalize_untrusted(name.encode("ascii")) == name
    assert normalize_untrusted(raw.upper()) == name
    assert ascii_name(name) == name or "xn--" in name


@given(st.one_of(st.text(max_size=80), names, st.text(alphabet="aüß.éА-xn", max_size=30)))
def test_names_as_people_write_them(text: str) -> None:
    try:
        name = ascii_name(text)
    except Malformed:
        return
    assert ascii_name(name) == name
    assert normalize_untrusted(name.encode("ascii")) == name


written = st.text(alphabet="ab.test:/@*[]%0123456789xüé -,", max_size=40)


@given(st.one_of(st.text(max_size=80), written, v4, v6, networks), st.sampled_from(list(Verb)))
def test_an_entry_is_canonical_or_refused_with_a_hint(text: str, verb: Verb) -> None:
    try:
        found = parse_entry(verb, text, "here")
    except PolicyError as error:
        (problem,) = error.problems
        assert problem.hint
        assert problem.what.isprintable()
        return
    again = parse_entry(verb, found.text, "here")
    assert (again.kind, again.text, again.network) == (found.kind, found.text, found.network)
    assert entries_from_json(json.loads(json.dumps(entries_to_json([found])))) == (found,)


MARKS = ["allow", "passthrough", ":", "- ", "\n", "  ", "[", "]", "{", "}", ",", '"', "'", "a.test", "#", "|", ">", "?"]
TRICKS = ["&a", "*a", "!!t", "---", "~", "null", "\\", "\\u0061", "1", "\t", "\0", "\ud800", "\ufeff", "%TAG", "<<"]
pieces = st.lists(st.sampled_from(MARKS + TRICKS), max_size=30).map("".join)


def reading(
    read: Callable[[Any, str], tuple[Entry, ...]], file: str | bytes, name: str
) -> tuple[list[Entry], list[str]]:
    """Entries or problems, never both, never neither unless the lists are empty."""
    try:
        found = read(file, name)
    except PolicyError as error:
        return [], [str(problem) for problem in error.problems] or ["no problem was given"]
    return list(found), []


@pytest.mark.parametrize("filename", ["p.yaml", "p.json"])
@given(text=st.one_of(st.text(max_size=200), pieces))
def test_a_file_is_entries_or_problems(filename: str, text: str) -> None:
    found, problems = reading(parse_file, text, filename)
    assert all(problem.startswith(filename + ":") for problem in problems)
    assert all(one.origin.startswith(filename + ":") for one in found)


@pytest.mark.parametrize("filename", ["p.yaml", "p.json"])
@given(raw=st.binary(max_size=300))
def test_bytes_are_entries_or_problems(filename: str, raw: bytes) -> None:
    _, problems = reading(parse_bytes, raw, filename)
    assert all(problem.startswith(filename + ":") for problem in problems)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=10) | names, st.lists, max_leaves=6))
def test_what_json_writes_is_json(document: object) -> None:
    """The standard library as an oracle: only the shape may be at fault, never the syntax."""
    for indent in (None, 1):
        _, problems = reading(parse_file, json.dumps({"allow": document}, indent=indent), "p.json")
        assert not any("not JSON" in problem for problem in problems)


@given(policies, st.one_of(names, v4, v6, st.text(max_size=30), names.map("https://{}/x".format)), modes)
def test_explain_equals_the_engine(listed: tuple[Entry, ...], target: str, mode: Mode) -> None:
    engine = Engine(mode, Policy(listed))
    try:
        question = parse_target(target)
    except PolicyError:
        with pytest.raises(PolicyError):
            explain(engine, target)
        return
    verdict, found = engine.decide(question), explain(engine, target)
    assert (found["action"], found["reason"], found["tls"]) == (verdict.action, verdict.reason, verdict.tls)
    assert found["rule"] == (str(verdict.rule) if verdict.rule else None)
    assert (found["would_permit"], found["host"], found["address"]) == (
        verdict.would_permit,
        verdict.host,
        verdict.address,
    )
    assert found["nearest"] is None or verdict.rule is None


# What YAML, the public suffix list or an entry's own rules take for something else.
odd = st.lists(
    st.sampled_from(
        ["a", "1", "1_0", "1e5", "e-5", "-", "-1", "_", "inf", "nan", "null", "on", "y", "co", "uk", "xn--a"]
    ),
    min_size=1,
    max_size=3,
).map(".".join)


@given(st.lists(st.tuples(odd, st.sampled_from(["tls", "http", "tcp"]), v4), max_size=6))
def test_what_suggest_writes_is_a_policy_that_allows_the_same_or_says_that_none_does(
    seen: list[tuple[str, str, str]],
) -> None:
    records = [
        {"event": "egress_allow", "proto": proto, "host": host, "dst": f"{address}:99", "reason": "name_listed"}
        for host, proto, address in seen
    ]
    text = suggest(records)
    policy = Policy(parse_file(text, "p.yaml"))
    for change, _ in replay(records, Engine(Mode.STRICT, policy)).changes:
        assert f"# No entry can stand for {change.target.removesuffix(':99')!r}.\n" in text


@given(st.lists(st.tuples(names, v4.map(IPv4Address), st.integers(1, 20), st.integers(0, 5)), max_size=30))
def test_leases_agree_with_a_plain_list(told: list[tuple[str, IPv4Address, int, int]]) -> None:
    leases, now = Leases(), 0
    plain: dict[tuple[str, IPv4Address], int] = {}
    for name, address, seconds, pause in told:
        now += pause
        leases.add(name, [address], now + seconds, now)
        plain[name, address] = max(plain.get((name, address), 0), now + seconds)
    for address in {address for _, address, _, _ in told}:
        live = {name for (name, known), ends in plain.items() if known == address and ends > now}
        assert set(leases.names_for(address, now)) == live
