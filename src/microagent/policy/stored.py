"""Entries to JSON and back, for the agent's store and for the mediator.

Apart from `parse` because the mediator comes in here, and must not pay for YAML, idna or the public suffix list.
"""

from collections.abc import Iterable, Mapping
from ipaddress import ip_network
from typing import Any

from microagent.errors import Malformed, PolicyError, Problem
from microagent.policy.model import Entry, Kind, Verb
from microagent.policy.names import normalize_untrusted


def entries_to_json(entries: Iterable[Entry]) -> list[dict[str, str]]:
    """One object an entry: `verb`, `entry`, `origin`, and `warning` where there is one."""
    return [
        {"verb": e.verb.value, "entry": e.text, "origin": e.origin} | ({"warning": e.warning} if e.warning else {})
        for e in entries
    ]


def entries_from_json(stored: Iterable[Mapping[str, Any]]) -> tuple[Entry, ...]:
    """What `entries_to_json` wrote. Raises PolicyError on what it cannot have written.

    The spelling is checked; what an entry may be about was checked when it was made.
    """
    return tuple(map(_entry, stored))


def _entry(item: Mapping[str, Any]) -> Entry:
    try:
        verb, text = Verb(item["verb"]), item["entry"]
        origin, warning = item.get("origin", ""), item.get("warning", "")
        if not (isinstance(text, str) and isinstance(origin, str) and isinstance(warning, str)):
            raise TypeError("an entry's parts are strings")
        if ":" in text or text[-1:].isdigit():
            return _address(verb, text, origin, warning)
        return _name(verb, text, origin, warning)
    except (AttributeError, KeyError, TypeError, ValueError, Malformed):
        problem = Problem(f"{item!r} is not a stored entry", "the store is damaged or was edited; set the policy anew")
        raise PolicyError((problem,)) from None


def _address(verb: Verb, text: str, origin: str, warning: str) -> Entry:
    try:
        network = ip_network(text)
    except ValueError:
        return _name(verb, text, origin, warning)  # a name may end in a digit, too
    canonical = str(network.network_address) if network.num_addresses == 1 else str(network)
    if text != canonical:
        raise ValueError("not canonical")
    return Entry(verb, Kind.ADDRESS, text, origin, network, warning)


def _name(verb: Verb, text: str, origin: str, warning: str) -> Entry:
    kind, base = (Kind.SUFFIX, text[1:]) if text.startswith(".") else (Kind.EXACT, text)
    if normalize_untrusted(base.encode("ascii")) != base:
        raise ValueError("not canonical")
    return Entry(verb, kind, text, origin, None, warning)
