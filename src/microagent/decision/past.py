"""What the records say was asked: decision records back to the questions they answered.

In: the objects of egress.jsonl, as a reader yields them, from any version that had these fields. What cannot be read
back is left out, never guessed.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Final

from microagent.decision.engine import Proto, Question
from microagent.decision.verdict import Action, Reason
from microagent.errors import Malformed
from microagent.policy.addresses import Address
from microagent.policy.names import normalize_untrusted

Record = Mapping[str, Any]

_ACTIONS: Final = {
    "egress_allow": Action.ALLOW,
    "egress_deny": Action.DENY,
    "egress_internal_deny": Action.DENY,
    "egress_udp_allow": Action.ALLOW,
    "egress_udp_deny": Action.DENY,
    "egress_udp_internal_deny": Action.DENY,
    "egress_dns_allow": Action.ALLOW,
    "egress_dns_deny": Action.DENY,
}
# The reasons that a policy decides. The others (malformed bytes, a mismatch, a limit) no policy changes.
_BY_POLICY: Final = frozenset(
    {
        Reason.NAME_LISTED,
        Reason.ADDRESS_LISTED,
        Reason.LEASE_LISTED,
        Reason.NAME_UNLISTED,
        Reason.PUBLIC_UNLISTED,
        Reason.NAME_NOT_LISTED,
        Reason.ADDRESS_NOT_LISTED,
        Reason.LEASE_NOT_LISTED,
        Reason.INSIDE_PRIVATE,
        Reason.INSIDE_NEVER_BY_NAME,
    }
)


@dataclass(frozen=True, slots=True)
class Decided:
    """One past decision: what was asked, what came of it, when (RFC 3339)."""

    question: Question
    action: Action
    reason: Reason
    when: str


def past_decisions(records: Iterable[Record]) -> Iterator[Decided]:
    """The decisions among `records` that a policy could have changed, each once."""
    seen: set[str] = set()
    for record in records:
        decided = _decided(record)
        if decided is None:
            continue
        if decided.question.proto is Proto.DNS:  # an allowed question has two records: asked, and answered
            flow = str(record.get("flow", ""))
            if flow and flow in seen:
                continue
            seen.add(flow)
        yield decided


def past_question(record: Record) -> Question | None:
    """What was asked, where the record is of a decision that a policy makes; None for all others."""
    decided = _decided(record)
    return decided.question if decided else None


def _decided(record: Record) -> Decided | None:
    action = _ACTIONS.get(str(record.get("event")))
    try:
        reason = Reason(str(record.get("reason")))
        if action is None or reason not in _BY_POLICY:
            return None
        return Decided(_question(record), action, reason, str(record.get("ts", "")))
    except (Malformed, ValueError):
        return None


def _question(record: Record) -> Question:
    """ValueError or Malformed when the record does not hold one."""
    if "qname" in record:
        return Question(Proto.DNS, 53, name=_name(record["qname"]), qtype=str(record.get("qtype", "")))
    proto = Proto(str(record.get("proto")))
    _, port = endpoint(record.get("dst"))
    address, _ = endpoint(record.get("dialed") or record.get("dst"))
    host = record.get("host")
    # Of HTTP without a name the address that Host said is on record; it was decided as an address.
    name = _name(host) if host and host != str(address) else None
    if name is not None and proto in (Proto.TLS, Proto.HTTP):
        return Question(proto, port, name=name, address=address)
    return Question(proto, port, address=address, leased=(name,) if name else ())


def _name(value: object) -> str:
    return normalize_untrusted(str(value).encode("ascii"))


def endpoint(value: object) -> tuple[Address, int]:
    """`10.0.0.5:443` or `[2001:db8::7]:443`, as records write them. ValueError if it is neither."""
    host, _, port = str(value).rpartition(":")
    return ip_address(host.strip("[]")), int(port)
