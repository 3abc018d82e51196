"""`egress` and `logs`: what a workspace did."""

import sys
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

import click

from microagent.cli.agent_call import with_agent
from microagent.cli.output import Settings, json_option, say, say_json
from microagent.cli.whole_number import WholeNumber

if TYPE_CHECKING:
    from rich.console import Console

# What the live view begins with: more than a screen, and there at once, however long the record is.
_BEGINS_WITH = 200


@click.command()
@click.argument("name", required=False)
@click.option("--all", "everything", is_flag=True, help="Every workspace, also those made later.")
@click.option("-f", "--follow", is_flag=True, help="Go on until the workspace ends, or Ctrl-C.")
@click.option("--denied", is_flag=True, help="Only what was refused.")
@click.option("--event", metavar="EVENT", help="Only this event, such as egress_dns_deny.")
@click.option("--host", metavar="PATTERN", help="Only hosts that match, such as .example.org or '10.*'.")
@click.option("--since", metavar="TIME", help="The last 90s, 10m, 2h30m; or since 15:04, 2026-01-31 (UTC).")
@click.option("--limit", type=WholeNumber(0), metavar="N", help="Only the last N of what is there.")
@click.option("--id", "ident", metavar="ID", help="Explain the decision with this id.")
@json_option
@click.pass_obj
def egress(
    settings: Settings,
    /,
    name: str | None,
    everything: bool,
    follow: bool,
    denied: bool,
    limit: int | None,
    ident: str | None,
    **only: str | None,
) -> None:
    """Show what a workspace asked for, and what was decided."""
    if everything == (name is not None):
        raise click.UsageError("give a workspace's NAME, or --all")
    query = {key: value for key, value in only.items() if value is not None}
    query |= {"follow": "1"} if follow else {}
    query |= {"denied": "1"} if denied else {}
    query |= {"limit": str(limit)} if limit is not None else {}
    if ident is not None:
        if query or name is None or not ident:
            raise click.UsageError("--id explains one decision of workspace NAME; it goes with no other choice")
        from microagent.cli.decided import explain_decision

        explain_decision(settings, name, ident)
        return
    _stream(settings, name, query)


def _stream(settings: Settings, name: str | None, query: dict[str, str]) -> None:
    import asyncio

    from microagent.api.client import Client
    from microagent.api.messages import EGRESS, workspace_path
    from microagent.api.names import checked_name
    from microagent.cli.pipes import while_read

    path = EGRESS if name is None else workspace_path(checked_name(name), "egress")
    follow = "follow" in query
    live = follow and not settings.json and sys.stdout.isatty()
    if live and not query.keys() & {"limit", "since"}:
        query["limit"] = str(_BEGINS_WITH)

    async def stream() -> None:
        async with Client(settings.socket) as client, client.lines(path, query) as records:
            if live:
                await _show_live(records, name)
                return
            show = say_json if settings.json else _for_people(workspaces=name is None)
            async for record in records:
                show(record)
                if follow:
                    sys.stdout.flush()

    with_agent(settings, lambda: asyncio.run(while_read(sys.stdout.fileno(), stream())))


@click.command()
@click.argument("name")
@click.option("-f", "--follow", is_flag=True, help="Go on until the workspace ends, or Ctrl-C.")
@click.option("--console", is_flag=True, help="The guest's serial console instead.")
@json_option
@click.pass_obj
def logs(settings: Settings, name: str, follow: bool, console: bool) -> None:
    """Show what a workspace's command printed, as it printed it."""
    import asyncio

    from microagent.api.client import Client
    from microagent.api.messages import workspace_path
    from microagent.api.names import checked_name
    from microagent.cli.pipes import while_read

    path = workspace_path(checked_name(name), "logs")
    query = {"source": "console" if console else "output"} | ({"follow": "1"} if follow else {})

    async def stream() -> None:
        async with Client(settings.socket) as client, client.chunks(path, query) as chunks:
            async for chunk in chunks:
                if settings.json:
                    say_json({"text": chunk.decode("utf-8", "replace")})
                else:
                    sys.stdout.buffer.write(chunk)
                sys.stdout.flush()

    with_agent(settings, lambda: asyncio.run(while_read(sys.stdout.fileno(), stream())))


async def _show_live(records: AsyncIterator[dict[str, Any]], name: str | None) -> None:
    from microagent.cli.live import View, show

    title = "every workspace" if name is None else f"workspace {name}"
    await show(records, View(title, workspaces=name is None), _terminal())


def _for_people(*, workspaces: bool) -> Callable[[dict[str, Any]], None]:
    """Shows a record: coloured on a terminal, in columns in a pipe, with a heading before the first."""
    if sys.stdout.isatty():
        return _on_terminal(workspaces)
    from microagent.audit.render import headings, plain

    untitled = [headings(workspaces=workspaces)]

    def show(record: dict[str, Any]) -> None:
        if untitled:
            say(untitled.pop())
        say(plain(record, workspaces=workspaces))

    return show


def _on_terminal(workspaces: bool) -> Callable[[dict[str, Any]], None]:
    from microagent.cli.live_lines import Layout, line_of

    console = _terminal()
    layout = Layout(console.width, workspaces)
    untitled = [layout.heading()]

    def show(record: dict[str, Any]) -> None:
        if untitled:
            console.print(untitled.pop(), soft_wrap=True)
        console.print(layout.line(line_of(record)), soft_wrap=True)

    return show


def _terminal() -> "Console":
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False)
