"""`exec`: one more command in a workspace that runs."""

import json

import click

from microagent.cli.agent_call import with_agent
from microagent.cli.output import Settings, json_option, note
from microagent.cli.settings import command_words, variables
from microagent.cli.terminal import all_terminals, describe, terminal_options


@click.command("exec", context_settings={"allow_interspersed_args": False})
@terminal_options("Give it a terminal (it has one by itself where stdin, stdout and stderr are terminals).")
@click.option("-T", "--no-tty", is_flag=True, help="Give it no terminal.")
@click.option("-e", "--env", multiple=True, metavar="K=V", help="Set a variable; K alone passes yours on.")
@click.option("-u", "--user", default="", metavar="USER", help="Run as USER[:GROUP] (default: as the image says).")
@click.option("-w", "--workdir", default="", metavar="DIR", help="Run in DIR (default: as the image says).")
@json_option
@click.argument("name")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def exec_(
    context: click.Context,
    /,
    tty: bool,
    no_tty: bool,
    env: tuple[str, ...],
    user: str,
    workdir: str,
    name: str,
    command: tuple[str, ...],
) -> None:
    """Run COMMAND in workspace NAME, which must be running.

    Exits with the command's own code, 128+N when signal N ended it. It ends when this command does, however that ends.
    """
    import asyncio

    from microagent.api.messages import workspace_path
    from microagent.api.names import checked_name
    from microagent.cli.attached import attached

    settings: Settings = context.obj
    if tty and no_tty:
        raise click.UsageError("-t and -T exclude each other")
    wish = {
        "command": command_words(command, "exec NAME"),
        "env": variables(env),
        "user": user,
        "workdir": workdir,
        "terminal": describe() if tty or (not no_tty and all_terminals()) else None,
    }
    if not wish["command"]:
        raise click.UsageError("no command is given: microagent exec NAME -- COMMAND")
    path = workspace_path(checked_name(name), "exec")
    ended = with_agent(settings, lambda: asyncio.run(attached(settings.socket, path, wish, signals=True)))
    if settings.json:
        # stdout is the command's own.
        note(json.dumps({"name": name, "exit_code": ended.code}))
    context.exit(ended.code)
