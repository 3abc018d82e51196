"""Tables, as people see them."""

import io
import sys

import pytest

from microagent.cli.output import table

DIGEST = "sha256:" + "0123456789abcdef" * 4


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_nothing_of_a_value_is_lost_on_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    table(("FIELD", "VALUE"), [("digest", DIGEST), ("state", "running")])
    assert DIGEST in "".join(terminal.getvalue().split())
    assert max(map(len, terminal.getvalue().splitlines()[1:])) <= 60
