"""What a workspace did and was refused, in one glance."""

import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from threading import Lock
from typing import Any

from microagent.api.messages import Denial, Denied, Traffic
from microagent.audit.logfile import Block
from microagent.audit.reader import UNREADABLE, Filter, host_of, records_in
from microagent.audit.record import Event
from microagent.audit.render import number
from microagent.audit.tail import Tail, read

_HOSTS = 3
_LAST = 5
_DENIED = Filter(denied=True)
_EVENT = re.compile(rb'"event": ?"(egress_[a-z_]+)"')
# Records of which `only_answers` is true.
_ANSWER = re.compile(
    rb'"event": ?"egress_dns_allow"(?![^\n]*"(?:reason": ?"ptr_leased|qtype": ?"(?:HTTPS|SVCB))")[^\n]*"rcode":'
)
_CARRIED = re.compile(
    rb'"event": ?"egress_(?:udp_)?close"[^\n]*?"bytes_out": ?([0-9]{1,19}), ?"bytes_in": ?([0-9]{1,19})[,}]'
)


def denied(log: Path, since: str) -> Denied:
    """Refusals by name or address since a time, and the first few hosts. Packets the kernel dropped do not count."""
    count: Denied = {"count": 0, "hosts": []}
    for record in _refusals(read(log, Filter(denied=True, since=since))):
        _add(count, record)
    return count


class Summary:
    """A whole log in figures, asked for again and again: each time only what is new is read."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._position = (0, 0)
        self._one_at_a_time = Lock()
        self._begin()

    def look(self) -> tuple[Denied, list[Denial], Traffic]:
        """Everything up to now, and the last few refusals; of files that were rotated away too, when they were seen.

        For a worker thread.
        """
        with self._one_at_a_time, Tail(self._log) as tail:
            if not tail.resume(self._position):
                self._begin()
            for block in tail.blocks():
                self._count(block)
            self._position = tail.position
            denied: Denied = {"count": self._denied["count"], "hosts": list(self._denied["hosts"])}
            return denied, list(self._last), self._traffic.copy()

    def _begin(self) -> None:
        self._denied: Denied = {"count": 0, "hosts": []}
        self._last: deque[Denial] = deque(maxlen=_LAST)
        self._traffic = Traffic(
            flows_allowed=0,
            flows_denied=0,
            questions_allowed=0,
            questions_denied=0,
            requests=0,
            bytes_out=0,
            bytes_in=0,
            dropped_packets=0,
        )

    def _count(self, block: Block) -> None:
        """Most lines are counted without being read: a guest's quotes are escaped, so no word of its own looks so."""
        traffic = self._traffic
        events = Counter(_EVENT.findall(block.data))
        traffic["flows_allowed"] += events[b"egress_allow"] + events[b"egress_udp_allow"]
        traffic["requests"] += events[b"egress_request"]
        # An allowed question that is asked of anybody has two records: the one with `rcode` tells what came back.
        traffic["questions_allowed"] += events[b"egress_dns_allow"] - len(_ANSWER.findall(block.data))
        for sent, received in _CARRIED.findall(block.data):
            traffic["bytes_out"] += int(sent)
            traffic["bytes_in"] += int(received)
        for record in records_in(block, _DENIED):
            event = record.get("event")
            if event == Event.DROP:
                traffic["dropped_packets"] += number(record, "packets")
            elif event != UNREADABLE:
                dns = event == Event.DNS_DENY or str(record.get("limit", "")).startswith("dns")
                traffic["questions_denied" if dns else "flows_denied"] += _count_of(record)
                _add(self._denied, record)
                self._last.append(_denial(record))


def _refusals(records: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    return (record for record in records if record.get("event") not in ("egress_drop", UNREADABLE))


def _add(total: Denied, record: Mapping[str, Any]) -> None:
    host = host_of(record)
    total["count"] += _count_of(record)
    if host and host not in total["hosts"] and len(total["hosts"]) < _HOSTS:
        total["hosts"].append(host)


def _count_of(record: Mapping[str, Any]) -> int:
    """How many refusals one record stands for."""
    return number(record, "count") or 1


def _denial(record: Mapping[str, Any]) -> Denial:
    """Limits have no reason but their event."""
    reason = record.get("reason") or record.get("event", "")
    return {"ts": str(record.get("ts", "")), "host": host_of(record), "reason": str(reason)}
