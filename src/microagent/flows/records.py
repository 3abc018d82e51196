"""Records out of verdicts: the fields that every flow's decision carries, in one place."""

from dataclasses import replace
from typing import Any

from microagent.audit.record import Event, Record
from microagent.decision.verdict import Reason, Verdict, refusal
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
    return Record(_DENIALS[proto == "udp", verdict.internal], fields, ident=flow)


_DENIALS = {
    (False, False): Event.DENY,
    (False, True): Event.INTERNAL_DENY,
    (True, False): Event.UDP_DENY,
    (True, True): Event.UDP_INTERNAL_DENY,
}


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


def more_refused(proto: str, packets: int, *, internal: bool, reason: str = "") -> Record:
    """Refusals that have no record each, because there were too many: counted exactly, by the kernel or by us."""
    fields: dict[str, Any] = {"proto": proto, "count": packets, "aggregated": True, "reason": reason}
    if internal:
        fields["internal"] = True
    return Record(_DENIALS[proto == "udp", internal], fields)
