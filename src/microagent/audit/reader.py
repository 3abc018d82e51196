"""Records out of blocks of lines, and which of them are wanted.

A whole line that does not look like a record is reported in its place as an `unreadable_line` with `file`, `offset`
and `bytes`, and no filter hides it. Whether each line is what was written is for `audit verify` to say.
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

from microagent.audit import logfile
from microagent.audit.record import Event, timestamp
from microagent.errors import ApiError

UNREADABLE = "unreadable_line"
_REFUSALS = frozenset({"egress_cap_exceeded", "egress_loop_guard"})
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_PART = re.compile(r"([0-9]{1,6})([smhdw])")
_DURATION = re.compile(rf"(?:{_PART.pattern}){{1,5}}\Z")
_CLOCK = re.compile(r"[0-9]{2}:[0-9]{2}")
_EVENTS = frozenset(str(event) for event in Event)
_HOST_FIELDS = ("host", "qname", "dst")
# No record is longer (audit.record cuts every text); what is, is not read into memory as one.
_LONGEST = 1 << 16
# One of these is in every line of which `is_denial` is true, and of every kernel drop.
_DENIED_NEEDLES = (b'_deny"', *(f'{event}"'.encode() for event in sorted(_REFUSALS)), b'egress_drop"')
# A name has 253 bytes at most; each part of a pattern costs a look at each of a name's.
_LONGEST_PATTERN = 256
_WORD = re.compile(r"[A-Za-z0-9_-]+\Z")


@dataclass(frozen=True, slots=True)
class Filter:
    """Which records to show; every field that is set must match. `since` is RFC 3339 as in the records.

    `flow` takes the records of one flow, and the one of that id.
    """

    denied: bool = False
    event: str = ""
    host: str = ""
    since: str = ""
    id: str = ""
    flow: str = ""

    @property
    def needles(self) -> tuple[bytes, ...]:
        """One of these bytes is in every line that matches; empty when nothing is known of it."""
        for word in (self.id, self.flow, self.event):
            if _WORD.match(word):
                return (word.encode(),)
        return _DENIED_NEEDLES if self.denied else ()

    def __call__(self, record: Mapping[str, Any]) -> bool:
        """Whether the record is wanted."""
        if record.get("event") == UNREADABLE:
            return True
        return (
            (not self.denied or is_denial(record) or record.get("event") == "egress_drop")
            and (not self.event or record.get("event") == self.event)
            and (not self.host or _host_matches(record, self.host.lower()))
            and (not self.since or str(record.get("ts", "")) >= self.since)
            and (not self.id or record.get("id") == self.id)
            and (not self.flow or self.flow in (record.get("flow"), record.get("id")))
        )


def filter_from_query(query: Mapping[str, str], now: datetime) -> Filter:
    """The filter in `?denied=1&event=…&host=…&since=10m&id=…&flow=…`.

    ApiError `invalid` for a `since` that is no time, and for an event that there is not.
    """
    words = {key: query.get(key, "") for key in ("event", "host", "id", "flow")}
    if words["event"] and words["event"] not in _EVENTS:
        near = get_close_matches(words["event"], _EVENTS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"the events are {', '.join(sorted(_EVENTS))}"
        raise ApiError("invalid", f"there is no event {words['event']!r}", hint)
    if len(words["host"]) > _LONGEST_PATTERN:
        raise ApiError("invalid", "the host is longer than any name")
    start = timestamp(moment(query["since"], now.astimezone(UTC))) if "since" in query else ""
    return Filter(denied=query.get("denied") == "1", since=start, **words)


def moment(text: str, now: datetime) -> datetime:
    """A time in the past: a duration before `now`, or a time in UTC as records have it, whole or in part.

    `10m`, `2h30m`, `2026-01-31T15:04:05Z`, `2026-01-31`, `15:04`. ApiError `invalid` for anything else.
    """
    with suppress(ApiError, OverflowError):
        return now - duration(text)
    if _CLOCK.match(text):
        with suppress(ValueError):
            today = datetime.combine(now.date(), time.fromisoformat(text.removesuffix("Z")), UTC)
            return today if today <= now else today - timedelta(days=1)
    try:
        found = datetime.fromisoformat(text)
        return found.replace(tzinfo=found.tzinfo or UTC).astimezone(UTC)
    except (ValueError, OverflowError):
        hint = "write 10m, 2h30m or 7d, or a time in UTC: 15:04, 2026-01-31, 2026-01-31T15:04:05Z"
        raise ApiError("invalid", f"{text!r} is neither a duration nor a time", hint) from None


def duration(text: str) -> timedelta:
    """`90s`, `10m`, `2h30m`, `7d`, `1w`; ApiError `invalid` for anything else."""
    if not _DURATION.match(text):
        raise ApiError("invalid", f"{text!r} is not a duration", "write a number and s, m, h, d or w, such as 10m")
    return timedelta(seconds=sum(int(count) * _UNITS[unit] for count, unit in _PART.findall(text)))


def is_denial(record: Mapping[str, Any]) -> bool:
    """Whether the record says that something a guest asked for by name or address was refused."""
    event = str(record.get("event", ""))
    return event.endswith("_deny") or event in _REFUSALS


def only_answers(record: Mapping[str, Any]) -> bool:
    """Whether the record says what came back to a question that has a record already, and so counts no other.

    What the mediator answers by itself (PTR of a leased address, HTTPS and SVCB) is asked of nobody, and has this one.
    """
    here = record.get("reason") == "ptr_leased" or record.get("qtype") in ("HTTPS", "SVCB")
    return "rcode" in record and not here


def host_of(record: Mapping[str, Any]) -> str:
    """What the guest asked for: the host, else the query's name, else the destination address."""
    return next((str(record[key]) for key in _HOST_FIELDS if record.get(key)), "")


def records_in(block: logfile.Block, wanted: Filter) -> Iterator[dict[str, Any]]:
    """The records of a block that are wanted, in their order."""
    needles = wanted.needles
    if needles and not any(needle in block.data for needle in needles) and _looks_whole(block.data):
        return
    offset = block.offset
    for line in block.data.removesuffix(b"\n").split(b"\n"):
        # Reading a line as JSON costs fifty times what looking for a word in it does.
        if not needles or any(needle in line for needle in needles) or not _looks_like_one(line):
            record = _record(line, block.file, offset)
            if wanted(record):
                yield record
        offset += len(line) + 1


def _looks_whole(data: bytes) -> bool:
    """Whether every line begins and ends as a record does."""
    return data.startswith(b"{") and data.count(b"\n") == data.count(b"}\n") == data.count(b"\n{") + 1


def _looks_like_one(line: bytes) -> bool:
    return line.startswith(b"{") and line.endswith(b"}")


def time_of_first(block: logfile.Block) -> str:
    """The time of the block's first record; "~", which is after all times, when it has none."""
    return str(_record(block.data.partition(b"\n")[0], block.file, block.offset).get("ts", "~"))


def _record(line: bytes, file: str, offset: int) -> dict[str, Any]:
    record = members(line)
    return unreadable(file, offset, len(line)) if record is None else record


def members(line: bytes) -> dict[str, Any] | None:
    """The members of a line's JSON object; None when it is none, whatever it looks like from outside."""
    try:
        record = json.loads(line) if len(line) <= _LONGEST else None
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def unreadable(file: str, offset: int, length: int) -> dict[str, Any]:
    """What stands for bytes that are no record."""
    return {"v": 1, "event": UNREADABLE, "file": file, "offset": offset, "bytes": length}


def _host_matches(record: Mapping[str, Any], pattern: str) -> bool:
    """`.x` is x and all names below it, as in a policy; `*`, `?` and `[…]` as in file names. Ports may be left out."""
    pattern = pattern.removesuffix(".")
    patterns = (pattern[1:], f"*{pattern}") if pattern.startswith(".") else (pattern,)
    asked = [str(record.get(key, "")).lower() for key in _HOST_FIELDS]
    asked.append(str(record.get("dst", "")).rpartition(":")[0])
    return any(fnmatchcase(host, one) for host in asked for one in patterns)
