"""What a workspace was refused, in one glance."""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from threading import Lock
from typing import Any

from microagent.api.messages import Denial, Denied
from microagent.audit.reader import UNREADABLE, Filter, host_of
from microagent.audit.tail import Tail, read

_HOSTS = 3
_LAST = 5
_DENIED = Filter(denied=True)


def denied(log: Path, since: str) -> Denied:
    """Refusals by name or address since a time, and the first few hosts. Packets the kernel dropped do not count."""
    count: Denied = {"count": 0, "hosts": []}
    for record in _refusals(read(log, Filter(denied=True, since=since))):
        _add(count, record)
    return count


class Refusals:
    """The same for a whole log that is asked again and again: each time only what is new is read."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._position = (0, 0)
        self._denied: Denied = {"count": 0, "hosts": []}
        self._last: deque[Denial] = deque(maxlen=_LAST)
        self._one_at_a_time = Lock()

    def count(self) -> tuple[Denied, list[Denial]]:
        """Everything up to now, and the last few of it; of files that were rotated away too, when they were seen.

        For a worker thread.
        """
        with self._one_at_a_time, Tail(self._log) as tail:
            if not tail.resume(self._position):
                self._denied = {"count": 0, "hosts": []}
                self._last.clear()
            for record in _refusals(tail.records(_DENIED)):
                _add(self._denied, record)
                self._last.append(_denial(record))
            self._position = tail.position
            return {"count": self._denied["count"], "hosts": list(self._denied["hosts"])}, list(self._last)


def _refusals(records: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    return (record for record in records if record.get("event") not in ("egress_drop", UNREADABLE))


def _add(total: Denied, record: Mapping[str, Any]) -> None:
    count, host = record.get("count"), host_of(record)
    total["count"] += count if isinstance(count, int) else 1
    if host and host not in total["hosts"] and len(total["hosts"]) < _HOSTS:
        total["hosts"].append(host)


def _denial(record: Mapping[str, Any]) -> Denial:
    """Limits have no reason but their event."""
    reason = record.get("reason") or record.get("event", "")
    return {"ts": str(record.get("ts", "")), "host": host_of(record), "reason": str(reason)}
