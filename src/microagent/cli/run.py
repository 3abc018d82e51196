"""`run`: a new workspace for one command."""

import json
from typing import TYPE_CHECKING, Any

import click

from microagent.cli.agent_call import with_agent
from microagent.cli.egress_options import egress_json, egress_options
from microagent.cli.habits import MakesWorkspace
from microagent.cli.output import Settings, json_option, note
from microagent.cli.pulling import registry_option, with_image
from microagent.cli.settings import command_words, resource_options, settings_json
from microagent.cli.terminal import describe, terminal_options

if TYPE_CHECKING:
    from microagent.api.messages import Denied
    from microagent.cli.attached import Ended


@click.command(cls=MakesWorkspace, context_settings={"allow_interspersed_args": False})
@egress_options
@click.option("--name", metavar="NAME", help="The workspace's name (default: a made-up one).")
@click.option("--keep", is_flag=True, help="Keep the workspace and its record when the command has ended.")
@click.option("--rm", "remove", is_flag=True, help="Accepted for habit: it is deleted when no --keep says otherwise.")
@terminal_options("Give the command a terminal, and the keys that are typed; the run then ends with it.")
@resource_options
@registry_option
@json_option
@click.argument("image")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def run(
    context: click.Context,
    /,
    name: str | None,
    keep: bool,
    remove: bool,
    tty: bool,
    image: str,
    command: tuple[str, ...],
    env: tuple[str, ...],
    memory_mib: int | None,
    cpus: int | None,
    disk_mib: int | None,
    upstream_ca: tuple[str, ...],
    insecure_registry: bool,
    **egress: Any,
) -> None:
    """Run COMMAND in a new workspace made from IMAGE, and delete the workspace afterwards.

    IMAGE is a name in a registry (python:3.12), a directory, an OCI layout, a docker archive, or `base`.

    Exits with the command's own code, 128+N when signal N ended it.
    """
    import asyncio
    import secrets

    from microagent.api.messages import RUN
    from microagent.api.names import checked_name
    from microagent.cli.attached import attached

    settings: Settings = context.obj
    chosen = checked_name(name) if name is not None else f"run-{secrets.token_hex(4)}"
    if remove and keep:
        raise click.UsageError("--rm and --keep exclude each other")
    words, resources = command_words(command, "IMAGE"), (memory_mib, cpus, disk_mib)
    spec = settings_json(chosen, image, words, env, *resources, egress_json(**egress), upstream_ca)
    spec["ephemeral"] = not keep
    first = {"spec": spec, "terminal": describe() if tty else None}

    def work(make: bool) -> "Ended":
        path = f"{RUN}?make={int(make)}"
        return with_agent(settings, lambda: asyncio.run(attached(settings.socket, path, first, signals=False)))

    ended = with_image(settings, spec["image"], insecure_registry, work)
    if settings.json:
        # stdout is the command's own.
        note(json.dumps({"name": chosen, "kept": keep, "exit_code": ended.code, "denied": ended.denied}))
    elif ended.denied["count"]:
        note(_refusals(ended.denied, chosen, keep))
    context.exit(ended.code)


def _refusals(denied: "Denied", name: str, kept: bool) -> str:
    from microagent.audit.render import inert

    count, hosts = denied["count"], ", ".join(map(inert, denied["hosts"]))
    where = f"microagent egress {name} --denied" if kept else "run with --keep to keep the record"
    return f"microagent: {count} {'request was' if count == 1 else 'requests were'} denied ({hosts}); {where}"
