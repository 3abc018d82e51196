"""Our own terminal, while a command in a guest has it: its size, its kind, and every key as it is typed."""

import contextlib
import os
import sys
import termios
import tty
from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

# What is assumed where there is a wish for a terminal and none of ours.
_ROWS, _COLUMNS = 24, 80


def terminal_options(help_text: str) -> Callable[[F], F]:
    """-i and -t, as Docker has them; the command gets `tty`."""

    def decorate(command: F) -> F:
        options = (
            click.option(
                "-i", "--interactive", is_flag=True, expose_value=False, help="Accepted for habit: stdin is passed on."
            ),
            click.option("-t", "--tty", is_flag=True, help=help_text),
        )
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def all_terminals() -> bool:
    """Whether stdin, stdout and stderr all are terminals."""
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr))


def describe() -> dict[str, Any]:
    """The terminal as the API has it."""
    return {**size(), "type": os.environ.get("TERM", "xterm")}


def size() -> dict[str, int]:
    """Rows and columns of the first of our streams that is a terminal."""
    for fd in (1, 0, 2):
        with contextlib.suppress(OSError):
            found = os.get_terminal_size(fd)
            if found.lines and found.columns:
                return {"rows": found.lines, "columns": found.columns}
    return {"rows": _ROWS, "columns": _COLUMNS}


class RawMode:
    """Keys go to the guest one by one, Ctrl-C among them, and its own terminal echoes; `restore` undoes it.

    Nothing where stdin is no terminal.
    """

    def __init__(self) -> None:
        self._before: list[Any] | None = None

    def begin(self) -> None:
        """From now on."""
        if sys.stdin is not None and sys.stdin.isatty():
            self._before = termios.tcgetattr(sys.stdin.fileno())
            tty.setraw(sys.stdin.fileno(), termios.TCSADRAIN)

    def restore(self) -> None:
        """As it was; idempotent."""
        if self._before:
            termios.tcsetattr(sys.stdin.fileno(), termios.TCSADRAIN, self._before)
            self._before = None
