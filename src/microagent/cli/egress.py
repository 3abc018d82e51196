"""`egress` and `logs`: what a workspace did."""

import sys
from collections.abc import Callable
from typing import Any

import click

from microagent.cli.agent_call import with_agent
from microagent.cli.output import Settings, json_option, say, say_json


@click.command()
@click.argument("name")
@click.option("-f", "--follow", is_flag=True, help="Go on until the workspace ends, or Ctrl-C.")
@click.option("--denied", is_flag=True, help="Only what was refused.")
@click.option("--event", metavar="EVENT", help="Only this event, such as egress_dns_deny.")
@click.option("--host", metavar="PATTERN", help="Only hosts that match, such as '*.example.org'.")
@click.option("--since", metavar="TIME", help="Only the last 90s, 10m, 2h or 7d.")
@click.option("--limit", type=click.IntRange(0), metavar="N", help="Only the last N of what is there.")
@click.option("--id", "ident", metavar="ID", help="Only the decision with this id.")
@json_option
@click.pass_obj
def egress(
    settings: Settings,
    /,
    name: str,
    follow: bool,
    denied: bool,
    limit: int | None,
    ident: str | None,
    **only: str | None,
) -> None:
    """Show what a workspace asked for, and what was decided."""
    import asyncio

    from microagent.api.client import Client
    from microagent.api.messages import workspace_path
    from microagent.api.names import checked_name
    from microagent.cli.pipes import while_read

    query = {key: value for key, value in only.items() if value is not None}
    query |= {"follow": "1"} if follow else {}
    query |= {"denied": "1"} if denied else {}
    query |= {"limit": str(limit)} if limit is not None else {}
    query |= {"id": ident} if ident is not None else {}
    show = say_json if settings.json else _for_people()

    async def stream() -> None:
        async with Client(settings.socket) as client:
            async for record in client.lines(workspace_path(checked_name(name), "egress"), query):
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

    query = {"source": "console" if console else "output"} | ({"follow": "1"} if follow else {})

    async def stream() -> None:
        async with Client(settings.socket) as client:
            async for chunk in client.chunks(workspace_path(checked_name(name), "logs"), query):
                if settings.json:
                    say_json({"text": chunk.decode("utf-8", "replace")})
                else:
                    sys.stdout.buffer.write(chunk)
                sys.stdout.flush()

    with_agent(settings, lambda: asyncio.run(while_read(sys.stdout.fileno(), stream())))


def _for_people() -> Callable[[dict[str, Any]], None]:
    """Shows a record: coloured on a terminal, in columns with a heading in a pipe."""
    from microagent.audit.render import headings, plain, rich_line

    if sys.stdout.isatty():
        from rich.console import Console

        console = Console(highlight=False)
        return lambda record: console.print(rich_line(record))
    untitled = [headings()]

    def show(record: dict[str, Any]) -> None:
        if untitled:
            say(untitled.pop())
        say(plain(record))

    return show
