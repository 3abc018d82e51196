"""What a guest reads instead of the answer it cannot have (contract 9): always JSON, always the same keys.

The guest's bytes appear in the body only, where JSON escapes all but ASCII; no header is made of them.
"""

import json
import re
from typing import Final

_REASONS: Final = {
    400: ("Bad Request", "bad_request"),
    403: ("Forbidden", "egress_denied"),
    502: ("Bad Gateway", "upstream_failed"),
    504: ("Gateway Timeout", "upstream_timeout"),
}
_DECISION: Final = re.compile(r"[0-9A-Za-z_.-]{1,64}")


def deny_body(status: int, host: str, reason: str, decision_id: str, hint: str) -> bytes:
    """Return the JSON object alone, as an HTTP/2 reply carries it; `status` is 400, 403, 502 or 504."""
    fields = {
        "error": _REASONS[status][1],
        "host": host,
        "reason": reason,
        "decision": decision_id,
        "hint": hint,
    }
    return json.dumps(fields).encode("ascii") + b"\n"


def deny_response(
    status: int, host: str, reason: str, decision_id: str, hint: str, *, head_only: bool = False
) -> bytes:
    """Return a whole HTTP/1.1 response after which the connection is closed; `head_only` answers HEAD.

    ValueError if `decision_id` is not one of ours: it is the one argument that goes into a header.
    """
    if _DECISION.fullmatch(decision_id) is None:
        raise ValueError(f"not a decision id: {decision_id!r}")
    body = deny_body(status, host, reason, decision_id, hint)
    head = (
        f"HTTP/1.1 {status} {_REASONS[status][0]}\r\n"
        "Content-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n"
        f"X-Microagent-Decision: {decision_id}\r\n"
        "X-Content-Type-Options: nosniff\r\n"
        "Cache-Control: no-store\r\n"
        "Connection: close\r\n"
        "\r\n"
    ).encode("ascii")
    return head if head_only else head + body
