"""`make bench`: measures the product against its peers, prints a table, and writes docs/performance.md.

Every figure is a ratio of two measurements of the same run, since absolute times drift from machine to machine. Each
module here has a function `run` that gives rows; `python -m tests.bench tls policy` runs only those.
"""

import importlib
import os
import platform
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table
from tests.bench.row import Row

MODULES: Final = ("policy", "tls", "audit", "dns", "drops", "scale", "guests")
PAGE: Final = Path(__file__).parents[2] / "docs" / "performance.md"

_HEAD = """# Performance

Made by `make bench` on {date}, on {cpus} cores, {memory} GiB, Linux {kernel}, Python {python}. All figures of a row
were taken in one run, with everything on: policy, inspection, records, chain. They are proportions, not promises. The
peers are those of Debian 12 and PyPI, each with one worker, set up by the bench itself (`tests/bench`).

| # | what | measured | target |
|---|---|---|---|
"""
_TAIL = """
How long a workspace takes to set up when there are already so many (network, rules, mediator; a dot each):

![set-up time against the number of workspaces](images/growth.svg)
"""


def main(wanted: Iterable[str]) -> int:
    """Runs the modules that are wanted, all of them by default."""
    chosen = tuple(wanted) or MODULES
    if unknown := set(chosen) - set(MODULES):
        sys.stderr.write(f"error: no bench {', '.join(sorted(unknown))}\nhint: there are {', '.join(MODULES)}\n")
        return 2
    rows: list[Row] = []
    for name in chosen:
        sys.stderr.write(f"bench {name} …\n")
        rows += importlib.import_module(f"tests.bench.{name}").run()
    _print(rows)
    if chosen == MODULES:
        # What the page says below its table was written by hand.
        _, heading, rest = PAGE.read_text("utf-8").partition("\n## ")
        PAGE.write_text(_page(rows) + heading + rest, "utf-8")
        sys.stderr.write(f"written to {PAGE}\n")
    return 0


def _print(rows: Iterable[Row]) -> None:
    table = Table("#", "what", "measured", "target")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def _page(rows: Iterable[Row]) -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    head = _HEAD.format(
        date=datetime.now(UTC).date(),
        cpus=os.cpu_count(),
        memory=round(memory),
        kernel=platform.release().split("-")[0],
        python=platform.python_version(),
    )
    lines = "".join(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |\n" for row in rows)
    return f"{head}{lines}{_TAIL}"


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
