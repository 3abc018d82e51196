"""What a record is: its events, and how one becomes a line of egress.jsonl (contract 10). Pure."""

import json
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from json.encoder import encode_basestring_ascii as _quote
from math import isfinite
from typing import Any, Final

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
    """RFC 3339, UTC, microseconds; `now` is in UTC."""
    return now.isoformat(timespec="microseconds")[:26] + "Z"


def body(record: Record, *, ts: str, seq: int, ident: str, workspace: str) -> bytes:
    """The record as a JSON object without its chain: ASCII, one line, no text longer than MAX_TEXT.

    Written out by hand, since a request waits for it: tests/unit/audit holds it to what `json.dumps` says.
    """
    head = f'{{"v":{VERSION},"ts":{_quote(ts)},"seq":{seq},"id":{_quote(ident)},"event":"{record.event.value}"'
    parts = [f'{head},"workspace":{_quote(workspace)}']
    truncated = False
    for name, value in record.fields.items():
        kind = type(value)
        if kind is str:
            if len(value) > MAX_TEXT:
                value, truncated = value[:MAX_TEXT], True
            if value:
                parts.append(f"{_quote(name)}:{_quote(value)}")
        elif kind is int:
            parts.append(f"{_quote(name)}:{value}")
        elif kind is float and isfinite(value):
            parts.append(f"{_quote(name)}:{value!r}")
        elif value not in _EMPTY:
            short = _cut(value)
            truncated |= short is not value
            parts.append(f"{_quote(name)}:{_encode(short)}")
    if truncated:
        parts.append('"truncated":true')
    return (",".join(parts) + "}").encode("ascii")


_EMPTY: Final[tuple[object, ...]] = ("", None, (), [])


def _cut(value: Any) -> Any:
    """The value itself, or a shorter one where it is too long or holds text that is."""
    if isinstance(value, str) and len(value) > MAX_TEXT:
        return value[:MAX_TEXT]
    if isinstance(value, list | tuple) and any(isinstance(part, str) and len(part) > MAX_TEXT for part in value):
        return [part[:MAX_TEXT] if isinstance(part, str) else part for part in value]
    return value
