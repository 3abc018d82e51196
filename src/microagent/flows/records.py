"""Records out of verdicts: the fields that every flow's decision carries, in one place."""

from dataclasses import replace
from typing import Any

from microagent.audit.record import Event, Record
from microagent.decision.verdict import Reason, Signal, Tls, Verdict, refusal
from microagent.policy.model import Policy

# A policy may hold 100 000 entries; a record is a line.
_SHOWN_ENTRIES = 20


def decision(verdict: Verdict, *, dst: str, proto: str, flow: str, dialed: str = "") -> Record:
    """The record of a TCP or UDP decision; its id is the flow's own."""
    fields: dict[str, Any] = {
        "host": verdict.host,
        "dst": dst,
        "dialed": dialed,
        "proto": proto,
        "tls": str(verdict.tls) if verdict.allowed else "",
        "reason": str(verdict.reason),
        "rule": rule(verdict),
        "signal": ",".join(verdict.signals),
        "flow": flow,
    }
    if verdict.allowed:
        if verdict.unlisted:
            fields["unlisted"] = True
        return Record(Event.UDP_ALLOW if proto == "udp" else Event.ALLOW, fields)
    fields["hint"] = hint(verdict)
    if verdict.internal:
        fields["internal"] = True
    looped = verdict.reason is Reason.LOOP
    return Record(Event.LOOP_GUARD if looped else _DENIALS[proto == "udp", verdict.internal], fields, ident=flow)


_DENIALS = {
    (False, False): Event.DENY,
    (False, True): Event.INTERNAL_DENY,
    (True, False): Event.UDP_DENY,
    (True, True): Event.UDP_INTERNAL_DENY,
}


def request_denial(
    reason: Reason, words: str, *, host: str, dst: str, flow: str, ident: str, asked: tuple[str, str] | None
) -> Record:
    """A request that is refused within an allowed connection; `asked` are its method and path, where it has any.

    `words` say what is wrong with one that is malformed, and what would permit any other.
    """
    fields: dict[str, Any] = {"host": host, "dst": dst, "proto": "http", "reason": str(reason)}
    fields["error" if reason is Reason.REQUEST_MALFORMED else "hint"] = words
    if asked:
        fields["method"], fields["path"] = asked
    return Record(Event.DENY, {**fields, "signal": str(Signal.DENIED), "flow": flow}, ident=ident)


def lookup(verdict: Verdict, *, flow: str) -> Record:
    """A name that is about to be looked up for a connection, where the guest has not asked for it by DNS."""
    fields: dict[str, Any] = {"qname": verdict.host, "qtype": "A", "reason": str(verdict.reason), "rule": rule(verdict)}
    if verdict.unlisted:
        fields["unlisted"] = True
    return Record(Event.DNS_ALLOW, {**fields, "flow": flow})


def close(verdict: Verdict | None, *, dst: str, proto: str, flow: str, why: str, opaque: bool) -> Record:
    """The end of a connection; what it carried and how long is still to be filled in."""
    fields: dict[str, Any] = {
        "host": verdict.host if verdict else "",
        "dst": dst,
        "proto": proto,
        "tls": str(verdict.tls if verdict else Tls.NONE),
        "why": why,
        "flow": flow,
    }
    if opaque:
        fields["opaque"] = True
    return Record(Event.CLOSE, fields)


def cap_exceeded(host: str, dst: str, flow: str, limit: str, most: int, reason: Reason) -> Record:
    """A connection that ends, or cannot begin, for a limit of the operator's."""
    fields = {"host": host, "dst": dst, "limit": limit, "max": most, "reason": str(reason), "flow": flow}
    return Record(Event.CAP_EXCEEDED, fields)


def upstream_error(host: str, dst: str, flow: str, error: str, *, asked: bool) -> Record:
    """A server that interception fails with; `asked`: it wants a client certificate, which only the guest may have.

    With `asked` and without an `error` the connection goes on, and the server has to do without one.
    """
    hint = f"the policy entry `passthrough: {host}` relays this server untouched, for the guest to judge"
    if asked:
        error = "the server asks for a client certificate" + (f": {error}" if error else "")
        hint = f"the policy entry `passthrough: {host}` lets the guest show one of its own"
    return Record(Event.UPSTREAM_ERROR, {"host": host, "dst": dst, "error": error, "hint": hint, "flow": flow})


def handshake_error(host: str, dst: str, flow: str, error: str) -> Record:
    """A guest that does not take the certificate minted for `host`, as far as one can see."""
    hint = f"a client that pins certificates needs the policy entry `passthrough: {host}`"
    return Record(Event.HANDSHAKE_ERROR, {"host": host, "dst": dst, "error": error, "hint": hint, "flow": flow})


def policy_change(who: str, before: Policy, after: Policy) -> Record:
    """Who changed the policy, its digests before and after, and the entries that came and went (the first few)."""
    old, new = ({str(entry): None for entry in policy.entries} for policy in (before, after))
    added = [text for text in new if text not in old]
    removed = [text for text in old if text not in new]
    fields: dict[str, Any] = {
        "who": who,
        "old": before.digest,
        "new": after.digest,
        "added": added[:_SHOWN_ENTRIES],
        "removed": removed[:_SHOWN_ENTRIES],
        "added_count": len(added),
        "removed_count": len(removed),
    }
    return Record(Event.POLICY_CHANGE, fields)


def rule(verdict: Verdict) -> str:
    """The entry that decided, as the policy file would have it; empty when none did."""
    return str(verdict.rule) if verdict.rule else ""


def hint(verdict: Verdict) -> str:
    """What would permit it, for the guest's error and the record."""
    return f"the policy entry `{verdict.would_permit}` would permit it" if verdict.would_permit else ""


def refused_by_kernel(verdict: Verdict) -> Verdict:
    """The verdict on a packet that the rules refused: the engine's own; or the policy has changed in between."""
    if not verdict.allowed:
        return verdict
    return replace(refusal(Reason.REFUSED_BEFORE, verdict.host, verdict.address), signals=verdict.signals)


def more_refused(proto: str, packets: int, *, internal: bool) -> Record:
    """Refusals by the kernel that have no record each, because there were too many: as many as it has counted."""
    return refused_together(_DENIALS[proto == "udp", internal], proto, packets, "", internal=internal)


def refused_together(event: Event, proto: str, count: int, reason: str, *, internal: bool) -> Record:
    """Denials of one kind that have no record each, because there were too many."""
    fields: dict[str, Any] = {"proto": proto, "count": count, "aggregated": True, "reason": reason}
    fields["signal"] = str(Signal.DENIED)
    if internal:
        fields["internal"] = True
    return Record(event, fields)
