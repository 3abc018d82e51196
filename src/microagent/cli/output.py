"""How answers look: tables for people, plain columns in a pipe, JSON for programs."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from microagent.errors import MicroagentError, PolicyError

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_SOCKET = Path("/run/microagent/agent.sock")


@dataclass
class Settings:
    """What stands before the verb; `json` may also come after it."""

    json: bool = False
    socket: Path = DEFAULT_SOCKET

    def set_socket(self, path: str | None) -> None:
        """From --socket or the environment."""
        if path:
            self.socket = Path(path).absolute()


def json_option(command: F) -> F:
    """`--json`, on the group and on every verb; each sets the one setting."""

    def note(context: click.Context, _: click.Parameter, value: bool) -> None:
        context.ensure_object(Settings).json |= value

    option = click.option(
        "--json", is_flag=True, expose_value=False, is_eager=True, callback=note, help="Output for programs."
    )
    return option(command)


def say(text: str) -> None:
    """One line for people on stdout."""
    sys.stdout.write(f"{text}\n")


def note(text: str) -> None:
    """One line for people on stderr, which never mixes with an answer."""
    sys.stderr.write(f"{text}\n")


def say_json(answer: object) -> None:
    """One object, one line: ASCII, so that nothing in it can reach a terminal as a control character."""
    sys.stdout.write(f"{json.dumps(answer)}\n")


def say_error(settings: Settings, error: MicroagentError) -> None:
    """`error: what` and `hint: what to do` on stderr, a hint a line; or one JSON object."""
    from microagent.audit.render import inert

    if settings.json:
        from microagent.api.errors import to_json

        note(json.dumps(to_json(error)))
        return
    # Of several problems in one file, each is followed by its own hint.
    parts = [(str(p), p.hint) for p in error.problems] if isinstance(error, PolicyError) else [(error.what, error.hint)]
    for what, hint in parts:
        for line in what.splitlines() or [""]:
            note(f"error: {inert(line)}")
        for line in dict.fromkeys(hint.splitlines()):
            note(f"hint: {inert(line)}")


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A rich table on a terminal, columns padded with spaces in a pipe."""
    from microagent.audit.render import inert

    cells: list[Sequence[str]] = [[inert(cell) or "-" for cell in row] for row in rows]
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        pretty = Table(box=None, header_style="bold", pad_edge=False)
        for heading in headings:
            # On a narrow terminal an address or a digest goes on in the next line: half of one is of no use.
            pretty.add_column(heading, overflow="fold")
        for row in cells:
            pretty.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
        Console().print(pretty)
        return
    widths = [max(map(len, column)) for column in zip(headings, *cells, strict=True)]
    for row in (headings, *cells):
        say("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


_STYLES = {
    "running": "green",
    "ok": "green",
    "failed": "bold red",
    "missing": "bold red",
    "starting": "yellow",
    "stopping": "yellow",
}
