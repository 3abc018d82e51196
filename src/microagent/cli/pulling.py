"""Pulling an image, when it is asked for and when `run` and `create` find it missing."""

import asyncio
import sys
from collections.abc import Callable
from typing import IO, Any, TypeVar

import click

from microagent.cli.agent_call import with_agent
from microagent.cli.output import Settings
from microagent.errors import ApiError

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


def registry_option(command: F) -> F:
    """--insecure-registry."""
    option = click.option(
        "--insecure-registry",
        is_flag=True,
        help="The image's registry, on this machine's loopback, may do without TLS.",
    )
    return option(command)


def pull(settings: Settings, image: str, stream: IO[str], *, insecure: bool, renew: bool) -> dict[str, Any]:
    """The image's last word (`{"event": "ready", "digest": …}`), with progress on `stream`; ApiError when it fails.

    With `renew` a registry is asked also when the image is here.
    """
    from microagent.api.reference import Reference, parse_image
    from microagent.cli.credentials import credential_for

    body: dict[str, Any] = {"image": image, "insecure": insecure, "renew": renew}
    named = parse_image(image)
    credential = credential_for(named.registry) if isinstance(named, Reference) else None
    if credential:
        body["credential"] = credential
    return with_agent(settings, lambda: asyncio.run(_pull(settings, body, stream)))


async def _pull(settings: Settings, body: dict[str, Any], stream: IO[str]) -> dict[str, Any]:
    from microagent.api.client import Client
    from microagent.api.messages import PULL
    from microagent.cli.progress import display

    async with Client(settings.socket) as client, client.lines(PULL, {}, "POST", body) as progress:
        with display(body["image"], stream, as_json=settings.json) as shown:
            async for said in progress:
                if said.get("event") == "ready":
                    return said
                shown.show(said)
    raise ApiError("internal", "the agent went away during the pull", "its log says why")


def with_image(settings: Settings, image: str, insecure: bool, work: Callable[[bool], T]) -> T:
    """What `work` returns; when the image is missing, it is pulled with progress on stderr, and `work` is done again.

    `work` is told whether the agent may make the disk of an image by itself: without progress, it would seem stuck.
    """
    try:
        return work(False)
    except ApiError as error:
        if error.code != "no_image":
            raise
    pull(settings, image, sys.stderr, insecure=insecure, renew=False)
    return work(True)
