"""Reads `egress.jsonl`: filters, and follows while it grows.

The last line may be torn while the mediator writes it; it is left for the next look. A whole line that is not a
record is reported in its place as `{"event": "unreadable_line", "line": N, …}`, and no filter hides it.
"""

import json
import re
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from microagent.errors import ApiError

UNREADABLE = "unreadable_line"
_REFUSALS = frozenset({"egress_cap_exceeded", "egress_loop_guard"})
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"([0-9]{1,9})([smhd])\Z")
_HOST_FIELDS = ("host", "qname", "dst")


@dataclass(frozen=True, slots=True)
class Filter:
    """Which records to show; every field that is set must match. `since` is RFC 3339 as in the records."""

    denied: bool = False
    event: str = ""
    host: str = ""
    since: str = ""
    id: str = ""

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
        )


def filter_from_query(query: Mapping[str, str], now: datetime) -> Filter:
    """The filter in `?denied=1&event=…&host=…&since=10m&id=…`; ApiError `invalid` for a `since` that is none."""
    since = query.get("since", "")
    start = (now.astimezone(UTC) - duration(since)).strftime("%Y-%m-%dT%H:%M:%S.%fZ") if since else ""
    return Filter(query.get("denied") == "1", query.get("event", ""), query.get("host", ""), start, query.get("id", ""))


def duration(text: str) -> timedelta:
    """`90s`, `10m`, `2h`, `7d`; ApiError `invalid` for anything else."""
    found = _DURATION.match(text)
    if not found:
        raise ApiError("invalid", f"{text!r} is not a duration", "write a number and s, m, h or d, such as 10m")
    return timedelta(seconds=int(found[1]) * _UNITS[found[2]])


def is_denial(record: Mapping[str, Any]) -> bool:
    """Whether the record says that something a guest asked for by name or address was refused."""
    event = str(record.get("event", ""))
    return event.endswith("_deny") or event in _REFUSALS


def host_of(record: Mapping[str, Any]) -> str:
    """What the guest asked for: the host, else the query's name, else the destination address."""
    return next((str(record[key]) for key in _HOST_FIELDS if record.get(key)), "")


def read(path: Path, wanted: Filter, limit: int | None = None) -> Iterator[dict[str, Any]]:
    """The records of a log, oldest first; with a limit the last so many. No log yet means no records."""
    with Tail(path) as tail:
        matching = (record for record in tail.records() if wanted(record))
        yield from matching if limit is None else deque(matching, maxlen=limit)


class Tail:
    """A log that is read to its present end, again and again, while it grows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("rb") if path.exists() else None
        self._torn = b""
        self._line = 0

    def __enter__(self) -> "Tail":
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            self._file.close()

    def records(self) -> Iterator[dict[str, Any]]:
        """The whole lines since the last call."""
        if self._file is None and self._path.exists():
            self._file = self._path.open("rb")
        for piece in self._file or ():
            if not piece.endswith(b"\n"):
                self._torn += piece
                return
            self._line += 1
            yield _record(self._torn + piece, self._line)
            self._torn = b""


def _record(line: bytes, number: int) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict):
        return {"v": 1, "event": UNREADABLE, "line": number, "bytes": len(line)}
    return record


def _host_matches(record: Mapping[str, Any], pattern: str) -> bool:
    return any(fnmatchcase(str(record.get(key, "")).lower(), pattern) for key in _HOST_FIELDS)
