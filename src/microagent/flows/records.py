"""Records out of verdicts: the fields that every flow's decision carries, in one place."""

from dataclasses import replace
from typing import Any

from microagent.audit.record import Event, Record
from microagent.decision.verdict import Reason, Verdict, refusal


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
        return Record(Event.ALLOW, fields)
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


def rule(verdict: Verdict) -> str:
    """The entry that decided, as the policy file would have it; empty when none did."""
    return str(verdict.rule) if verdict.rule else ""


def hint(verdict: Verdict) -> str:
    """What would permit it, for the guest's error and the record."""
    return f"the policy entry `{verdict.would_permit}` would permit it" if verdict.would_permit else ""


def refused_by_kernel(verdict: Verdict) -> Verdict:
    """The verdict on a packet that the rules refused: the engine's own, or that this kind is not relayed at all."""
    if not verdict.allowed:
        return verdict
    return replace(refusal(Reason.NOT_RELAYED, verdict.host, verdict.address), signals=verdict.signals)
