"""What the live view adds up: verdicts, bytes, rates, the busiest hosts. Pure; the time is an argument."""

from collections import Counter, deque
from collections.abc import Mapping
from typing import Any

from rich.text import Text

from microagent.audit.render import host, inert, number, size, style_of, verdict
from microagent.cli.live_lines import fit

WINDOW = 10.0  # seconds over which a rate is taken
# A workspace can ask for names without end; the rare ones are forgotten, so counts of the busiest stay right.
_MOST_NAMES = 10_000
# An answer comes within seconds of its question; this many flows ago at most.
_ASKED = 256
_SHOWN = ("allow", "deny", "error", "request")


class Totals:
    """Everything since the view began."""

    def __init__(self) -> None:
        self.verdicts: Counter[str] = Counter()
        self.hosts: Counter[str] = Counter()
        self.denied: Counter[str] = Counter()
        self.sent = self.received = self.dropped = 0
        self._recent: deque[tuple[float, int, int]] = deque()
        self._asked: deque[object] = deque(maxlen=_ASKED)

    def add(self, record: Mapping[str, Any], now: float, *, fresh: bool = True) -> None:
        """One more record; `now` in seconds of any clock that does not go back. `fresh`: written just now."""
        if "rcode" in record and record.get("flow") in self._asked:
            return  # what came back to a question that was counted
        self._asked.append(record.get("flow"))
        word, count = verdict(record), number(record, "count") or 1
        name = host(record) or str(record.get("dst", "")) or "-"
        carried = 0
        if word == "drop":
            self.dropped += number(record, "packets")
        elif word == "close":
            # The requests inside a connection are in its bytes already.
            self.sent += number(record, "bytes_out")
            self.received += number(record, "bytes_in")
            carried = number(record, "bytes_out") + number(record, "bytes_in")
        else:
            self.verdicts[word] += count
        if word == "allow":
            _count(self.hosts, name, count)
        elif word == "deny":
            _count(self.denied, name, count)
        if fresh:
            self._recent.append((now, count if word in ("allow", "deny") else 0, carried))

    def rates(self, now: float) -> tuple[float, float]:
        """Decisions and bytes a second, lately."""
        while self._recent and self._recent[0][0] < now - WINDOW:
            self._recent.popleft()
        decisions = sum(count for _, count, _ in self._recent)
        return decisions / WINDOW, sum(carried for _, _, carried in self._recent) / WINDOW

    def lines(self, width: int, now: float) -> list[Text]:
        """Three lines, none longer than `width`: sums and rates, the busiest hosts, those most often denied."""
        decisions, carried = self.rates(now)
        sums = Text(no_wrap=True, overflow="ellipsis")
        for word in _SHOWN:
            sums.append(f"{word} {self.verdicts[word]}", style_of(word) if self.verdicts[word] else "dim").append("  ")
        if self.dropped:
            sums.append(f"dropped {size(self.dropped)}  ", style_of("drop"))
        sums.append(f"↑{size(self.sent)} ↓{size(self.received)}  {decisions:.1f}/s  {size(round(carried))}B/s")
        sums.truncate(width, overflow="ellipsis")
        return [sums, _top("hosts", self.hosts, width, "allow"), _top("denied", self.denied, width, "deny")]


def _count(names: Counter[str], name: str, count: int) -> None:
    names[name] += count
    if len(names) > _MOST_NAMES:
        kept = names.most_common(_MOST_NAMES // 2)
        names.clear()
        names.update(dict(kept))


def _top(title: str, names: Counter[str], width: int, word: str) -> Text:
    """As many as there is room for, the first one cut if need be."""
    text = Text(no_wrap=True, overflow="ellipsis").append(f"{title:<7}", "dim")
    for name, count in names.most_common(width // 8):
        part = f"{inert(name)} {count}"
        if len(text) + len(part) + 3 > width and len(text) > 7:
            break
        text.append(fit(part, min(len(part), width - 7)), style_of(word)).append("   ")
    text.truncate(width)
    text.rstrip()
    return text
