"""What the cases in tests/cases do not say: the edges of a question, and verdicts without one."""

from ipaddress import ip_address

import pytest

from microagent.decision.engine import Engine, Proto, Question
from microagent.decision.verdict import Action, Reason, Signal, Tls, refusal
from microagent.policy.model import NOTHING, Mode, Policy, Verb
from microagent.policy.parse import parse_entry

ADDRESS = ip_address("203.0.113.5")


@pytest.mark.parametrize("proto", Proto)
def test_a_question_is_about_something(proto: Proto) -> None:
    with pytest.raises(ValueError, match="a question is about a name or an address"):
        Question(proto, 443)
    with pytest.raises(ValueError, match="a question is about a name or an address"):
        Question(proto, 443, leased=("a.test",))


def test_dns_is_about_a_name() -> None:
    with pytest.raises(ValueError, match="DNS about a name"):
        Question(Proto.DNS, 53, address=ADDRESS)


@pytest.mark.parametrize("qtype", ["ANY", "AXFR", "IXFR", "MAILA", "MAILB", "NULL"])
def test_types_that_are_never_forwarded(qtype: str) -> None:
    policy = Policy((parse_entry(Verb.ALLOW, "a.test", ""),))
    verdict = Engine(Mode.GUARDED, policy).decide(Question(Proto.DNS, 53, "a.test", qtype=qtype))
    assert (verdict.action, verdict.reason) == (Action.DENY, Reason.QTYPE_REFUSED)


@pytest.mark.parametrize("mode", [Mode.GUARDED, Mode.STRICT])
def test_the_server_that_dns_asks_is_never_in_the_verdict(mode: Mode) -> None:
    question = Question(Proto.DNS, 53, "a.test", address=ip_address("127.0.0.1"))
    verdict = Engine(mode, NOTHING).decide(question)
    assert (verdict.address, verdict.address_class, verdict.internal) == ("", "", False)


def test_the_class_is_recorded() -> None:
    engine = Engine(Mode.GUARDED, NOTHING, frozenset({ip_address("203.0.113.1")}))
    for text, expected in (("203.0.113.5", "public"), ("10.0.0.5", "private"), ("203.0.113.1", "never_by_name")):
        verdict = engine.decide(Question(Proto.TCP, 22, address=ip_address(text)))
        assert (verdict.address, verdict.address_class) == (text, expected)


def test_off_intercepts_nothing() -> None:
    policy = Policy((parse_entry(Verb.PASSTHROUGH, "a.test", ""),))
    verdict = Engine(Mode.OFF, policy).decide(Question(Proto.TLS, 443, "a.test", ADDRESS))
    assert (verdict.allowed, verdict.reason, verdict.tls) == (True, Reason.NOT_MEDIATED, Tls.NONE)


def test_signals_say_what_was_tried_before_that_it_was_denied() -> None:
    verdict = Engine(Mode.STRICT, NOTHING).decide(Question(Proto.TLS, 443, address=ip_address("8.8.8.8")))
    assert verdict.signals == (Signal.DNS_OVER_HTTPS, Signal.DIRECT_IP_NO_SNI, Signal.DENIED)


def test_questions_and_verdicts_are_values() -> None:
    question = Question(Proto.TLS, 443, "a.test", ADDRESS)
    engine = Engine(Mode.STRICT, Policy((parse_entry(Verb.ALLOW, "a.test", ""),)))
    verdict = engine.decide(question)
    assert len({question, Question(Proto.TLS, 443, "a.test", ADDRESS)}) == 1
    assert len({verdict, engine.decide(question)}) == 1
    for value, name in ((question, "port"), (engine, "mode"), (engine.policy, "entries"), (verdict, "reason")):
        with pytest.raises(AttributeError):
            setattr(value, name, None)
    with pytest.raises(AttributeError):
        verdict.rule.text = "b.test"  # type: ignore[misc,union-attr]


def test_a_refusal_without_a_question() -> None:
    verdict = refusal(Reason.HOST_MISMATCH, "a.test", "203.0.113.5", (Signal.ECH_OFFERED,))
    assert not verdict.allowed
    assert (verdict.host, verdict.address, verdict.rule, verdict.would_permit) == ("a.test", "203.0.113.5", None, "")
    assert verdict.signals == (Signal.ECH_OFFERED, Signal.DENIED)


def test_every_reason_is_a_word_and_a_sentence() -> None:
    for reason in Reason:
        assert reason == reason.value
        assert reason.value.replace("_", "").isalpha()
        assert len(reason.meaning.split()) >= 4
    assert Reason("quic") is Reason.QUIC
    assert len({reason.meaning for reason in Reason}) == len(Reason)


@pytest.mark.parametrize("proto", [Proto.TCP, Proto.UDP])
def test_only_what_may_hold_http_to_a_public_resolver_is_taken_for_dns_over_https(proto: Proto) -> None:
    def signals(proto: Proto) -> tuple[str, ...]:
        return Engine(Mode.GUARDED, NOTHING).decide(Question(proto, 8443, address=ip_address("1.1.1.1"))).signals

    assert signals(proto) == (Signal.DIRECT_IP_NO_SNI,)
    assert Signal.DNS_OVER_HTTPS in signals(Proto.TLS)


def engine(*allow: str, mode: Mode = Mode.GUARDED, own: tuple[str, int] | None = None) -> Engine:
    policy = Policy(tuple(parse_entry(Verb.ALLOW, text, "") for text in allow))
    return Engine(mode, policy, own_endpoints=frozenset({(ip_address(own[0]), own[1])} if own else ()))


@pytest.mark.parametrize("mode", [Mode.GUARDED, Mode.STRICT])
def test_no_entry_opens_the_agents_own_port(mode: Mode) -> None:
    asked = engine("127.0.0.1", "127.0.0.2", "a.test", mode=mode, own=("127.0.0.1", 9464))
    for address, port, reason in (
        ("127.0.0.1", 9464, Reason.LOOP),
        ("127.0.0.1", 9465, Reason.ADDRESS_LISTED),
        ("127.0.0.2", 9464, Reason.ADDRESS_LISTED),
    ):
        for proto in (Proto.TCP, Proto.UDP, Proto.HTTP, Proto.TLS):
            verdict = asked.decide(Question(proto, port, address=ip_address(address)))
            assert (verdict.reason, verdict.would_permit) == (reason, "")
    by_name = asked.decide(Question(Proto.TLS, 9464, "a.test", ip_address("127.0.0.1")))
    assert (by_name.action, by_name.reason) == (Action.DENY, Reason.LOOP)
    # The server that a question is sent to is no destination.
    dns = engine("a.test", mode=mode, own=("127.0.0.1", 53)).decide(
        Question(Proto.DNS, 53, "a.test", ip_address("127.0.0.1"), qtype="A")
    )
    assert dns.reason is Reason.NAME_LISTED


@pytest.mark.parametrize("mode", [Mode.GUARDED, Mode.STRICT])
@pytest.mark.parametrize("name", ["a.test", None])
def test_what_the_kernel_shows_to_be_ours_needs_an_entry_of_its_own(mode: Mode, name: str | None) -> None:
    """Public by every table, and this host's by a route alone."""
    question = Question(Proto.TLS, 443, name, ADDRESS, own=True)
    verdict = engine("a.test", "203.0.113.0/24", mode=mode).decide(question)
    assert (verdict.action, verdict.reason) == (Action.DENY, Reason.INSIDE_NEVER_BY_NAME)
    assert (verdict.internal, verdict.would_permit) == (True, "allow: 203.0.113.5")
    assert engine("a.test", "203.0.113.5", mode=mode).decide(question).allowed


def test_an_entry_for_a_name_opens_no_address_that_the_name_does_not_have() -> None:
    """Neither does it where the address is private, nor is it what a refusal asks for."""
    asked = {
        resolves: Question(Proto.TLS, 443, "a.test", ip_address("10.0.0.5"), resolves=resolves)
        for resolves in (True, False)
    }
    assert engine("a.test").decide(asked[True]).reason is Reason.NAME_LISTED
    assert engine().decide(asked[True]).would_permit == "allow: a.test"
    for allow in ((), ("a.test",)):
        verdict = engine(*allow).decide(asked[False])
        assert (verdict.reason, verdict.would_permit) == (Reason.INSIDE_PRIVATE, "allow: 10.0.0.5")
    assert engine("10.0.0.5").decide(asked[False]).reason is Reason.ADDRESS_LISTED
