"""One DNS question at a time: refused here, or looked up and remembered."""

from ipaddress import IPv4Address

import dns.edns
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import pytest

from microagent.decision.budget import NewNames
from microagent.decision.engine import Engine
from microagent.decision.leases import Leases
from microagent.flows.dns import MAX_TTL, DnsHead, Effect, Lookup, Reply, Write
from microagent.policy.model import Mode, Policy, Verb
from microagent.policy.parse import parse_entry
from microagent.wire.dns import Answer, parse_response_untrusted

OK = IPv4Address("203.0.113.10")
POLICY = Policy((parse_entry(Verb.ALLOW, ".ok.test", "test"),))


class Talk:
    def __init__(self, mode: Mode = Mode.STRICT, search: tuple[str, ...] = ()) -> None:
        self.leases = Leases()
        engine = Engine(mode, POLICY)
        self.head = DnsHead(engine, self.leases, NewNames(120), "8.8.8.8", ident="d1", search=search)

    def asks(self, name: str, qtype: str = "A", **options: object) -> list[Effect]:
        self.query = dns.message.make_query(name, qtype, **options)  # type: ignore[arg-type]
        return self.head.ask_untrusted(self.query.to_wire(), 0.0)

    def reply(self, effects: list[Effect]) -> dns.message.Message:
        (data,) = [e.data for e in effects if isinstance(e, Reply)]
        message = dns.message.from_wire(data)
        assert message.id == self.query.id
        return message


def fields(effects: list[Effect]) -> dict[str, object]:
    (record,) = [e.record for e in effects if isinstance(e, Write)]
    return {"event": str(record.event), "id": record.ident, **record.fields}


def answer(talk: Talk, text: str) -> Answer:
    response = dns.message.make_response(talk.query)
    response.flags |= dns.flags.RA
    response.answer.extend(dns.message.from_text(f"id 1\n;ANSWER\n{text}").answer)
    name = talk.query.question[0].name.to_text().rstrip(".").lower()
    return parse_response_untrusted(response.to_wire(), name, 1, talk.query.id)


def test_a_refused_name_is_answered_here_with_the_id_and_its_own_spelling() -> None:
    talk = Talk()
    effects = talk.asks("EvIl.TeSt", use_edns=0)
    assert not any(isinstance(e, Lookup) for e in effects)
    reply = talk.reply(effects)
    assert reply.rcode() == dns.rcode.REFUSED
    assert reply.question[0].name.to_text() == "EvIl.TeSt."
    (option,) = reply.options
    assert isinstance(option, dns.edns.EDEOption)
    assert option.code == 15
    assert "d1" in (option.text or "")
    assert fields(effects)["event"] == "egress_dns_deny"
    assert fields(effects)["id"] == "d1"
    assert fields(effects)["reason"] == "name_not_listed"


def test_an_allowed_name_is_on_record_before_it_leaves_and_leased_under_the_name_asked() -> None:
    talk = Talk()
    effects = talk.asks("www.ok.test")
    assert [type(e) for e in effects] == [Write, Lookup]
    assert effects[1] == Lookup("www.ok.test", 1)
    told = talk.head.answered(answer(talk, "www.ok.test. 5 IN CNAME cdn.test.\ncdn.test. 5 IN A 203.0.113.10"), 0.0)
    assert fields(told)["answers"] == ["203.0.113.10"]
    assert talk.leases.holds("www.ok.test", OK, 1.0)
    assert not talk.leases.names_for(OK, 1.0)[1:]
    assert len(talk.reply(told).answer) == 2


def test_a_lease_lasts_as_long_as_the_guest_was_told_and_no_longer() -> None:
    """A server that says "for 68 years" would otherwise keep an address open that has long been another's."""
    talk = Talk()
    talk.asks("www.ok.test")
    told = talk.head.answered(answer(talk, "www.ok.test. 2147483647 IN A 203.0.113.10"), 0.0)
    assert talk.reply(told).answer[0].ttl == MAX_TTL
    assert talk.leases.holds("www.ok.test", OK, MAX_TTL - 1.0)
    assert not talk.leases.holds("www.ok.test", OK, MAX_TTL + 1.0)


def test_no_resolver_means_servfail_and_a_record() -> None:
    talk = Talk()
    talk.asks("www.ok.test")
    effects = talk.head.answered(None, 0.0)
    assert talk.reply(effects).rcode() == dns.rcode.SERVFAIL
    assert fields(effects)["event"] == "egress_dns_error"


def test_https_records_are_emptied_without_asking_anybody() -> None:
    talk = Talk()
    effects = talk.asks("www.ok.test", "HTTPS")
    reply = talk.reply(effects)
    assert (reply.rcode(), reply.answer) == (dns.rcode.NOERROR, [])


@pytest.mark.parametrize("qtype", ["ANY", "AXFR", "NULL"])
def test_types_that_are_never_forwarded(qtype: str) -> None:
    talk = Talk(Mode.GUARDED)
    effects = talk.asks("www.ok.test", qtype)
    assert talk.reply(effects).rcode() == dns.rcode.REFUSED
    assert fields(effects)["reason"] == "qtype_refused"


def test_reverse_lookups_are_for_leased_addresses_only() -> None:
    talk = Talk(Mode.GUARDED)
    assert talk.reply(talk.asks("10.113.0.203.in-addr.arpa", "PTR")).rcode() == dns.rcode.REFUSED
    talk.leases.add("www.ok.test", (OK,), 100.0, 0.0)
    reply = talk.reply(talk.asks("10.113.0.203.in-addr.arpa", "PTR"))
    assert "www.ok.test." in reply.answer[0].to_text()


def test_unlisted_names_resolve_in_guarded_and_foreign_resolvers_are_seen() -> None:
    talk = Talk(Mode.GUARDED)
    effects = talk.asks("anything.test")
    assert Lookup("anything.test", 1) in effects
    assert fields(effects)["unlisted"] is True
    assert fields(effects)["signal"] == "foreign-resolver"


def test_other_opcodes_and_broken_messages_get_an_error_and_a_record() -> None:
    talk = Talk()
    notify = dns.message.make_query("www.ok.test", "SOA")
    notify.set_opcode(dns.opcode.NOTIFY)
    effects = talk.head.ask_untrusted(notify.to_wire(), 0.0)
    (reply,) = [e for e in effects if isinstance(e, Reply)]
    assert dns.message.from_wire(reply.data).rcode() == dns.rcode.NOTIMP
    broken = talk.head.ask_untrusted(b"\x12\x34" + bytes(9), 0.0)
    assert fields(broken)["reason"] == "query_malformed"


def test_two_names_in_one_label_are_no_name() -> None:
    talk = Talk(Mode.GUARDED)
    wire = b"\x00\x01\x01\x00\x00\x01" + bytes(6) + b"\x06www.ok\x04test\x00\x00\x01\x00\x01"
    effects = talk.head.ask_untrusted(wire, 0.0)
    assert fields(effects)["reason"] == "name_malformed"
    assert not any(isinstance(e, Lookup) for e in effects)


@pytest.mark.parametrize(
    ("name", "rcode"),
    [
        ("www.ok.test.corp.example.org", dns.rcode.NXDOMAIN),
        ("ok.test.corp", dns.rcode.NXDOMAIN),
        ("www.ok.test.evil.test", dns.rcode.REFUSED),
        ("www.ok.test.secret.corp", dns.rcode.REFUSED),
        ("www.ok.test.corp.corp.example.org", dns.rcode.REFUSED),
        ("www.ok.test.xcorp", dns.rcode.REFUSED),
        ("corp.example.org", dns.rcode.REFUSED),
        ("evil.test.corp.example.org", dns.rcode.REFUSED),
        ("evil.test", dns.rcode.REFUSED),
        ("xok.test.corp", dns.rcode.REFUSED),
    ],
)
def test_a_search_domain_behind_a_listed_name_does_not_exist_so_that_the_search_goes_on(name: str, rcode: int) -> None:
    talk = Talk(search=("corp.example.org", "corp"))
    effects = talk.asks(name, use_edns=0)
    assert not any(isinstance(effect, Lookup) for effect in effects)
    assert talk.reply(effects).rcode() == rcode
    assert fields(effects)["event"] == "egress_dns_deny"


@pytest.mark.parametrize(
    ("name", "rcode"),
    [
        # db.ok.test is listed and comes later: whoever looks for `db` must get there.
        ("db.corp.example.org", dns.rcode.NXDOMAIN),
        ("db.rack7.corp.example.org", dns.rcode.NXDOMAIN),
        ("db.example.net", dns.rcode.REFUSED),  # the last of the list
        ("db.evil.test", dns.rcode.REFUSED),
        ("corp.example.org", dns.rcode.REFUSED),
        ("db", dns.rcode.REFUSED),
    ],
)
def test_a_short_name_that_is_listed_under_a_later_domain_is_searched_for_until_there(name: str, rcode: int) -> None:
    talk = Talk(search=("corp.example.org", "ok.test", "example.net"))
    effects = talk.asks(name, use_edns=0)
    assert not any(isinstance(effect, Lookup) for effect in effects)
    assert talk.reply(effects).rcode() == rcode
    assert fields(effects)["event"] == "egress_dns_deny"
