"""The answer to a question: a value that flows act on, records carry, and tests compare."""

from dataclasses import dataclass
from enum import StrEnum

from microagent.policy.model import Entry


class Action(StrEnum):
    """What is done."""

    ALLOW = "allow"
    DENY = "deny"


class Tls(StrEnum):
    """What happens to the TLS inside an allowed flow; NONE where there is none, or none we can read."""

    INTERCEPT = "intercept"
    PASSTHROUGH = "passthrough"
    NONE = "none"


class Signal(StrEnum):
    """Facts worth an operator's eye, whatever the action (contract 10)."""

    DENIED = "denied"
    DIRECT_IP_NO_SNI = "direct-ip-no-sni"
    QUIC_UDP443 = "quic-udp443"
    FOREIGN_RESOLVER = "foreign-resolver"
    NAME_DESTINATION_MISMATCH = "name-destination-mismatch"
    DNS_OVER_HTTPS = "dns-over-https"
    ECH_OFFERED = "ech-offered"


class Reason(StrEnum):
    """Why, in one stable word for programs (`reason` in a record) and one sentence for people (`.meaning`)."""

    meaning: str

    def __new__(cls, word: str, meaning: str = "") -> "Reason":
        member = str.__new__(cls, word)
        member._value_ = word
        member.meaning = meaning
        return member

    # Allowed.
    NAME_LISTED = "name_listed", "an entry names this host"
    ADDRESS_LISTED = "address_listed", "an address entry covers this destination"
    LEASE_LISTED = "lease_listed", "every name the guest was told this address under has an entry"
    NAME_UNLISTED = "name_unlisted", "no entry names this host; guarded mode resolves it"
    PUBLIC_UNLISTED = "public_unlisted", "no entry covers it; guarded mode allows public destinations"
    PTR_LEASED = "ptr_leased", "the guest was told this address under a name, and may ask for that name"
    NOT_MEDIATED = "not_mediated", "egress is off: nothing is decided or recorded"

    # Denied, by the policy.
    NAME_NOT_LISTED = "name_not_listed", "no entry names this host, and strict mode needs one"
    ADDRESS_NOT_LISTED = "address_not_listed", "no entry covers this address, and strict mode needs one"
    LEASE_NOT_LISTED = "lease_not_listed", "the guest was told this address under a name that no entry names"
    INSIDE_PRIVATE = "inside_private", "the destination is a private address, and no entry opens it"
    INSIDE_NEVER_BY_NAME = (
        "inside_never_by_name",
        "the destination is loopback, link-local, metadata, the host or the like: only its own address entry opens it",
    )

    # Denied, whatever the policy says.
    MULTICAST = "multicast", "multicast and broadcast are not relayed"
    QUIC = "quic", "QUIC is refused so that clients fall back to TCP at once"
    QTYPE_REFUSED = "qtype_refused", "DNS questions of this type are not forwarded"
    PTR_NOT_LEASED = "ptr_not_leased", "reverse lookups are answered only for addresses the guest was told"
    NAME_MALFORMED = "name_malformed", "the host name is not one: its bytes or its form are not allowed"
    QUERY_MALFORMED = "query_malformed", "the DNS message cannot be read in exactly one way"
    HELLO_MALFORMED = "hello_malformed", "the TLS ClientHello cannot be read in exactly one way"
    REQUEST_MALFORMED = "request_malformed", "the HTTP request cannot be read in exactly one way"
    HOST_MISMATCH = "host_mismatch", "the request is for another host or port than its connection"
    CONNECT_REFUSED = "connect_refused", "CONNECT is not relayed"
    UPGRADE_REFUSED = "upgrade_refused", "only WebSocket upgrades are relayed, and only whole handshakes"
    NAME_UNRESOLVED = (
        "name_unresolved",
        "the name does not resolve, and the guest's own address is not taken for it",
    )
    MIXED_ANSWER = (
        "mixed_answer",
        "the name resolves to public and inside addresses, and the inside ones are not dialled",
    )
    NAME_LATE = "name_late", "the connection's first message was not complete in time"
    REFUSED_BEFORE = "refused_before", "the same was refused in the last 10 s, and the rules still refuse it"
    LOOP = "loop", "the connection would lead back to microagent itself"
    MINTS_EXCEEDED = "mints_exceeded", "certificates for new names were made too fast; try again in a second"
    NEW_NAMES_EXCEEDED = (
        "new_names_exceeded",
        "too many names were new under one domain in a minute, as in a DNS tunnel; older ones still resolve",
    )
    LIMIT_REACHED = "limit_reached", "the workspace has reached a limit"
    POLICY_CHANGED = "policy_changed", "the policy changed while the flow was open, and no longer allows it"
    POLICY_UNREADABLE = "policy_unreadable", "the policy cannot be read, so everything is denied"
    AUDIT_UNWRITABLE = "audit_unwritable", "the record cannot be written, so nothing new is allowed"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was decided, and all that a record, a 403 or `policy explain` says about it.

    `rule` decided it, None where no entry did. `host` and `address` are what it was decided for, "" where there is
    none. `address_class` is an AddressClass, "" without an address. `internal`: denied, and the address is inside.
    `would_permit` names the entries that turn this denial into an allow ("allow: 10.0.0.5"; several joined by
    ", "), "" where none can.
    """

    action: Action
    reason: Reason
    rule: Entry | None = None
    host: str = ""
    address: str = ""
    address_class: str = ""
    tls: Tls = Tls.NONE
    unlisted: bool = False
    internal: bool = False
    signals: tuple[str, ...] = ()
    would_permit: str = ""

    @property
    def allowed(self) -> bool:
        """Whether it may happen."""
        return self.action is Action.ALLOW


def refusal(reason: Reason, host: str = "", address: str = "", signals: tuple[str, ...] = ()) -> Verdict:
    """The denial of something that never became a question: malformed bytes, a limit, another host's request."""
    return Verdict(Action.DENY, reason, host=host, address=address, signals=(*signals, Signal.DENIED))
