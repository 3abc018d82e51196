"""`create`: a new workspace that is started later."""

from typing import Any

import click

from microagent.cli.agent_call import ask
from microagent.cli.egress_options import egress_json, egress_options
from microagent.cli.habits import MakesWorkspace
from microagent.cli.output import Settings, json_option, say, say_json, table
from microagent.cli.pulling import registry_option, with_image
from microagent.cli.settings import resource_options, settings_json
from microagent.cli.show import settings_facts


@click.command(cls=MakesWorkspace)
@click.argument("name")
@click.option("--image", metavar="IMAGE", help="What the workspace is made from.")
@egress_options
@resource_options
@registry_option
@click.option("--file", metavar="FILE", help="A microagent.yaml; flags win over it.")
@click.option("--dry-run", is_flag=True, help="Check the settings and show them; make nothing.")
@json_option
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def create(
    settings: Settings,
    /,
    name: str,
    image: str | None,
    env: tuple[str, ...],
    memory_mib: int | None,
    cpus: int | None,
    disk_mib: int | None,
    upstream_ca: tuple[str, ...],
    insecure_registry: bool,
    file: str | None,
    dry_run: bool,
    command: tuple[str, ...],
    **egress: Any,
) -> None:
    """Make a workspace; `start` runs COMMAND in it, the image's own by default.

    Write -- before a COMMAND that has options.
    """
    from microagent.api.messages import WORKSPACES
    from microagent.api.names import checked_name

    chosen = checked_name(name)
    resources = (memory_mib, cpus, disk_mib)
    spec = settings_json(chosen, image, command, env, *resources, egress_json(**egress), upstream_ca, file)

    def work(make: bool) -> Any:
        return ask(settings, "POST", WORKSPACES, spec, {"dry_run": "1"} if dry_run else {"make": str(int(make))})

    answer = with_image(settings, spec["image"], insecure_registry, work)
    if settings.json:
        say_json(answer)
    elif dry_run:
        table(("FIELD", "VALUE"), [("name", answer["name"]), ("image", answer["image"]), *settings_facts(answer)])
    else:
        say(f"{name}: created ({_summary(answer)})")


def _summary(settings: dict[str, Any]) -> str:
    egress = settings["egress"]
    count = len(egress["entries"])
    entries = f"{count} {'entry' if count == 1 else 'entries'}"
    return f"image {settings['image']}, egress {egress['mode']} with {entries}"
