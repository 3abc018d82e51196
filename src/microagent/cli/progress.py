"""How far a pull is: bars on a terminal, lines in a pipe, objects for programs."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, Protocol

from microagent.audit.render import inert, size

# In a pipe a long phase says how far it is as often as this.
_LINE_SECONDS = 5.0


class Display(Protocol):
    """Takes the progress of one image as it comes."""

    def show(self, progress: dict[str, Any]) -> None:
        """One more object `{"phase", "done", "total", …}`."""


@contextmanager
def display(image: str, stream: IO[str], *, as_json: bool) -> Iterator[Display]:
    """The one that fits where the output goes."""
    if as_json:
        yield _Objects(stream)
    elif stream.isatty():
        with _bars(image, stream) as bars:
            yield bars
    else:
        yield _Lines(image, stream)


class _Objects:
    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def show(self, progress: dict[str, Any]) -> None:
        self._stream.write(f"{json.dumps(progress)}\n")
        self._stream.flush()


class _Lines:
    """A line for each phase, and some in between where one takes long."""

    def __init__(self, image: str, stream: IO[str]) -> None:
        self._image = inert(image)
        self._stream = stream
        self._phase = ""
        self._next = 0.0

    def show(self, progress: dict[str, Any]) -> None:
        phase, done, total, now = progress["phase"], progress["done"], progress["total"], time.monotonic()
        if phase == self._phase and now < self._next:
            return
        amount = f" {size(total)}B" if total else ""
        if phase == self._phase:
            amount = f" {size(done)}B of {size(total)}B" if total else f" {size(done)}B"
        self._phase, self._next = phase, now + _LINE_SECONDS
        self._stream.write(f"{self._image}: {inert(phase)}{amount}\n")
        self._stream.flush()


class _Bars:
    """A bar for each phase; one without a total shows that it goes on."""

    def __init__(self, image: str, progress: Any) -> None:
        self._image = inert(image)
        self._progress = progress
        self._phase = ""
        self._task: Any = None

    def show(self, progress: dict[str, Any]) -> None:
        done, total = progress["done"], progress["total"]
        if progress["phase"] != self._phase:
            self.finish()
            self._phase = progress["phase"]
            self._task = self._progress.add_task(f"{self._image} {inert(self._phase)}", total=total)
        self._progress.update(self._task, completed=min(done, total) if total else done, total=total)

    def finish(self) -> None:
        """The phase is over, however far its bytes could be counted."""
        if self._task is not None:
            task = next(task for task in self._progress.tasks if task.id == self._task)
            self._progress.update(
                self._task, completed=task.total or task.completed, total=task.total or task.completed
            )


@contextmanager
def _bars(image: str, stream: IO[str]) -> Iterator[_Bars]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(file=stream)) as progress:
        bars = _Bars(image, progress)
        yield bars
        bars.finish()
