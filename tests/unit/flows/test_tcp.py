"""A TCP flow's head, as conversations: what it is told, and what it asks for."""

import hashlib
import ssl
from ipaddress import IPv4Address

import pytest

from microagent.audit.record import Record
from microagent.decision.budget import NewNames
from microagent.decision.engine import Engine
from microagent.decision.leases import Leases
from microagent.flows import vocabulary as v
from microagent.flows.tcp import DEFAULT_SNIFFING, TcpHead
from microagent.policy.model import Mode, Policy, Verb
from microagent.policy.parse import parse_entry

OK = IPv4Address("203.0.113.10")
OTHER = IPv4Address("203.0.113.99")
INSIDE = IPv4Address("10.1.2.3")


def hello(name: str | None) -> bytes:
    """A ClientHello as OpenSSL writes it."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname=name).do_handshake()
    return outgoing.read()


def request(host: str) -> bytes:
    return f"GET /secret?token=1 HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()


def engine(*entries: str, mode: Mode = Mode.STRICT) -> Engine:
    return Engine(mode, Policy(tuple(parse_entry(Verb(e.split(": ")[0]), e.split(": ")[1], "test") for e in entries)))


class Talk:
    """A head under test; the clock stands still."""

    def __init__(
        self,
        *entries: str,
        mode: Mode = Mode.STRICT,
        to: IPv4Address = OK,
        port: int = 443,
        leased: tuple[tuple[str, IPv4Address], ...] = (),
    ) -> None:
        leases = Leases()
        for name, address in leased:
            leases.add(name, (address,), 100.0, 0.0)
        self.head = TcpHead(engine(*entries, mode=mode), leases, NewNames(2), to, port, ident="flow1", now=0.0)
        assert self.head.open() == [v.Peek(0, DEFAULT_SNIFFING.server_first)]

    def hears(self, event: v.Event) -> list[v.Effect]:
        return self.head.handle(event, 1.0)


def record_of(effects: list[v.Effect]) -> Record:
    first = effects[0]
    assert isinstance(first, v.Write), effects
    return first.record


def looked_up(effects: list[v.Effect]) -> str:
    """The name that is looked up, once that is on record."""
    record, resolve = record_of(effects), effects[1]
    assert isinstance(resolve, v.Resolve)
    assert len(effects) == 2
    assert record.event == "egress_dns_allow"
    assert record.fields["qname"] == resolve.name
    return resolve.name


def test_allowed_tls_is_looked_up_pinned_recorded_dialled_intercepted() -> None:
    talk = Talk("allow: api.ok.test")
    assert looked_up(talk.hears(v.Peeked(hello("api.ok.test")))) == "api.ok.test"
    effects = talk.hears(v.Resolved((OK,)))
    record = record_of(effects)
    assert record.event == "egress_allow"
    assert record.fields["rule"] == "allow: api.ok.test"
    assert record.fields["dialed"] == "203.0.113.10:443"
    assert effects[1:] == [v.Dial(OK, 443)]
    assert talk.hears(v.Dialed()) == [v.Intercept("api.ok.test")]


def test_names_that_are_new_under_one_domain_are_looked_up_at_a_limited_rate() -> None:
    leases, budget = Leases(), NewNames(2)

    def effects(name: str) -> list[v.Effect]:
        policy = engine("allow: .ok.test", "allow: exact.ok.test")
        head = TcpHead(policy, leases, budget, OK, 443, ident="flow1", now=0.0)
        return head.handle(v.Peeked(hello(name)), 1.0)

    assert [looked_up(effects(f"{n}.ok.test")) for n in (1, 2)] == ["1.ok.test", "2.ok.test"]
    refused = record_of(effects("3.ok.test"))
    assert (refused.event, refused.fields["reason"]) == ("egress_deny", "new_names_exceeded")
    # What was looked up before, and what an entry of its own allows, is not new.
    assert looked_up(effects("1.ok.test")) == "1.ok.test"
    leases.add("4.ok.test", (OK,), 100.0, 0.0)
    assert v.Dial(OK, 443) in effects("4.ok.test")


def test_a_leased_destination_needs_no_second_lookup() -> None:
    talk = Talk("allow: api.ok.test", leased=(("api.ok.test", OK),))
    assert v.Dial(OK, 443) in talk.hears(v.Peeked(hello("api.ok.test")))


def test_passthrough_is_spliced() -> None:
    talk = Talk("allow: .ok.test", "passthrough: pinned.ok.test", leased=(("pinned.ok.test", OK),))
    assert record_of(talk.hears(v.Peeked(hello("pinned.ok.test")))).fields["tls"] == "passthrough"
    assert talk.hears(v.Dialed()) == [v.Replay(len(hello("pinned.ok.test")))]
    assert talk.hears(v.ServerSpoke(b"\x16\x03\x03\x00\x7a\x02")) == [v.Listen(6)]
    assert talk.hears(v.ServerSpoke(server_hello(bytes(32)))) == [v.Splice()]


@pytest.mark.parametrize(
    "answer", [b"", b"\x15\x03\x03\x00\x02\x02\x28", b"SSH-2.0-x\r\n", b"\x16\x03\x03\x00\x7a\x02"]
)
def test_a_server_that_does_not_ask_again_is_spliced(answer: bytes) -> None:
    talk = spoken_to()
    if answer.startswith(b"\x16"):
        assert talk.hears(v.ServerSpoke(answer)) == [v.Listen(len(answer))]
    assert talk.hears(v.ServerSpoke(answer)) == [v.Splice()]


def spoken_to() -> Talk:
    """A passthrough whose server has the first ClientHello."""
    talk = Talk("passthrough: pinned.ok.test", leased=(("pinned.ok.test", OK),))
    talk.hears(v.Peeked(hello("pinned.ok.test")))
    talk.hears(v.Dialed())
    return talk


def server_hello(random: bytes) -> bytes:
    """As much of one as matters here, in a record."""
    message = b"\x02\x00\x00\x26\x03\x03" + random + bytes(4)
    return b"\x16\x03\x03" + len(message).to_bytes(2, "big") + message


RETRY = server_hello(hashlib.sha256(b"HelloRetryRequest").digest())


def asked_again() -> Talk:
    talk = spoken_to()
    behind = b"\x14\x03\x03\x00\x01\x01"
    assert talk.hears(v.ServerSpoke(RETRY[:20])) == [v.Listen(20)]
    seconds = DEFAULT_SNIFFING.seconds
    assert talk.hears(v.ServerSpoke(RETRY + behind)) == [v.Return(len(RETRY)), v.Peek(0, seconds)]
    return talk


def test_a_second_hello_with_the_same_name_goes_on() -> None:
    talk = asked_again()
    second = b"\x14\x03\x03\x00\x01\x01" + hello("PINNED.ok.test")
    assert talk.hears(v.Peeked(second[:100])) == [v.Peek(100, DEFAULT_SNIFFING.seconds)]
    assert talk.hears(v.Peeked(second)) == [v.Splice()]


def test_an_alert_and_the_end_instead_of_a_second_hello_go_on() -> None:
    assert asked_again().hears(v.Peeked(b"\x15\x03\x03\x00\x02\x02\x2f", ended=True)) == [v.Splice()]
    assert asked_again().hears(v.Peeked(b"", ended=True)) == [v.Splice()]


@pytest.mark.parametrize(
    ("event", "reason", "host"),
    [
        (v.Peeked(hello("evil.test")), "host_mismatch", "evil.test"),
        (v.Peeked(hello(None)), "host_mismatch", "pinned.ok.test"),
        (v.Peeked(b"GET / HTTP/1.1\r\n\r\n"), "hello_malformed", "pinned.ok.test"),
        (v.Peeked(b"\x17\x03\x03\x40\x00" * 65536), "hello_malformed", "pinned.ok.test"),
        (v.Waited(), "name_late", "pinned.ok.test"),
    ],
)
def test_any_other_second_hello_ends_the_connection(event: v.Event, reason: str, host: str) -> None:
    talk = asked_again()
    effects = talk.hears(event)
    record = record_of(effects)
    assert (record.event, record.fields["reason"], record.fields["host"]) == ("egress_deny", reason, host)
    assert effects[1:] == [v.Cut("the second ClientHello was refused")]
    assert talk.head.closed("", 1, 1, 1.0, opaque=False).fields["host"] == "pinned.ok.test"


def test_tls_to_an_address_is_watched_as_well() -> None:
    talk = Talk("allow: 203.0.113.10")
    assert record_of(talk.hears(v.Peeked(hello(None)))).event == "egress_allow"
    assert talk.hears(v.Dialed()) == [v.Replay(len(hello(None)))]
    talk.hears(v.ServerSpoke(RETRY))
    assert record_of(talk.hears(v.Peeked(hello("evil.test")))).fields["reason"] == "host_mismatch"


def test_another_destination_than_the_names_own_is_never_dialled() -> None:
    talk = Talk("allow: api.ok.test", to=OTHER)
    talk.hears(v.Peeked(hello("api.ok.test")))
    effects = talk.hears(v.Resolved((OK,)))
    assert effects[1] == v.Dial(OK, 443)
    fields = record_of(effects).fields
    assert (fields["dst"], fields["dialed"]) == ("203.0.113.99:443", "203.0.113.10:443")
    assert "name-destination-mismatch" in fields["signal"]


def test_a_refused_name_is_never_looked_up_and_the_guest_is_told_inside_tls() -> None:
    effects = Talk("allow: api.ok.test").hears(v.Peeked(hello("evil.test")))
    record = record_of(effects)
    assert (record.event, record.ident, record.fields["reason"]) == ("egress_deny", "flow1", "name_not_listed")
    assert isinstance(effects[1], v.Answer)
    assert effects[1].data.startswith(b"HTTP/1.1 403 ")
    assert b"flow1" in effects[1].data


def test_a_hello_in_pieces_is_waited_for_and_then_decided_alike() -> None:
    whole = hello("api.ok.test")
    talk = Talk("allow: api.ok.test")
    for size in range(1, len(whole)):
        (effect,) = talk.hears(v.Peeked(whole[:size]))
        assert isinstance(effect, v.Peek)
        assert effect.seen == size
    assert looked_up(talk.hears(v.Peeked(whole))) == "api.ok.test"


def test_half_a_hello_is_refused_when_the_time_is_over() -> None:
    talk = Talk("allow: api.ok.test")
    talk.hears(v.Peeked(hello("api.ok.test")[:50]))
    effects = talk.hears(v.Waited())
    assert record_of(effects).fields["reason"] == "name_late"
    assert effects[1:] == [v.Reset()]


def test_http_is_named_by_its_host_and_inspected() -> None:
    talk = Talk("allow: api.ok.test", port=8080, leased=(("api.ok.test", OK),))
    assert v.Dial(OK, 8080) in talk.hears(v.Peeked(request("api.ok.test:8080")))
    assert talk.hears(v.Dialed()) == [v.Inspect("api.ok.test")]


def test_refused_http_is_answered_with_the_reason_and_without_the_query() -> None:
    effects = Talk("allow: api.ok.test", port=80).hears(v.Peeked(request("evil.test")))
    assert record_of(effects).fields["reason"] == "name_not_listed"
    assert isinstance(effects[1], v.Answer)
    assert b"token" not in effects[1].data


def test_two_hosts_in_one_request_are_refused_with_400() -> None:
    data = b"GET / HTTP/1.1\r\nHost: api.ok.test\r\nHost: evil.test\r\n\r\n"
    effects = Talk("allow: api.ok.test", port=80).hears(v.Peeked(data))
    assert record_of(effects).fields["reason"] == "request_malformed"
    assert isinstance(effects[1], v.Answer)
    assert effects[1].data.startswith(b"HTTP/1.1 400 ")


def test_a_silent_client_is_decided_by_the_lease_of_its_destination() -> None:
    talk = Talk("allow: git.ok.test", port=22, leased=(("git.ok.test", OK),))
    effects = talk.hears(v.Waited())
    assert record_of(effects).fields["host"] == "git.ok.test"
    assert effects[1] == v.Dial(OK, 22)
    assert talk.hears(v.Dialed()) == [v.AwaitFirstWord()]
    assert talk.hears(v.ServerSpoke(b"220 hello\r\n")) == [v.Splice()]


@pytest.mark.parametrize("late", [b"SSH-2.0-x\r\n", b"\0\0\0\x08\x04\xd2\x16\x2f", b""])
def test_a_silent_client_may_speak_first_after_all_if_it_names_nobody(late: bytes) -> None:
    talk = Talk("allow: git.ok.test", port=22, leased=(("git.ok.test", OK),))
    talk.hears(v.Waited())
    talk.hears(v.Dialed())
    assert talk.hears(v.Peeked(late, ended=not late)) == [v.Splice()]


def test_a_name_that_is_said_late_is_decided_all_the_same() -> None:
    def after_silence(name: str) -> list[v.Effect]:
        talk = Talk("allow: api.ok.test", leased=(("api.ok.test", OK),))
        talk.hears(v.Waited())
        talk.hears(v.Dialed())
        first, *rest = talk.hears(v.Peeked(hello(name)[:100]))
        assert first == v.HangUp()
        assert [type(effect) for effect in rest] == [v.Peek]
        return talk.hears(v.Peeked(hello(name)))

    refused = after_silence("evil.test")
    assert record_of(refused).fields["reason"] == "name_not_listed"
    assert not [effect for effect in refused if isinstance(effect, v.Dial)]
    assert v.Dial(OK, 443) in after_silence("api.ok.test")


def test_a_bare_address_is_refused_in_strict_and_open_in_guarded_if_public() -> None:
    refused = Talk(port=22).hears(v.Waited())
    assert record_of(refused).fields["reason"] == "address_not_listed"
    assert refused[1:] == [v.Reset()]
    opened = Talk(port=22, mode=Mode.GUARDED).hears(v.Waited())
    assert record_of(opened).fields["unlisted"] is True
    assert opened[1] == v.Dial(OK, 22)
    inside = Talk(port=22, mode=Mode.GUARDED, to=INSIDE).hears(v.Waited())
    assert record_of(inside).event == "egress_internal_deny"


def test_the_inside_part_of_a_mixed_answer_is_never_dialled() -> None:
    talk = Talk("allow: mixed.ok.test", to=OTHER)
    talk.hears(v.Peeked(hello("mixed.ok.test")))
    assert talk.hears(v.Resolved((INSIDE, OK)))[1] == v.Dial(OK, 443)
    again = talk.hears(v.DialFailed("Connection refused"))
    assert not any(isinstance(effect, v.Dial) for effect in again)


def test_a_guest_that_picks_the_inside_part_itself_is_refused() -> None:
    talk = Talk("allow: mixed.ok.test", to=INSIDE, leased=(("mixed.ok.test", INSIDE), ("mixed.ok.test", OK)))
    assert talk.hears(v.Peeked(hello("mixed.ok.test"))) == [v.Resolve("mixed.ok.test")]
    record = record_of(talk.hears(v.Resolved((INSIDE, OK))))
    assert (record.event, record.fields["reason"]) == ("egress_internal_deny", "mixed_answer")


def test_an_exact_name_may_be_private() -> None:
    talk = Talk("allow: db.ok.test", to=INSIDE)
    talk.hears(v.Peeked(hello("db.ok.test")))
    assert talk.hears(v.Resolved((INSIDE,)))[1] == v.Dial(INSIDE, 443)


def test_a_suffix_that_resolves_inside_is_refused_with_the_entry_that_would_permit_it() -> None:
    talk = Talk("allow: .ok.test", to=INSIDE)
    talk.hears(v.Peeked(hello("db.ok.test")))
    record = record_of(talk.hears(v.Resolved((INSIDE,))))
    assert record.event == "egress_internal_deny"
    assert "allow: 10.1.2.3" in record.fields["hint"]


def test_an_unresolvable_name_falls_back_to_the_guests_address_in_guarded_only() -> None:
    guarded = Talk(mode=Mode.GUARDED)
    guarded.hears(v.Peeked(hello("local.example.test")))
    assert guarded.hears(v.Resolved(()))[1] == v.Dial(OK, 443)
    strict = Talk("allow: local.example.test")
    strict.hears(v.Peeked(hello("local.example.test")))
    assert record_of(strict.hears(v.Resolved(()))).fields["reason"] == "name_unresolved"


def test_an_entry_does_not_speak_for_the_guests_address_of_a_name_that_does_not_resolve() -> None:
    """Else any server would be spliced to unread, and on record under the entry for another's name."""
    for entry in ("passthrough: .ok.test", "allow: made-up.ok.test"):
        talk = Talk(entry, mode=Mode.GUARDED)
        talk.hears(v.Peeked(hello("made-up.ok.test")))
        record = record_of(talk.hears(v.Resolved(())))
        assert (record.fields["rule"], record.fields["unlisted"], record.fields["tls"]) == ("", True, "intercept")
        assert talk.hears(v.Dialed()) == [v.Intercept("made-up.ok.test")]
    by_address = Talk(f"passthrough: {OK}", mode=Mode.GUARDED)
    by_address.hears(v.Peeked(hello("made-up.ok.test")))
    by_address.hears(v.Resolved(()))
    assert by_address.hears(v.Dialed()) == [v.Replay(len(hello("made-up.ok.test")))]


def test_every_address_of_the_name_is_tried_and_each_try_is_on_record_first() -> None:
    talk = Talk("allow: api.ok.test", to=INSIDE)
    talk.hears(v.Peeked(hello("api.ok.test")))
    talk.hears(v.Resolved((OK, OTHER)))
    effects = talk.hears(v.DialFailed("Connection refused"))
    assert [type(effect) for effect in effects] == [v.Write, v.Write, v.Dial]
    assert effects[2] == v.Dial(OTHER, 443)
    last = talk.hears(v.DialFailed("timed out", late=True))
    assert [type(effect) for effect in last] == [v.Write, v.Answer]
    answer = last[1]
    assert isinstance(answer, v.Answer)
    assert answer.data.startswith(b"HTTP/1.1 504")


def test_an_address_that_is_still_to_be_tried_is_decided_by_the_policy_of_then() -> None:
    entries = ("allow: .ok.test", "allow: 10.1.2.3", "allow: 10.1.2.4")
    for kept in (entries, entries[:2]):
        talk = Talk(*entries)
        talk.hears(v.Peeked(hello("db.ok.test")))
        assert v.Dial(INSIDE, 443) in talk.hears(v.Resolved((INSIDE, INSIDE + 1)))
        talk.head.apply(engine(*kept))
        dialled = v.Dial(INSIDE + 1, 443) in talk.hears(v.DialFailed("Connection refused"))
        assert dialled is (kept == entries)


@pytest.mark.parametrize("whole", [hello("evil.test"), request("evil.test"), hello("git.ok.test")])
def test_half_a_message_is_not_taken_for_a_protocol_that_names_nobody(whole: bytes) -> None:
    """Its destination is leased under a listed name, which says nothing about the host that the message was to name."""
    talk = Talk("allow: git.ok.test", leased=(("git.ok.test", OK),))
    effects = talk.hears(v.Peeked(whole[:-1], ended=True))
    assert record_of(effects).fields["reason"] in ("hello_malformed", "request_malformed")
    assert not [effect for effect in effects if isinstance(effect, v.Dial)]


def test_an_opaque_message_that_ends_is_relayed_by_the_lease() -> None:
    talk = Talk("allow: git.ok.test", port=22, leased=(("git.ok.test", OK),))
    assert v.Dial(OK, 22) in talk.hears(v.Peeked(b"SSH-2.0-x\r\n", ended=True))


def test_an_address_that_turns_out_to_be_the_hosts_own_is_refused_and_the_next_one_dialled() -> None:
    talk = Talk("allow: api.ok.test", leased=(("api.ok.test", OTHER),), port=80, to=INSIDE)
    talk.hears(v.Peeked(request("api.ok.test")))
    assert talk.hears(v.Resolved((OK, OTHER)))[1:] == [v.Dial(OK, 80)]
    refused, allowed, dial = talk.head.at_home()
    assert isinstance(refused, v.Write)
    assert (refused.record.event, refused.record.fields["reason"]) == ("egress_internal_deny", "inside_never_by_name")
    assert record_of([allowed]).event == "egress_allow"
    assert dial == v.Dial(OTHER, 80)
    denial, answer = talk.head.at_home()
    assert record_of([denial]).fields["hint"] == f"the policy entry `allow: {OTHER}` would permit it"
    assert isinstance(answer, v.Answer)


def test_an_entry_of_its_own_opens_the_hosts_own_address_and_its_end_closes_it() -> None:
    talk = Talk(f"allow: {OK}", mode=Mode.GUARDED)
    assert v.Dial(OK, 443) in talk.hears(v.Peeked(b"SSH-2.0-x\r\n"))
    assert talk.head.at_home() == []
    assert talk.hears(v.Dialed()) == [v.Splice()]
    talk.head.apply(engine(mode=Mode.GUARDED))
    verdict = talk.head.decide_again()
    assert verdict is not None
    assert not verdict.allowed
