"""The one function that decides.

How this works. Names before numbers: a question is first asked of its name, or of the names its address is leased
under, and only then of the address itself. An address that is inside (contract 4) needs more than a name on a list:
a private one an exact entry or an address entry, a never-by-name one an address entry of its own. Adding an entry
can turn a denial into an allow and never the reverse; tests/property holds it to that.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from microagent.decision.resolvers import DNS_OVER_HTTPS_HOSTS, PUBLIC_RESOLVERS
from microagent.decision.verdict import Action, Reason, Signal, Tls, Verdict
from microagent.policy.addresses import (
    HOST,
    PUBLIC,
    Address,
    AddressClass,
    Classification,
    Network,
    classify,
    decode,
)
from microagent.policy.model import Entry, Mode, Policy, Verb


class Proto(StrEnum):
    """What the guest speaks, as far as its first bytes tell."""

    DNS = "dns"
    TLS = "tls"
    HTTP = "http"
    TCP = "tcp"
    UDP = "udp"


@dataclass(frozen=True, slots=True)
class Question:
    """May the guest do this?

    `name` is the canonical name that the client asked for (SNI, Host, qname), None when it named nothing.
    `address` is what would be dialled, None to decide on the name alone; for DNS, the server that was asked.
    `leased` are the live leases of `address` (for PTR: of the address asked about), the newest first. They speak
    for TCP and UDP that named nothing.
    `resolves` is False where DNS has no address for `name`, and `address` is what the guest has picked: entries for
    names speak for the addresses that their names have, and not for that one.
    `own` is True where the kernel has shown that `address` is this host's, which nobody had said.
    `qtype` is the mnemonic of a DNS question: "A", "PTR", "TYPE65".
    """

    proto: Proto
    port: int
    name: str | None = None
    address: Address | None = None
    leased: tuple[str, ...] = ()
    qtype: str = ""
    resolves: bool = True
    own: bool = False

    def __post_init__(self) -> None:
        if self.name is None and (self.address is None or self.proto is Proto.DNS):
            raise ValueError("a question is about a name or an address, and DNS about a name")


# 443 is HTTP/3, 853 DNS over QUIC (RFC 9250): neither shows its name to anyone who does not speak QUIC.
QUIC_PORTS: Final = frozenset({443, 853})
# Zone transfers, everything-at-once, and the type that only tunnels use (contract 6).
REFUSED_QTYPES: Final = frozenset({"ANY", "AXFR", "IXFR", "MAILA", "MAILB", "NULL"})
REVERSE_ZONES: Final = (".in-addr.arpa", ".ip6.arpa")


@dataclass(frozen=True, slots=True)
class Engine:
    """A mode, a policy, and what this host adds to the address table. A new policy is a new engine.

    `own_endpoints` are addresses and ports where the agent itself listens: no entry opens those.
    """

    mode: Mode
    policy: Policy
    host_addresses: frozenset[Address] = frozenset()
    extra_private: tuple[Network, ...] = ()
    own_endpoints: frozenset[tuple[Address, int]] = frozenset()

    def decide(self, question: Question) -> Verdict:
        """The verdict. Every question has one; none raises."""
        asked = _Asked(question, self.policy, self._place(question))
        if self.mode is Mode.OFF:
            return asked.allow(Reason.NOT_MEDIATED)
        strict = self.mode is Mode.STRICT
        if question.proto is Proto.DNS:
            return _lookup(asked, strict)
        if self.own_endpoints and (question.address, question.port) in self.own_endpoints:
            return asked.deny(Reason.LOOP)
        if asked.place.what in ("multicast", "broadcast"):
            return asked.deny(Reason.MULTICAST)
        if question.proto is Proto.UDP and question.port in QUIC_PORTS:
            return asked.deny(Reason.QUIC, signals=(Signal.QUIC_UDP443,))
        if question.name is not None:
            return _named(asked, question.name, strict)
        if question.leased and question.proto in (Proto.TCP, Proto.UDP):
            return _leased(asked, strict)
        return _bare(asked, strict)

    def _place(self, question: Question) -> Classification:
        if question.address is None or question.proto is Proto.DNS:
            return PUBLIC
        if question.own:
            return HOST
        return classify(question.address, self.host_addresses, self.extra_private)


class _Asked:
    """A question with what the policy says about its address, and the two ways to answer it."""

    __slots__ = ("address", "place", "policy", "question")

    def __init__(self, question: Question, policy: Policy, place: Classification) -> None:
        self.question = question
        self.policy = policy
        self.place = place
        self.address = None if question.proto is Proto.DNS else question.address  # DNS: the server asked

    def by_address(self) -> Entry | None:
        """The entry that opens the address, whatever names stand for it."""
        if self.address is None:
            return None
        if self.place.kind is AddressClass.NEVER_BY_NAME and not self.policy.has_own_entry(self.address):
            return None
        return self.policy.match_address(self.address)

    def opened_to(self, names: tuple[str, ...]) -> bool:
        """Whether flows that stand for `names` may go to the address, wherever it lies."""
        if self.place.kind is AddressClass.PUBLIC or self.by_address():
            return True
        by_name = self.place.kind is AddressClass.PRIVATE and self.question.resolves
        return by_name and all(map(self.policy.exact, names))

    def allow(
        self, reason: Reason, rule: Entry | None = None, host: str = "", signals: tuple[str, ...] = ()
    ) -> Verdict:
        tls = Tls.NONE
        if self.question.proto is Proto.TLS:
            if rule is not None and rule.verb is Verb.PASSTHROUGH:
                tls = Tls.PASSTHROUGH
            elif self.question.name is not None and reason is not Reason.NOT_MEDIATED:
                tls = Tls.INTERCEPT
        return Verdict(
            Action.ALLOW,
            reason,
            rule,
            host or self.question.name or "",
            "" if self.address is None else str(self.address),
            "" if self.address is None else self.place.kind,
            tls,
            reason in (Reason.NAME_UNLISTED, Reason.PUBLIC_UNLISTED),
            False,
            _signals(self.question) + signals,
        )

    def deny(self, reason: Reason, permit: str = "", host: str = "", signals: tuple[str, ...] = ()) -> Verdict:
        return Verdict(
            Action.DENY,
            reason,
            None,
            host or self.question.name or "",
            "" if self.address is None else str(self.address),
            "" if self.address is None else self.place.kind,
            Tls.NONE,
            False,
            self.place.kind is not AddressClass.PUBLIC,
            (*_signals(self.question), *signals, Signal.DENIED),
            permit,
        )

    def deny_inside(self, permit: str, host: str = "", signals: tuple[str, ...] = ()) -> Verdict:
        private = self.place.kind is AddressClass.PRIVATE
        return self.deny(Reason.INSIDE_PRIVATE if private else Reason.INSIDE_NEVER_BY_NAME, permit, host, signals)

    def permit_name(self, name: str) -> str:
        """The exact entry for `name`; "" for a top-level name, which no entry can be, and where none would help."""
        return f"allow: {name}" if "." in name and self.question.resolves else ""

    def permit_address(self) -> str:
        """The entries that open this very address: one, or one for each address it carries."""
        return "" if self.address is None else ", ".join(f"allow: {a}" for a in decode(self.address))


def _lookup(asked: _Asked, strict: bool) -> Verdict:
    """DNS: the name alone decides, so that a refused one is never sent anywhere."""
    question = asked.question
    name = question.name or ""
    if question.qtype in REFUSED_QTYPES:
        return asked.deny(Reason.QTYPE_REFUSED)
    if question.qtype == "PTR" and name.endswith(REVERSE_ZONES):
        return asked.allow(Reason.PTR_LEASED) if question.leased else asked.deny(Reason.PTR_NOT_LEASED)
    return _named(asked, name, strict)


def _named(asked: _Asked, name: str, strict: bool) -> Verdict:
    """The client named a host: the name must pass, then the address must be open to it."""
    by_name = asked.policy.match_name(name) if asked.question.resolves else None
    if by_name is None and strict:
        permit = asked.permit_name(name)
        if permit and asked.place.kind is AddressClass.NEVER_BY_NAME and asked.by_address() is None:
            permit += ", " + asked.permit_address()
        return asked.deny(Reason.NAME_NOT_LISTED, permit)
    if not asked.opened_to((name,)):
        by_exact_entry = by_name is None and asked.place.kind is AddressClass.PRIVATE
        return asked.deny_inside((by_exact_entry and asked.permit_name(name)) or asked.permit_address())
    if rule := _deciding(by_name, asked.by_address()):
        return asked.allow(Reason.NAME_LISTED if rule is by_name else Reason.ADDRESS_LISTED, rule)
    return asked.allow(Reason.NAME_UNLISTED if asked.address is None else Reason.PUBLIC_UNLISTED)


def _leased(asked: _Asked, strict: bool) -> Verdict:
    """The client named nothing, but it was told this address under these names: all of them must pass.

    Any of them may be the one that is meant, so a refused name is not let through under an allowed one.
    """
    names = asked.question.leased
    if by_address := asked.by_address():
        return asked.allow(Reason.ADDRESS_LISTED, by_address, names[0])
    unlisted = next((name for name in names if asked.policy.match_name(name) is None), None)
    if unlisted is not None and strict:
        return asked.deny(Reason.LEASE_NOT_LISTED, asked.permit_address(), unlisted)
    if not asked.opened_to(names):
        culprit = unlisted or next((name for name in names if not asked.opened_to((name,))), "")
        # As for a name that the client gave; where there are several, none of them speaks for the address.
        by_exact_entry = names == (unlisted,) and asked.place.kind is AddressClass.PRIVATE
        return asked.deny_inside((by_exact_entry and asked.permit_name(culprit)) or asked.permit_address(), culprit)
    if unlisted is not None:
        return asked.allow(Reason.PUBLIC_UNLISTED, host=unlisted)
    return asked.allow(Reason.LEASE_LISTED, asked.policy.match_name(names[0]), names[0])


def _bare(asked: _Asked, strict: bool) -> Verdict:
    """Nothing but an address."""
    if by_address := asked.by_address():
        return asked.allow(Reason.ADDRESS_LISTED, by_address)
    signals = (Signal.DIRECT_IP_NO_SNI,)
    if asked.place.kind is not AddressClass.PUBLIC:
        return asked.deny_inside(asked.permit_address(), signals=signals)
    if strict:
        return asked.deny(Reason.ADDRESS_NOT_LISTED, asked.permit_address(), signals=signals)
    return asked.allow(Reason.PUBLIC_UNLISTED, signals=signals)


def _deciding(by_name: Entry | None, by_address: Entry | None) -> Entry | None:
    """Of the entries that allow a flow, the one it is recorded under: passthrough first, then the name's."""
    for entry in (by_name, by_address):
        if entry and entry.verb is Verb.PASSTHROUGH:
            return entry
    return by_name or by_address


def _signals(question: Question) -> tuple[str, ...]:
    """What is worth seeing in the question itself, whatever becomes of it."""
    if question.proto is Proto.DNS:
        return (Signal.FOREIGN_RESOLVER,) if question.address in PUBLIC_RESOLVERS else ()
    readable = question.proto is Proto.TLS or question.proto is Proto.HTTP
    if readable and (question.name in DNS_OVER_HTTPS_HOSTS or question.address in PUBLIC_RESOLVERS):
        return (Signal.DNS_OVER_HTTPS,)
    return ()
