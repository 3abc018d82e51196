"""A change of policy as the API carries it: `{"op": …}` to a function from the old `Egress` to the new. Pure.

{"op": "allow" | "passthrough", "entry": TEXT, "seconds": N or absent}
{"op": "revoke", "entry": TEXT}
{"op": "set", "entries": [{"verb", "entry", "origin"}, …]}
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from microagent.errors import ApiError
from microagent.policy.model import Verb
from microagent.policy.parse import entries_from_json, parse_entry
from microagent.workspace.egress import Egress, vetted

# Longer than any run; a grant for longer is an entry.
LONGEST_GRANT = 30 * 24 * 3600


def change_from_json(body: Any, origin: str, now: datetime) -> Callable[[Egress], Egress]:
    """The change that `body` asks for; its new entries say `origin`, unless they bring their own.

    Raises ApiError `invalid` for a body that is none, and PolicyError for entries that are none.
    """
    match body:
        case {"op": "allow" | "passthrough" as op, "entry": str(text), **rest} if not rest.keys() - {"seconds"}:
            entry = parse_entry(Verb(op), text, origin)
            until = None if rest.get("seconds") is None else now + _length(rest["seconds"])
            return lambda egress: egress.with_entry(entry, until)
        case {"op": "revoke", "entry": str(text), **rest} if not rest:
            return lambda egress: egress.without(text)
        case {"op": "set", "entries": list(items), **rest} if not rest:
            entries = vetted(entries_from_json(items))
            return lambda egress: egress.with_entries(entries)
    raise ApiError("invalid", "not a change of policy", "its forms are allow, passthrough, revoke and set")


def _length(seconds: object) -> timedelta:
    if type(seconds) is not int or not 0 < seconds <= LONGEST_GRANT:
        hint = "leave the time out for an entry that stays until it is revoked"
        raise ApiError("invalid", f"a grant lasts from 1 s to {LONGEST_GRANT // 86400} days, not {seconds!r} s", hint)
    return timedelta(seconds=seconds)
