"""A workspace's mode and policy, and how the policy changes while it lives. Pure: the time is an argument.

An entry comes from a flag or a file and stays until it is revoked, or it is a grant and ends by itself. Every change
gives a new `Egress`; whoever holds the old one sees nothing of it.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from microagent.errors import ApiError, PolicyError, Problem
from microagent.policy.model import Entry, Mode, Policy, Verb
from microagent.policy.parse import entries_from_json, entries_to_json, parse_entry


@dataclass(frozen=True, slots=True)
class Grant:
    """An entry that ends by itself at `until`, an aware time."""

    entry: Entry
    until: datetime


@dataclass(frozen=True, slots=True)
class Egress:
    """The mode, the entries that stay (flags and file united), and the grants; each entry with its origin."""

    mode: Mode = Mode.GUARDED
    entries: tuple[Entry, ...] = ()
    grants: tuple[Grant, ...] = ()

    @property
    def policy(self) -> Policy:
        """What the engine is given. Grants are in it until `without_grants` drops them."""
        return Policy(self.entries + tuple(grant.entry for grant in self.grants))

    def without_grants(self, ended: Collection[Grant]) -> "Egress":
        """The same without the grants that have ended."""
        if not ended:
            return self
        live = tuple(grant for grant in self.grants if grant not in ended)
        return self if len(live) == len(self.grants) else replace(self, grants=live)

    def with_entry(self, entry: Entry, until: datetime | None = None) -> "Egress":
        """One entry more. One that is there already stays as it is, unless the new one lives longer.

        ApiError `conflict` when it would change nothing because a passthrough entry of the same name beats it.
        """
        self._check_on()
        if entry.verb is Verb.ALLOW and self._holds(Verb.PASSTHROUGH, entry.text):
            what = f"{entry.text} is a passthrough entry, which beats an allow entry"
            raise ApiError("conflict", what, f"revoke {entry.text} first, then allow it")
        same = _is(entry.verb, entry.text)
        if any(map(same, self.entries)):
            return self
        others = tuple(grant for grant in self.grants if not same(grant.entry))
        if until is None:
            return replace(self, entries=(*self.entries, entry), grants=others)
        if any(grant.until >= until for grant in self.grants if same(grant.entry)):
            return self
        return replace(self, grants=(*others, Grant(entry, until)))

    def without(self, text: str) -> "Egress":
        """Without the entries and grants that say `text`, however it is spelled; allow and passthrough alike.

        PolicyError when `text` can be no entry, ApiError `not_found` when there is none such: the hint names the
        entry that covers it.
        """
        self._check_on()
        wanted = parse_entry(Verb.ALLOW, text, "")
        kept = tuple(entry for entry in self.entries if entry.text != wanted.text)
        grants = tuple(grant for grant in self.grants if grant.entry.text != wanted.text)
        if len(kept) + len(grants) == len(self.entries) + len(self.grants):
            raise ApiError("not_found", f"the policy has no entry {wanted.text}", self._covering(wanted))
        return replace(self, entries=kept, grants=grants)

    def with_entries(self, entries: tuple[Entry, ...]) -> "Egress":
        """These entries instead of all entries and grants."""
        self._check_on()
        return replace(self, entries=entries, grants=())

    def to_json(self) -> dict[str, Any]:
        """`mode` and `entries`; a grant is an entry with `until`, RFC 3339."""
        granted = entries_to_json(grant.entry for grant in self.grants)
        ends = [f"{grant.until.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}" for grant in self.grants]
        entries = entries_to_json(self.entries) + [
            item | {"until": end} for item, end in zip(granted, ends, strict=True)
        ]
        return {"mode": self.mode.value, "entries": entries}

    def _check_on(self) -> None:
        if self.mode is Mode.OFF:
            hint = "create it anew with --egress guarded or strict"
            raise ApiError("conflict", "egress is off for this workspace, so no policy can apply", hint)

    def _holds(self, verb: Verb, text: str) -> bool:
        return any(map(_is(verb, text), self.policy.entries))

    def _covering(self, wanted: Entry) -> str:
        policy = self.policy
        if wanted.network is not None:
            found = policy.match_address(wanted.network.network_address)
        else:
            found = policy.match_name(wanted.text.removeprefix("."))
        return f"{found.text} is what allows it" if found else "`microagent policy show NAME` lists them"


def from_json(value: object) -> Egress:
    """What `to_json` gave. ValueError or PolicyError on anything else."""
    if not isinstance(value, dict) or set(value) - {"mode", "entries"}:
        raise ValueError("not an object with `mode` and `entries`")
    mode_text, items = value.get("mode", ""), value.get("entries", [])
    if not isinstance(mode_text, str):
        raise ValueError("mode: not a string")
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise ValueError("entries: not a list of objects")
    mode = Mode.parse(mode_text)
    granted = [item for item in items if "until" in item]
    grants = tuple(
        Grant(entry, _time(item["until"])) for item, entry in zip(granted, entries_from_json(granted), strict=True)
    )
    if mode is Mode.OFF and items:
        raise ValueError("mode off mediates nothing, so entries cannot apply")
    return Egress(mode, entries_from_json(item for item in items if "until" not in item), grants)


def vetted(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    """Entries from somewhere that is not the store, judged as if they were typed. PolicyError with all that is wrong.

    The store's own are checked for spelling alone, since they were judged when they came.
    """
    found: list[Entry] = []
    problems: list[Problem] = []
    for entry in entries:
        try:
            found.append(parse_entry(entry.verb, entry.text, entry.origin))
        except PolicyError as error:
            problems += error.problems
    if problems:
        raise PolicyError(tuple(problems))
    return tuple(found)


def _is(verb: Verb, text: str) -> Callable[[Entry], bool]:
    return lambda entry: entry.verb is verb and entry.text == text


def _time(value: object) -> datetime:
    if not isinstance(value, str):
        raise ValueError("until: not a time")
    time = datetime.fromisoformat(value)
    if time.tzinfo is None:
        raise ValueError("until: a time without its zone")
    try:
        return time.astimezone(UTC)
    except OverflowError:
        raise ValueError("until: not a time in UTC") from None
