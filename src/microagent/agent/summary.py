"""What a workspace was refused, in one glance."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from threading import Lock
from typing import Any

from microagent.api.messages import Denied
from microagent.audit.reader import UNREADABLE, Filter, host_of
from microagent.audit.tail import Tail, read

_HOSTS = 3
_DENIED = Filter(denied=True)


def denied(log: Path, since: str) -> Denied:
    """Refusals by name or address since a time, and the first few hosts. Packets the kernel dropped do not count."""
    count: Denied = {"count": 0, "hosts": []}
    _add(count, read(log, Filter(denied=True, since=since)))
    return count


class Refusals:
    """The same for a whole log that is asked again and again: each time only what is new is read."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._position = (0, 0)
        self._denied: Denied = {"count": 0, "hosts": []}
        self._one_at_a_time = Lock()

    def count(self) -> Denied:
        """Everything up to now; of files that were rotated away too, when they were seen. For a worker thread."""
        with self._one_at_a_time, Tail(self._log) as tail:
            if not tail.resume(self._position):
                self._denied = {"count": 0, "hosts": []}
            _add(self._denied, tail.records(_DENIED))
            self._position = tail.position
            return {"count": self._denied["count"], "hosts": list(self._denied["hosts"])}


def _add(total: Denied, records: Iterable[Mapping[str, Any]]) -> None:
    for record in records:
        if record.get("event") in ("egress_drop", UNREADABLE):
            continue
        count, host = record.get("count"), host_of(record)
        total["count"] += count if isinstance(count, int) else 1
        if host and host not in total["hosts"] and len(total["hosts"]) < _HOSTS:
            total["hosts"].append(host)
