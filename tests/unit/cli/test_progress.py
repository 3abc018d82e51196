import io
import json
from typing import Any

import pytest

from microagent.cli import progress
from microagent.cli.progress import display


def at(phase: str, done: int, total: int | None) -> dict[str, Any]:
    return {"event": "progress", "image": "x", "phase": phase, "done": done, "total": total}


STEPS = [at("resolving", 0, None), at("pulling", 0, 5000), at("pulling", 2500, 5000), at("unpacking", 0, None)]


def test_programs_get_the_objects_as_they_are() -> None:
    stream = io.StringIO()
    with display("x", stream, as_json=True) as shown:
        for step in STEPS:
            shown.show(step)
    assert [json.loads(line) for line in stream.getvalue().splitlines()] == STEPS


def test_a_pipe_gets_a_line_a_phase() -> None:
    stream = io.StringIO()
    with display("x\x1b[2J", stream, as_json=False) as shown:
        for step in STEPS:
            shown.show(step)
    image = "x\\x1b[2J"
    assert stream.getvalue() == f"{image}: resolving\n{image}: pulling 5.0kB\n{image}: unpacking\n"


def test_a_phase_that_takes_long_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_LINE_SECONDS", -1.0)
    stream = io.StringIO()
    with display("x", stream, as_json=False) as shown:
        for step in (*STEPS, at("unpacking", 7000, None)):
            shown.show(step)
    assert "x: pulling 2.5kB of 5.0kB\n" in stream.getvalue()
    assert stream.getvalue().endswith("x: unpacking 7.0kB\n")


class Terminal(io.StringIO):
    """A terminal that keeps what is drawn; a real one holds 4 KiB, which a slow machine's redrawing exceeds."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    stream = Terminal()
    with display("[red]x", stream, as_json=False) as shown:
        for step in (*STEPS, at("unpacking", 7000, None)):
            shown.show(step)
    for phase in ("resolving", "pulling", "unpacking"):
        assert f"[red]x {phase}" in stream.getvalue()
