"""`image ls`, `pull` and `rm`: what workspaces can be made from."""

import sys
from pathlib import Path
from typing import Any

import click

from microagent.cli.agent_call import ask
from microagent.cli.output import Settings, json_option, say, say_json, table
from microagent.cli.pulling import pull as pull_image
from microagent.cli.pulling import registry_option

_DIGEST_SHOWN = 12


@click.group()
@json_option
def image() -> None:
    """List, pull and remove images."""


@image.command(short_help="List images, and who uses them.")
@json_option
@click.pass_obj
def ls(settings: Settings) -> None:
    """List the images on this machine, their size on the disk, and the workspaces made from each."""
    from microagent.api.messages import IMAGES

    answer = ask(settings, "GET", IMAGES)
    if settings.json:
        say_json(answer)
        return
    rows = [row for one in answer["images"] for row in _rows(one)]
    table(("IMAGE", "DIGEST", "SIZE", "MADE", "USED BY"), rows)


@image.command(short_help="Pull an image from its registry, or make one of a file.")
@click.argument("ref")
@registry_option
@json_option
@click.pass_obj
def pull(settings: Settings, ref: str, insecure_registry: bool) -> None:
    """Pull REF from its registry, also when it is here; or make the disk of one that is a file.

    For a registry that wants to know who you are, `docker login` first, as the user who runs this.
    """
    from microagent.api.reference import absolute

    stream = sys.stdout if settings.json else sys.stderr
    answer = pull_image(settings, absolute(ref, str(Path.cwd())), stream, insecure=insecure_registry, renew=True)
    if settings.json:
        say_json(answer)
    else:
        say(f"{ref}: ready ({answer['digest']})")


@image.command(short_help="Remove an image that nobody uses.")
@click.argument("ref")
@json_option
@click.pass_obj
def rm(settings: Settings, ref: str) -> None:
    """Remove REF, a name or a digest as `ls` shows them. One that workspaces were made from stays."""
    from microagent.api.messages import IMAGES
    from microagent.api.reference import absolute

    answer = ask(settings, "DELETE", IMAGES, query={"ref": absolute(ref, str(Path.cwd()))})
    if settings.json:
        say_json(answer)
    else:
        say(f"{ref}: {'removed' if answer['removed'] else 'name removed, the image has others'}")


def _rows(one: dict[str, Any]) -> list[tuple[str, ...]]:
    """A row for each name."""
    from microagent.audit.render import size

    digest = str(one["digest"] or "").removeprefix("sha256:")[:_DIGEST_SHOWN]
    disk = "" if one["size"] is None else size(one["size"])
    made = one["made"] or ("built in, not used yet" if one["builtin"] else "")
    return [(name, digest, disk, made, ", ".join(one["used_by"])) for name in one["names"] or [""]]
