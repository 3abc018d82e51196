"""The live view: what fits, what is folded, what is summed up, and that a record is never more than text."""

import asyncio
import io
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from microagent.audit.render import inert
from microagent.cli.live import View, show
from microagent.cli.live_lines import Layout, Line, line_of
from microagent.cli.live_totals import Totals

Record = dict[str, Any]

ALLOW: Record = {
    "ts": "2026-01-02T03:04:05.000006Z",
    "event": "egress_allow",
    "workspace": "research",
    "host": "api.example.org",
    "dst": "203.0.113.7:443",
    "proto": "tls",
    "tls": "intercept",
    "rule": "allow: api.example.org",
}
DENY: Record = {**ALLOW, "event": "egress_deny", "host": "evil.test", "reason": "name_not_listed", "rule": ""}
CLOSE: Record = {**ALLOW, "event": "egress_close", "bytes_out": 1000, "bytes_in": 20, "duration_ms": 1234, "why": "end"}
# What may be in the bytes that reach a terminal: text, newlines, and the colours and lines of rich's own.
OWN = re.compile(r"\x1b\[[0-9;]*m|\x1b\[[0-9]*[AK]|\x1b\[2K|\x1b\[\?25[hl]|[\n\r]")
HOSTILE = [
    "\x1b[31m",
    "\x1b]52;c;QUFB\x07",
    "\u202eevil",
    "\u2028",
    "\u200b\u200d",
    "\r\n",
    "\x9b2J",
    "\u05d0\u0627",
    "\x7f",
]


def text_of(record: Record, width: int, *, workspaces: bool = False) -> str:
    return Layout(width, workspaces).line(line_of(record)).plain


def test_at_80_columns_there_is_what_matters() -> None:
    assert text_of(DENY, 80) == "03:04:05 deny          evil.test            name_not_listed · tls intercept"
    assert text_of(CLOSE, 80).split()[:3] == ["03:04:05", "close", "api.example.org"]
    assert text_of(CLOSE, 80).endswith(" end · tls intercept   ↑1.0k ↓20 1.2s")
    assert text_of({**DENY, "host": "", "dst": "10.0.0.1:80"}, 80).split()[2] == "10.0.0.1:80"
    assert text_of(DENY, 80, workspaces=True).split()[1] == "research"


def test_at_200_columns_there_is_everything() -> None:
    shown = text_of({**DENY, "hint": "the policy entry `allow: evil.test` would permit it"}, 200)
    for part in ("03:04:05.000006", "203.0.113.7:443", "name_not_listed", "the policy entry `allow: evil.test` would"):
        assert part in shown


@pytest.mark.parametrize("workspaces", [False, True])
@given(
    record=st.dictionaries(
        st.sampled_from([*CLOSE, "qname", "error", "count", "packets", "method", "path"]),
        st.text() | st.sampled_from([*HOSTILE, "x" * 70_000, "漢" * 300]) | st.integers() | st.floats() | st.none(),
    ),
    width=st.integers(80, 220),
)
def test_any_record_is_one_line_that_fits(workspaces: bool, record: Record, width: int) -> None:
    layout = Layout(width, workspaces)
    shown = layout.line(line_of(record)).plain
    assert "\n" not in shown
    assert cell_len(shown) <= width
    assert inert(shown) == shown
    assert len(layout.heading()) <= width


def test_what_says_the_same_is_one_line_with_a_count_and_bytes_in_all() -> None:
    view = View("x", workspaces=False)
    for record in (DENY, CLOSE, DENY, CLOSE, CLOSE, {**DENY, "count": 40}):
        view.feed(record, 0)
    first, second = (line.plain for line in view.leaving(80, everything=True))
    assert first.split()[:4] == ["03:04:05", "deny", "x42", "evil.test"]
    assert second.split()[2] == "x3"
    assert "↑3.0k ↓60" in second


def test_the_oldest_lines_leave_upwards_in_order() -> None:
    view = View("x", workspaces=False)
    for number in range(20):
        view.feed({**DENY, "host": f"h{number:02}.test"}, 0)
    gone = [line.plain.split()[2] for line in view.leaving(80)]
    kept = [line.plain.split()[2] for line in view.leaving(80, everything=True)]
    assert gone + kept == [f"h{number:02}.test" for number in range(20)]
    assert gone
    assert kept


def test_sums_rates_and_the_busiest() -> None:
    totals = Totals()
    for _ in range(3):
        totals.add(ALLOW, 100)
    totals.add({**DENY, "count": 7}, 100)
    totals.add(CLOSE, 100)
    totals.add({"event": "egress_drop", "packets": 5}, 100)
    sums, hosts, denied = (line.plain for line in totals.lines(120, 101))
    assert sums == "allow 3  deny 7  error 0  request 0  dropped 5  ↑1.0k ↓20  1.0/s  102B/s"
    assert hosts.split() == ["hosts", "api.example.org", "3"]
    assert denied.split() == ["denied", "evil.test", "7"]
    assert totals.rates(111) == (0, 0)
    totals.add(ALLOW, 200, fresh=False)
    assert totals.rates(200) == (0, 0)
    assert totals.verdicts["allow"] == 4


QUESTION: Record = {**ALLOW, "event": "egress_dns_allow", "qname": "api.example.org", "qtype": "A", "flow": "f1"}
ANSWER: Record = {**QUESTION, "rcode": 0, "answers": ["203.0.113.7"], "ttl": 60}


def test_a_question_and_its_answer_are_one_line_and_counted_once() -> None:
    view = View("x", workspaces=False)
    for record in (QUESTION, ANSWER, {**QUESTION, "flow": "f2"}, {**ANSWER, "flow": "f2"}):
        view.feed(record, 0)
    (line,) = view.leaving(100, everything=True)
    assert line.plain.split()[2] == "x2"
    assert "dns A → 203.0.113.7" in line.plain
    assert view._totals.verdicts["allow"] == 2
    # What the mediator answers by itself has the one record.
    view.feed({**ANSWER, "flow": "f3"}, 0)
    assert view._totals.verdicts["allow"] == 3


def test_drops_are_one_line_with_their_packets() -> None:
    view = View("x", workspaces=False)
    for packets in (1, 4):
        view.feed({"event": "egress_drop", "what": "icmp", "packets": packets, "bytes": 84}, 0)
    (line,) = view.leaving(100, everything=True)
    assert "5 packets" in line.plain


def test_names_without_end_do_not_fill_the_memory() -> None:
    totals = Totals()
    totals.add({**DENY, "count": 5}, 0)
    for number in range(25_000):
        totals.add({**DENY, "host": f"h{number}.test"}, 0)
    assert len(totals.denied) <= 10_000
    assert totals.denied["evil.test"] == 5
    assert totals.verdicts["deny"] == 25_005
    assert all(cell_len(line.plain) <= 80 for line in totals.lines(80, 0))


async def feed(*records: Record) -> AsyncIterator[Record]:
    for record in records:
        yield record
        await asyncio.sleep(0)


def rendered(view: View, *records: Record, width: int = 80) -> str:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=width, height=24, color_system="truecolor", markup=False)
    asyncio.run(show(feed(*records), view, console))
    return out.getvalue()


def test_the_view_ends_with_its_records_and_leaves_lines_and_sums() -> None:
    shown = Text.from_ansi(rendered(View("workspace research", workspaces=True), ALLOW, DENY, DENY)).plain
    assert "workspace research: no more to follow" in shown
    assert "x2" in shown
    assert "allow 1  deny 2" in shown


def test_what_is_left_by_ctrl_c_is_the_lines_and_the_sums() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=80, height=24)

    async def interrupted() -> None:
        fed = asyncio.Event()

        async def endless() -> AsyncIterator[Record]:
            yield DENY
            fed.set()
            await asyncio.Event().wait()

        showing = asyncio.create_task(show(endless(), View("box", workspaces=False), console))
        await fed.wait()
        showing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await showing

    asyncio.run(interrupted())
    last = Text.from_ansi(out.getvalue().replace("\r", "")).plain.splitlines()[-3:]
    assert last[0].startswith("allow 0  deny 1")
    assert last[2].split() == ["denied", "evil.test", "1"]
    assert "no more to follow" not in out.getvalue()


@pytest.mark.parametrize("width", [80, 200])
def test_nothing_in_a_record_reaches_the_terminal_as_more_than_text(width: int) -> None:
    records = [
        {**record, key: f"{hostile}[bold]:smile:{hostile}", "workspace": hostile}
        for hostile in HOSTILE
        for record in (ALLOW, DENY, CLOSE, {"event": hostile}, {"event": "egress_drop"})
        for key in ("host", "dst", "reason", "rule", "hint", "error", "why", "ts", "what", "signal")
    ]
    shown = OWN.sub("", rendered(View("all", workspaces=True), *records, width=width))
    assert inert(shown) == shown
    assert "\\x1b" in shown
    assert "[bold]:smile:" in shown


def test_a_line_of_many_is_the_last_of_them() -> None:
    line = line_of(CLOSE)
    line.add(Line({**CLOSE, "ts": "later"}, 2, 1, 1))
    assert (line.count, line.sent, line.received, line.record["ts"]) == (3, 1001, 21, "later")
