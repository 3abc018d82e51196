"""Records as a log holds them, for tests of what is learnt from them."""

from typing import Any

WHEN = "2026-01-02T03:04:05.000006Z"


def record(event: str, **fields: Any) -> dict[str, Any]:
    """One line of a log."""
    return {"v": 1, "ts": WHEN, "event": event, "workspace": "w", **fields}


def allowed(host: str, dialed: str = "203.0.113.5:443", proto: str = "tls", **fields: Any) -> dict[str, Any]:
    """The record of a connection that guarded mode allowed."""
    fields = {"reason": "public_unlisted", "unlisted": True} | fields
    return record("egress_allow", host=host, dst=dialed, dialed=dialed, proto=proto, **fields)
