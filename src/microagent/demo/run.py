"""`microagent demo`: a real guest tries to get out, and everybody can see what comes of it.

How this works: a made-up internet and an agent on it (`lab`); a guest started with the commands a user would use,
which tries the rows of `rows`; and a judgement from three sides: what the guest saw, what the record says, and what the
leak oracle saw on the wire.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
from contextlib import ExitStack
from types import FrameType
from typing import Any, NoReturn

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from microagent.demo import rows
from microagent.demo.internet import Internet
from microagent.demo.lab import GUEST_DIR, Lab
from microagent.demo.oracle import Destination, Oracle
from microagent.errors import HostError

WORKSPACE = "demo"
FLAGS = ("--egress", "strict", "--egress-allow", rows.ALLOWED, "--egress-passthrough", rows.PINNED)
_ALLOWED = frozenset(Destination("tcp", address, 443) for address, _ in rows.REACHED)
_NAMES = frozenset(name for _, name in rows.REACHED)
_TRIED = {row.key: row.tried for row in rows.ROWS}
_ENDING = (signal.SIGINT, signal.SIGTERM)


def main(*, as_json: bool = False) -> int:
    """Run the demonstration; 0 when every row is right, 1 when one is not. HostError when this machine cannot.

    `as_json`: the judgement is one object on standard output, and what goes on is told on standard error.
    """
    # A pipe has no width: wide enough there that no line of the table is folded beyond reading.
    told = sys.stderr if as_json else sys.stdout
    console = Console(file=told, width=None if told.isatty() else 180)
    outcomes, leaks = _demonstrate(console)
    good = all(outcome.right for outcome in outcomes) and not leaks
    if as_json:
        sys.stdout.write(f"{json.dumps(_judgement(outcomes, leaks, good))}\n")
    else:
        console.print("[bold]4.[/] the judgement")
        console.print(_table(outcomes, leaks))
        console.print("[bold green]every row is right[/]" if good else "[bold red]NOT every row is right[/]")
    return 0 if good else 1


def _demonstrate(console: Console) -> tuple[tuple[rows.Outcome, ...], tuple[str, ...]]:
    """What came of each row, and what else was or was not on the wire."""
    if os.geteuid() != 0:
        raise HostError("the demonstration makes network namespaces, and needs root", "sudo microagent demo")
    if not (GUEST_DIR / "vmlinux").exists():
        raise HostError(f"there is no guest in {GUEST_DIR}", "`make demo` builds it")
    for number in _ENDING:
        signal.signal(number, _interrupt)
    with ExitStack() as stack:
        console.print("[bold]1.[/] a made-up internet, in namespaces of its own, and an agent on it")
        internet = stack.enter_context(Internet())
        lab = stack.enter_context(Lab(internet))
        command = shlex.join(["microagent", "run", "--name", WORKSPACE, "--keep", *FLAGS, "base", "sh", "-c", "…"])
        console.print(f"[bold]2.[/] a guest that may reach two hosts:\n   [cyan]{command}[/]")
        output = _run_guest(lab, console)
        console.print(f"[bold]3.[/] what the record says: [cyan]microagent egress {WORKSPACE}[/]")
        console.file.flush()
        shown = lab.argv("egress", WORKSPACE, "--limit", "30")
        subprocess.run(shown, env=lab.environment(), stdout=console.file.fileno(), check=False)
        outcomes = rows.judge(output, lab.records(WORKSPACE))
        leaks = Oracle(internet).leaks(_ALLOWED, _NAMES)
        missed = _missed(internet)
        lab.cli("delete", WORKSPACE)
    return outcomes, (*leaks, *missed)


def _run_guest(lab: Lab, console: Console) -> list[str]:
    """Run the guest's program through the command line; its lines of output."""
    program = rows.script(lab.internet.ca.read_text("ascii"))
    arguments = ("run", "--name", WORKSPACE, "--keep", *FLAGS, "base", "sh", "-c", program)
    output = []
    with lab.start(*arguments) as guest:
        assert guest.stdout is not None  # noqa: S101  (start made a pipe)
        assert guest.stderr is not None  # noqa: S101
        for line in guest.stdout:
            output.append(line)
            if line.startswith("row\t"):
                console.print(Text(f"   the guest tried: {_TRIED.get(line.split(chr(9))[1], '?')}", style="dim"))
        code, complaint = guest.wait(), guest.stderr.read()
    if code != 0 and not output:
        raise HostError(f"the guest did not run (exit code {code}): {complaint.strip()}", "microagent doctor")
    return output


def _missed(internet: Internet) -> tuple[str, ...]:
    """What should have arrived at the servers and has not: the demonstration must not pass because nothing works."""
    served = {(request.address, request.host) for request in internet.evidence().requests}
    return tuple(
        f"never arrived at {host} ({address})" for address, host in rows.REACHED if (address, host) not in served
    )


def _judgement(outcomes: tuple[rows.Outcome, ...], leaks: tuple[str, ...], good: bool) -> dict[str, Any]:
    judged = [
        {
            "tried": outcome.row.tried,
            "expected": outcome.row.expected,
            "happened": outcome.happened,
            "milliseconds": outcome.milliseconds,
            "recorded": outcome.recorded,
            "right": outcome.right,
        }
        for outcome in outcomes
    ]
    return {"ok": good, "rows": judged, "leaks": list(leaks)}


def _table(outcomes: tuple[rows.Outcome, ...], leaks: tuple[str, ...]) -> Table:
    table = Table(show_lines=True, box=box.ROUNDED)
    for title in ("tried", "expected", "happened", "recorded as", ""):
        table.add_column(title, overflow="fold")
    for outcome in outcomes:
        # What a guest printed is text, never markup, and never more than a few lines of it.
        happened = Text(f"{outcome.happened[:200]} ({outcome.milliseconds} ms)")
        recorded = outcome.recorded or "nothing"
        table.add_row(outcome.row.tried, outcome.row.expected, happened, recorded, _mark(outcome.right))
    tried, expected = "anything else, on the wire", "nothing; and the oracle sees the leak it makes itself"
    table.add_row(tried, expected, Text("\n".join(leaks) or "nothing"), "", _mark(not leaks))
    return table


def _mark(right: bool) -> str:
    return "[green]right[/]" if right else "[bold red]WRONG[/]"


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    """End as for Ctrl-C; a second one must not stop the cleaning up."""
    for number in _ENDING:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt
