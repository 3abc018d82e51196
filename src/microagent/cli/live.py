"""`egress --follow` on a terminal: lines that scroll by, and below them the sums.

How this works: the newest lines stay in a region that is drawn anew, where a record that says the same as one of them
only raises its count. The oldest of them leaves the region upwards, into the terminal's own history, when a new line
needs its place. What has left is never touched again, so scrolling back and copying work as in any log.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.rule import Rule
from rich.text import Text

from microagent.audit.record import timestamp
from microagent.cli.live_lines import Layout, Line, key_of, line_of
from microagent.cli.live_totals import WINDOW, Totals

_REDRAW = 0.1  # seconds
_FOLDING = 8


class View:
    """What is shown, without a terminal: records go in, lines and a region to draw come out."""

    def __init__(self, title: str, *, workspaces: bool) -> None:
        self._title = title
        self._workspaces = workspaces
        self._totals = Totals()
        self._newest: OrderedDict[tuple[str, ...], Line] = OrderedDict()
        self._leaving: list[Line] = []

    def feed(self, record: dict[str, Any], now: float, *, fresh: bool = True) -> None:
        """One more record; `fresh`: written just now, and not long ago."""
        self._totals.add(record, now, fresh=fresh)
        key, line = key_of(record), line_of(record)
        if key in self._newest:
            self._newest[key].add(line)
            return
        self._newest[key] = line
        if len(self._newest) > _FOLDING:
            self._leaving.append(self._newest.popitem(last=False)[1])

    def end(self) -> None:
        """There will be no more records."""
        self._title += ": no more to follow"

    def leaving(self, width: int, *, everything: bool = False) -> list[Text]:
        """The lines that go into the history now, oldest first."""
        if everything:
            self._leaving += self._newest.values()
            self._newest.clear()
        layout = Layout(width, self._workspaces)
        lines = [layout.line(line) for line in self._leaving]
        self._leaving.clear()
        return lines

    def heading(self, width: int) -> Text:
        """What stands above the first line."""
        return Layout(width, self._workspaces).heading()

    def region(self, width: int, now: float) -> RenderableType:
        """The newest lines and the sums."""
        layout = Layout(width, self._workspaces)
        return Group(*(layout.line(line) for line in self._newest.values()), *self.sums(width, now))

    def sums(self, width: int, now: float) -> list[RenderableType]:
        """The sums alone."""
        rule = Rule(Text(self._title, style="bold"), align="left", style="dim")
        return [rule, *self._totals.lines(width, now)]


async def show(records: AsyncIterator[dict[str, Any]], view: View, console: Console) -> None:
    """Shows records until there are no more, or until it is cancelled; the sums stay."""
    console.print(view.heading(console.width))
    try:
        with Live(console=console, auto_refresh=False, transient=True, redirect_stdout=False) as live:
            drawing = asyncio.create_task(_draw(view, console, live))
            try:
                async for record in records:
                    view.feed(record, time.monotonic(), fresh=str(record.get("ts", "")) >= _just_now())
                view.end()
            finally:
                drawing.cancel()
                _print(console, view.leaving(console.width, everything=True))
    finally:
        console.print(*view.sums(console.width, time.monotonic()), sep="\n")


def _just_now() -> str:
    """Records of this time or later count in the rates; those that were there before are only added up."""
    return timestamp(datetime.now(UTC) - timedelta(seconds=WINDOW))


async def _draw(view: View, console: Console, live: Live) -> None:
    while True:
        _print(console, view.leaving(console.width))
        live.update(view.region(console.width, time.monotonic()), refresh=True)
        await asyncio.sleep(_REDRAW)


def _print(console: Console, lines: list[Text]) -> None:
    if lines:
        console.print(Text("\n").join(lines), soft_wrap=True)
