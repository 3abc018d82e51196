"""Images over the API: listed, pulled with progress, removed."""

import asyncio
import json
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aiohttp import web

from microagent.agent.handlers import FLEET, caller_of, in_turn, json_body
from microagent.api.errors import to_json
from microagent.api.reference import Reference, is_loopback, parse_image
from microagent.errors import ApiError, MicroagentError, host_error
from microagent.guests.skopeo import Access

if TYPE_CHECKING:
    from microagent.api.messages import ImageStatus
    from microagent.guests.image import Image

log = logging.getLogger(__name__)

_LOOK = 0.1  # seconds
# Fields of an entry below `auths` in a Docker configuration; each a short text.
_CREDENTIAL = {"auth", "identitytoken"}
_LONGEST_SECRET = 64 << 10


async def index(request: web.Request) -> web.Response:
    """All images, and which workspaces were made from each."""
    fleet = request.app[FLEET]
    found: list[ImageStatus] = [
        {
            "names": list(one.names),
            "digest": one.digest,
            "size": one.size,
            "made": one.made,
            "builtin": one.builtin,
            "used_by": fleet.users_of(one.digest) if one.digest else [],
        }
        # Of each image its configuration is read, which may have megabytes.
        for one in await in_turn(request, fleet.services.images.listing)
    ]
    return web.json_response({"images": found})


async def remove(request: web.Request) -> web.Response:
    """Takes a name away (`?ref=`), and with its last name the image."""
    fleet = request.app[FLEET]
    ref = request.query.get("ref", "")
    digest, gone = await fleet.services.images.remove(ref, fleet.users_of)
    log.info("image=%s digest=%s state=%s", ref, digest, "removed" if gone else "unnamed")
    return web.json_response({"image": ref, "digest": digest, "removed": gone})


async def pull(request: web.Request) -> web.StreamResponse:
    """Pulls an image, or makes the disk of one that is a file: progress line by line, then the image or an error."""
    body = await json_body(request)
    ref, access, renew = _wish(body)
    # Every phase, however short, and of each the latest that is not yet said.
    unsaid: dict[str, dict[str, Any]] = {}

    def report(phase: str, done: int, total: int | None) -> None:
        unsaid[phase] = {"event": "progress", "image": ref, "phase": phase, "done": done, "total": total}

    images = request.app[FLEET].services.images
    pulling = asyncio.create_task(images.pull(ref, caller_of(request), access, report, renew=renew))
    try:
        answer = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await answer.prepare(request)
        said: dict[str, Any] = {}
        while not pulling.done():
            if request.transport is None or request.transport.is_closing():
                raise ConnectionResetError
            await asyncio.wait([pulling], timeout=_LOOK)
            while unsaid:
                progress = unsaid.pop(next(iter(unsaid)))
                if progress != said:
                    said = progress
                    await _say(answer, said)
        await _say(answer, _outcome(pulling, ref))
    finally:
        # Whoever wanted it has left: nothing of it stays.
        if not pulling.done():
            pulling.cancel()
            await asyncio.wait([pulling])
    return answer


def _outcome(pulling: "asyncio.Task[Image]", ref: str) -> dict[str, Any]:
    try:
        image = pulling.result()
    except MicroagentError as error:
        return to_json(error)
    except OSError as error:
        return to_json(host_error(error))
    except Exception:
        log.exception("unexpected image=%s", ref)
        return to_json(ApiError("internal", "the agent made a mistake", "its log has the details"))
    log.info("image=%s digest=%s state=ready", ref, image.digest)
    return {"event": "ready", "image": ref, "digest": image.digest}


async def _say(answer: web.StreamResponse, message: Mapping[str, Any]) -> None:
    await answer.write(f"{json.dumps(message)}\n".encode())


def _wish(body: object) -> tuple[str, Access, bool]:
    """Reference, how to speak to its registry, and whether to ask for it when it is here; ApiError for nonsense."""
    if not isinstance(body, dict) or not set(body) <= {"image", "credential", "insecure", "renew"}:
        raise ApiError("invalid", "a pull is an object of image, credential, insecure and renew")
    ref, credential = body.get("image"), body.get("credential")
    insecure, renew = body.get("insecure", False), body.get("renew", True)
    if not isinstance(ref, str) or not isinstance(insecure, bool) or not isinstance(renew, bool):
        raise ApiError("invalid", "a pull has an image, and insecure and renew are true or false")
    if not ref or ref.startswith("-") or not ref.isprintable():
        raise ApiError("invalid", f"{ref!r} is not an image reference")
    if credential is not None and not _is_credential(credential):
        raise ApiError("invalid", "the credential is not an entry of a Docker configuration")
    if insecure:
        image = parse_image(ref)
        if not (isinstance(image, Reference) and is_loopback(image.registry)):
            what = "only a registry on this machine's loopback may do without TLS"
            hint = "for others: put their CA into /etc/containers/certs.d/REGISTRY/ca.crt"
            raise ApiError("invalid", what, hint)
    return ref, Access(credential, insecure), renew


def _is_credential(value: object) -> bool:
    return (
        isinstance(value, dict)
        and set(value) <= _CREDENTIAL
        and all(isinstance(text, str) and len(text) <= _LONGEST_SECRET for text in value.values())
    )
