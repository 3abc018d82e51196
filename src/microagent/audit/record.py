"""What a record is: its events, and how one becomes a line of egress.jsonl (contract 10). Pure."""

import json
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

VERSION = 1

# Nothing that a guest or a server wrote makes a field longer than this; a name is at most 253.
MAX_TEXT = 256

_encode = json.JSONEncoder(ensure_ascii=True, separators=(",", ":")).encode


class Event(StrEnum):
    """Every event that a record may carry; `audit.schema` says with which fields."""

    ALLOW = "egress_allow"
    CLOSE = "egress_close"
    DENY = "egress_deny"
    INTERNAL_DENY = "egress_internal_deny"
    REQUEST = "egress_request"
    DNS_ALLOW = "egress_dns_allow"
    DNS_DENY = "egress_dns_deny"
    DNS_ERROR = "egress_dns_error"
    UDP_ALLOW = "egress_udp_allow"
    UDP_CLOSE = "egress_udp_close"
    UDP_DENY = "egress_udp_deny"
    UDP_INTERNAL_DENY = "egress_udp_internal_deny"
    HANDSHAKE_ERROR = "egress_mitm_handshake_error"
    UPSTREAM_ERROR = "egress_mitm_upstream_error"
    DIAL_ERROR = "egress_dial_error"
    CAP_EXCEEDED = "egress_cap_exceeded"
    LOOP_GUARD = "egress_loop_guard"
    DROP = "egress_drop"
    LISTEN = "egress_listen"
    MEDIATOR_UP = "mediator_up"
    MEDIATOR_DOWN = "mediator_down"
    GAP = "gap"
    POLICY_CHANGE = "policy_change"
    ENFORCEMENT_VERIFIED = "enforcement_verified"


@dataclass(frozen=True, slots=True)
class Record:
    """One thing that happened, or is about to: `fields` hold JSON values, absent where empty.

    `ident` is the decision's id where somebody was told it (a 403 body, an EDE text); empty: the journal makes one.
    """

    event: Event
    fields: dict[str, Any] = field(default_factory=dict)
    ident: str = ""


def timestamp(now: datetime) -> str:
    """RFC 3339, UTC, microseconds."""
    return now.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def body(record: Record, *, ts: str, seq: int, ident: str, workspace: str) -> bytes:
    """The record as a JSON object without its chain: ASCII, one line, no text longer than MAX_TEXT."""
    common = {
        "v": VERSION,
        "ts": ts,
        "seq": seq,
        "id": ident,
        "event": str(record.event),
        "workspace": workspace,
    }
    fields = {name: value for name, value in record.fields.items() if value not in ("", None, (), [])}
    if _cut(fields):
        fields["truncated"] = True
    return _encode(common | fields).encode("ascii")


def _cut(fields: dict[str, Any]) -> bool:
    """Shorten what is too long, also inside of lists, in place; True when something was."""
    found = False
    for name, value in fields.items():
        if isinstance(value, str) and len(value) > MAX_TEXT:
            fields[name] = value[:MAX_TEXT]
            found = True
        elif isinstance(value, list | tuple) and any(isinstance(part, str) and len(part) > MAX_TEXT for part in value):
            fields[name] = [part[:MAX_TEXT] if isinstance(part, str) else part for part in value]
            found = True
    return found
