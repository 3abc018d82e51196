"""What the records of the workspaces add up to, as Prometheus metrics. Pure.

Every label value is one of a few words of ours, or a workspace's name: nothing a guest chooses becomes a time series.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from microagent.audit.reader import only_answers
from microagent.audit.record import Event
from microagent.audit.render import number, verdict
from microagent.decision.verdict import Reason

Record = Mapping[str, Any]

# Upper ends in seconds; the last bucket has none.
_BUCKETS = (0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 600.0)
_REASONS = frozenset(str(reason) for reason in Reason)
_EVENTS = frozenset(str(event) for event in Event)
_PROTOCOLS = frozenset({"tls", "http", "tcp", "udp"})


class Histogram:
    """Durations, counted by bucket."""

    def __init__(self) -> None:
        self._counts = [0] * (len(_BUCKETS) + 1)
        self._sum = 0.0

    def add(self, seconds: float) -> None:
        """One more."""
        self._counts[bisect_left(_BUCKETS, seconds)] += 1
        self._sum += seconds

    def buckets(self) -> tuple[list[tuple[str, float]], float]:
        """As Prometheus has it: each bucket counts those before it too; and the sum."""
        total, found = 0, []
        for end, count in zip((*map(str, _BUCKETS), "+Inf"), self._counts, strict=True):
            total += count
            found.append((end, float(total)))
        return found, self._sum


class Tally:
    """The sums of one workspace."""

    def __init__(self) -> None:
        self.decisions: Counter[tuple[str, str, str]] = Counter()
        self.requests: Counter[str] = Counter()
        self.carried: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.dropped = 0
        self.minted = 0
        self.connection = Histogram()
        self.request = Histogram()

    def add(self, record: Record) -> None:
        """One more record."""
        event, word = str(record.get("event")), verdict(record)
        seconds = number(record, "duration_ms") / 1000
        self.minted += number(record, "minted")
        if word in ("allow", "deny") and not only_answers(record):
            self.decisions[_kind(record), word, _known(record.get("reason"), _REASONS)] += number(record, "count") or 1
        elif word == "error":
            self.errors[_known(event, _EVENTS)] += 1
        elif word == "drop":
            self.dropped += number(record, "packets")
        elif word == "request":
            status = number(record, "status")
            self.requests[f"{status // 100}xx" if 100 <= status < 600 else "none"] += 1
            self.request.add(seconds)
        elif word == "close":
            self.carried["out"] += number(record, "bytes_out")
            self.carried["in"] += number(record, "bytes_in")
            self.connection.add(seconds)


class Metrics(Collector):
    """All workspaces' sums, as the library's metric families."""

    def __init__(self) -> None:
        self.tallies: dict[str, Tally] = {}
        self.running: frozenset[str] = frozenset()

    def collect(self) -> Iterable[Metric]:
        """One family after the other, as they are now."""
        yield _counter(
            "decisions",
            "Decisions by what was asked, verdict and reason",
            ("kind", "verdict", "reason"),
            self._decisions(),
        )
        yield _counter("requests", "HTTP requests that passed, by class of status", ("code",), self._each("requests"))
        yield _counter("bytes", "Bytes of ended connections", ("direction",), self._each("carried"))
        yield _counter("errors", "Failures, by event of the record", ("event",), self._each("errors"))
        dropped = (((name,), tally.dropped) for name, tally in self._all())
        yield _counter("dropped_packets", "Packets that the kernel dropped", (), dropped)
        minted = (((name,), tally.minted) for name, tally in self._all())
        yield _counter("mints", "Certificates that were minted", (), minted)
        connections = ((name, tally.connection) for name, tally in self._all())
        yield _histogram("connection_seconds", "How long ended connections lasted", connections)
        requests = ((name, tally.request) for name, tally in self._all())
        yield _histogram("request_seconds", "From a request's head to its response's end", requests)
        up = GaugeMetricFamily("microagent_workspace_up", "Whether it runs", labels=("workspace",))
        for name, _ in self._all():
            up.add_metric((name,), float(name in self.running))
        yield up

    def _all(self) -> list[tuple[str, Tally]]:
        # A copy, here and below: the counting goes on in another thread.
        return list(self.tallies.items())

    def _decisions(self) -> Iterator[tuple[tuple[str, ...], int]]:
        for name, tally in self._all():
            yield from (((name, *labels), count) for labels, count in list(tally.decisions.items()))

    def _each(self, counter: str) -> Iterator[tuple[tuple[str, ...], int]]:
        for name, tally in self._all():
            yield from (((name, label), count) for label, count in list(getattr(tally, counter).items()))


def _counter(
    name: str, help_text: str, labels: tuple[str, ...], values: Iterable[tuple[tuple[str, ...], int]]
) -> CounterMetricFamily:
    family = CounterMetricFamily(f"microagent_{name}", help_text, labels=("workspace", *labels))
    for found, count in values:
        family.add_metric(found, count)
    return family


def _histogram(name: str, help_text: str, values: Iterable[tuple[str, Histogram]]) -> HistogramMetricFamily:
    family = HistogramMetricFamily(f"microagent_{name}", help_text, labels=("workspace",))
    for workspace, histogram in values:
        buckets, total = histogram.buckets()
        family.add_metric((workspace,), buckets, total)
    return family


def _kind(record: Record) -> str:
    event = str(record.get("event", ""))
    if event.startswith("egress_dns"):
        return "dns"
    return _known(record.get("proto"), _PROTOCOLS)


def _known(word: object, words: frozenset[str]) -> str:
    return word if isinstance(word, str) and word in words else "other"
