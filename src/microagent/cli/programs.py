"""`agent` and `demo`: other programs that are started through the same command.

They are found by name and not imported here, because the CLI is no part of either: it speaks to the agent through the
API alone, and the demo is a user of the CLI.
"""

from importlib import import_module
from pathlib import Path

import click

from microagent.cli.output import Settings, json_option


@click.command()
@click.option("--config", metavar="FILE", help="The configuration (default: /etc/microagent/agent.yaml, if there).")
@json_option
@click.pass_obj
def agent(settings: Settings, config: str | None) -> None:
    """Run the host agent in the foreground; SIGTERM leaves workspaces running, SIGINT (Ctrl-C) stops them.

    Logs to standard error; with --json, one object a line.
    """
    from microagent.errors import host_error

    try:
        import_module("microagent.agent.main").main(Path(config) if config else None, as_json=settings.json)
    except OSError as error:
        raise host_error(error) from error


@click.command()
@json_option
@click.pass_context
def demo(context: click.Context) -> None:
    """Watch a real guest try to get out, in a made-up internet."""
    settings: Settings = context.obj
    context.exit(import_module("microagent.demo.run").main(as_json=settings.json))
