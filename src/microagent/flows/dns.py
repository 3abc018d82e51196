"""One DNS question: refuse it, or have it looked up, and remember what the guest was told (contract 6).

How this works: the name is decided before anything leaves. A refused question is answered here and now. An allowed
one goes on as the canonical name and the type, nothing else of what the guest sent. The addresses that come back
become leases under the name that was asked: they are what later flows to those addresses may be named by. An
address that may not be dialled is answered all the same, and refused when it is dialled, with a reason.
"""

from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import TypeAlias

from microagent.audit.record import Event, Record
from microagent.decision.budget import NewNames
from microagent.decision.engine import Engine, Proto, Question
from microagent.decision.leases import Leases
from microagent.decision.verdict import Reason, Verdict, refusal
from microagent.errors import Malformed
from microagent.flows import records
from microagent.wire.dns import (
    NODATA,
    Answer,
    QType,
    Query,
    Rcode,
    build_reply,
    parse_query_untrusted,
    pointer_answer,
    qtype_text,
    reply_error,
    reply_formerr,
    reply_refused,
    reverse_address,
)

# Programs keep addresses a little longer than DNS says they may, and a lease too short only costs a second look.
LEASE_GRACE_SECONDS = 60
# What is told to the guest, and how long a lease lasts; a day at most, so that no upstream decides for a week.
MAX_TTL = 86400
# No Encrypted Client Hello keys and no HTTP/3 hints reach the guest: these types are answered empty.
_EMPTIED = (QType.HTTPS, QType.SVCB)


@dataclass(frozen=True, slots=True)
class Reply:
    """Send to the guest, from the address it asked."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Lookup:
    """Ask the host's resolvers; then tell `answered`."""

    name: str
    qtype: int


@dataclass(frozen=True, slots=True)
class Write:
    """Append the record; if that fails, carry out `unrecorded` in the place of all that follows."""

    record: Record


Effect: TypeAlias = Reply | Lookup | Write


class DnsHead:
    """One question, from its bytes to its reply."""

    def __init__(
        self,
        engine: Engine,
        leases: Leases,
        new_names: NewNames,
        server: str,
        *,
        ident: str,
        search: tuple[str, ...] = (),
    ) -> None:
        """`search` are the domains of the guest's search list."""
        self._engine = engine
        self._leases = leases
        self._new_names = new_names
        self._server = server
        self._ident = ident
        self._search = search
        self._query: Query | None = None
        self._verdict: Verdict | None = None

    @property
    def query(self) -> Query | None:
        """What was asked, once it was understood."""
        return self._query

    def ask_untrusted(self, wire: bytes, now: float) -> list[Effect]:
        """A message from the guest."""
        try:
            self._query = query = parse_query_untrusted(wire)
        except Malformed as fault:
            answer = reply_formerr(wire)
            record = self._record(Event.DNS_DENY, refusal(Reason.QUERY_MALFORMED), error=fault.what)
            return [Write(record), *([Reply(answer)] if answer else [])]
        if query.opcode != 0:
            return self._refuse(refusal(Reason.QUERY_MALFORMED), reply_error(query, Rcode.NOTIMP))
        if query.edns_version != 0:
            return self._refuse(refusal(Reason.QUERY_MALFORMED), reply_error(query, Rcode.BADVERS))
        if query.qclass != 1:
            return self._refuse(refusal(Reason.QTYPE_REFUSED, query.name or ""))
        if query.name is None:
            return self._refuse(refusal(Reason.NAME_MALFORMED))
        return self._decide(query, query.name, now)

    def ask_too_much_untrusted(self, wire: bytes) -> list[Effect]:
        """A message over the limit: refused unread. It has no record of its own; whoever counts them has one."""
        try:
            self._query = query = parse_query_untrusted(wire)
        except Malformed:
            return []
        return [Reply(reply_refused(query, "too many questions"))]

    def _decide(self, query: Query, name: str, now: float) -> list[Effect]:
        pointer = reverse_address(name) if query.qtype == QType.PTR else None
        leased = self._leases.names_for(pointer, now) if pointer else ()
        question = Question(
            Proto.DNS,
            53,
            name=name,
            address=IPv4Address(self._server),
            leased=leased,
            qtype=qtype_text(query.qtype),
        )
        self._verdict = verdict = self._engine.decide(question)
        if not verdict.allowed:
            return self._refuse(verdict)
        if pointer and leased:
            return self._tell(pointer_answer(name, leased, LEASE_GRACE_SECONDS))
        if query.qtype in _EMPTIED:
            return self._tell(NODATA)
        if not self._new_names.may_ask(verdict.rule, name, now):
            return self._refuse(refusal(Reason.NEW_NAMES_EXCEEDED, name, signals=verdict.signals))
        # The question itself is egress: it is on record before it leaves.
        return [Write(self._record(Event.DNS_ALLOW, verdict)), Lookup(name, query.qtype)]

    def answered(self, answer: Answer | None, now: float) -> list[Effect]:
        """What the resolvers said; None when none of them did."""
        query = self._query
        assert query is not None  # noqa: S101  (a lookup follows a query)
        if answer is None:
            error = self._record(Event.DNS_ERROR, self._verdict, error="no upstream resolver answered")
            return [Write(error), Reply(reply_error(query, Rcode.SERVFAIL))]
        if query.name is not None and answer.addresses:
            expires = now + min(max(answer.min_ttl, LEASE_GRACE_SECONDS), MAX_TTL)
            self._leases.add(query.name, answer.addresses, expires, now)
        return self._tell(answer)

    def unrecorded(self) -> list[Effect]:
        """A record could not be written, so that what it announces does not happen: the guest hears that at once."""
        if self._query is None:
            return []
        return [Reply(reply_refused(self._query, Reason.AUDIT_UNWRITABLE, Rcode.SERVFAIL))]

    def _tell(self, answer: Answer) -> list[Effect]:
        query = self._query
        assert query is not None  # noqa: S101  (an answer follows a query)
        found = [str(address) for address in answer.addresses]
        record = self._record(Event.DNS_ALLOW, self._verdict, answers=found, ttl=answer.min_ttl, rcode=answer.rcode)
        return [Write(record), Reply(build_reply(query, answer, min(answer.min_ttl, MAX_TTL)))]

    def _refuse(self, verdict: Verdict, reply: bytes | None = None) -> list[Effect]:
        self._verdict = verdict
        query = self._query
        assert query is not None  # noqa: S101  (only what was understood is refused)
        if reply is None:
            # musl ends its search at a REFUSED, and would never come to the name itself.
            searched = verdict.reason is Reason.NAME_NOT_LISTED and self._from_search_list(query.name or "")
            rcode = Rcode.NXDOMAIN if searched else Rcode.REFUSED
            reply = reply_refused(query, f"{verdict.reason} {self._ident}", rcode)
        return [Write(self._record(Event.DNS_DENY, verdict)), Reply(reply)]

    def _from_search_list(self, name: str) -> bool:
        """Whether a listed name is still to come when the guest's resolver has put a domain of its list behind a word.

        That is the word by itself (api.example.org.corp.test), which comes last, or with a later domain of the list.
        """
        for place, domain in enumerate(self._search, 1):
            if name.endswith(f".{domain}"):
                word = name.removesuffix(f".{domain}")
                to_come = (word, *(f"{word}.{later}" for later in self._search[place:]))
                if any(self._engine.policy.match_name(other) is not None for other in to_come):
                    return True
        return False

    def _record(self, event: Event, verdict: Verdict | None, **more: object) -> Record:
        query = self._query
        fields: dict[str, object] = {"server": self._server, "flow": self._ident}
        if query is not None:
            fields["qname"] = query.name if query.name is not None else _shown_untrusted(query.question)
            fields["qtype"] = qtype_text(query.qtype)
        if verdict is not None:
            fields |= {
                "reason": str(verdict.reason),
                "rule": records.rule(verdict),
                "signal": ",".join(verdict.signals),
                "hint": records.hint(verdict),
            }
            if verdict.unlisted:
                fields["unlisted"] = True
        ident = self._ident if event is Event.DNS_DENY else ""
        return Record(event, fields | more, ident=ident)


def _shown_untrusted(question: bytes) -> str:
    """A name that is none, so that a person can see what was tried: bytes outside of ASCII text are escaped."""
    # By hand: Python's own codec for this is read from a file at its first use, and a mediator may read none.
    return "".join(chr(byte) if 0x20 < byte < 0x7F and byte != 0x5C else f"\\x{byte:02x}" for byte in question[:-4])
