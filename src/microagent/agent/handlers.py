"""One function a route: read the request, call the fleet, shape the answer."""

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

from aiohttp import web

from microagent import __version__
from microagent.agent.bringup import own_endpoints
from microagent.agent.fleet import Fleet
from microagent.agent.peers import caller, uid_of, who
from microagent.agent.preparation import until_prepared
from microagent.agent.status import brief, status
from microagent.agent.supervisor import Supervisor
from microagent.api import messages, openapi
from microagent.api.names import checked_name
from microagent.errors import ApiError
from microagent.guests.caller import Caller
from microagent.host.links import host_addresses
from microagent.workspace.changes import change_from_json
from microagent.workspace.egress import vetted
from microagent.workspace.spec import WorkspaceSpec, from_json
from microagent.workspace.store import OUTPUT

T = TypeVar("T")

FLEET: web.AppKey[Fleet] = web.AppKey("fleet", Fleet)
# A policy of 100 000 entries has half as many; reading these takes a quarter of a second.
_MOST_VALUES: Final = 1_000_000


async def about(request: web.Request) -> web.Response:
    """Who answers."""
    config = request.app[FLEET].services.config
    answer: messages.About = {"version": __version__, "state_dir": str(config.state_dir)}
    return web.json_response(answer)


async def description(_: web.Request) -> web.Response:
    """The API, as OpenAPI."""
    return web.Response(text=openapi.text(), content_type="application/json")


async def index(request: web.Request) -> web.Response:
    """All workspaces."""
    everything = request.app[FLEET].all()

    def written() -> str:
        # One by one: Python does nothing else while it writes one piece of JSON, and a policy may have ten megabytes.
        return f'{{"workspaces": [{", ".join(json.dumps(brief(supervisor)) for supervisor in everything)}]}}'

    return web.Response(text=await in_turn(request, written), content_type="application/json")


async def create(request: web.Request) -> web.Response:
    """Makes a workspace; with `?dry_run=1` says what it would be, with `?make=0` makes no disk of an image first."""
    fleet = request.app[FLEET]
    body = await json_body(request)
    spec = await in_turn(request, lambda: spec_from(body))
    if request.query.get("dry_run") == "1":
        fleet.check_new(spec)
        return web.json_response(spec.to_json())
    supervisor = await fleet.create(spec, caller_of(request), make=request.query.get("make") != "0")
    return web.json_response(await in_turn(request, lambda: status(supervisor)), status=201)


async def show(request: web.Request) -> web.Response:
    """One workspace."""
    supervisor = named(request)
    return web.json_response(await in_turn(request, lambda: status(supervisor)))


async def delete(request: web.Request) -> web.Response:
    """Removes a workspace; one that is not there is no error."""
    name = checked_name(request.match_info["name"])
    deleted = await request.app[FLEET].delete(name, force=request.query.get("force") == "1")
    answer: messages.Deleted = {"name": name, "deleted": deleted}
    return web.json_response(answer)


async def start(request: web.Request) -> web.Response:
    """Starts a workspace; the answer comes when the guest runs, though its set-up may go on."""
    supervisor = named(request)
    await supervisor.start()
    return web.json_response(brief(supervisor))


async def setup(request: web.Request) -> web.Response:
    """Waits for the end of a workspace's set-up; the answer comes when its command has begun."""
    supervisor = named(request)
    name = supervisor.record.name
    await until_prepared(supervisor, request.app[FLEET].services.store.path(name, OUTPUT))
    return web.json_response(brief(supervisor))


async def stop(request: web.Request) -> web.Response:
    """Stops a workspace; the answer comes when nothing of it runs, and says whether it had to be ended."""
    supervisor = named(request)
    forced = await supervisor.stop()
    answer: messages.Stopped = {**brief(supervisor), "forced": forced}
    return web.json_response(answer)


async def kill(request: web.Request) -> web.Response:
    """Ends a workspace at once; the answer comes when nothing of it runs."""
    supervisor = named(request)
    await supervisor.kill()
    return web.json_response(brief(supervisor))


async def show_policy(request: web.Request) -> web.Response:
    """Mode and entries of now, and what this host adds to the address table."""
    supervisor = named(request)
    config = request.app[FLEET].services.config
    egress = supervisor.egress.to_json()
    answer: messages.ShownPolicy = {
        "mode": egress["mode"],
        "entries": egress["entries"],
        "digest": supervisor.egress.policy.digest,
        "host_addresses": sorted(await asyncio.to_thread(host_addresses)),
        "private": [str(network) for network in config.private],
        "own_endpoints": list(own_endpoints(config)),
    }
    return web.json_response(answer)


async def change_policy(request: web.Request) -> web.Response:
    """Changes the policy: at once where the workspace runs, else from its next start on."""
    supervisor = named(request)
    user = who(request.get_extra_info("socket"))
    now = datetime.now(UTC)
    body, origin = await json_body(request), f"policy, by {user} at {now:%Y-%m-%dT%H:%M:%SZ}"
    change = await in_turn(request, lambda: change_from_json(body, origin, now))
    old = supervisor.egress.policy.digest
    changed = await supervisor.change_egress(change, user)
    answer: messages.ChangedPolicy = {
        "name": supervisor.record.name,
        "changed": changed,
        "running": supervisor.life is not None,
        "old": old,
        "new": supervisor.egress.policy.digest,
        "egress": supervisor.egress.to_json(),
    }
    return web.json_response(answer)


def caller_of(request: web.Request) -> Caller:
    """Who asks."""
    return caller(request.get_extra_info("socket"))


async def in_turn(request: web.Request, function: Callable[[], T]) -> T:
    """Runs what may take long in a thread, of which each user has a few."""
    uid = uid_of(request.get_extra_info("socket"))
    return await request.app[FLEET].services.turns.work(uid, function)


def spec_from(body: Any) -> WorkspaceSpec:
    """A workspace's settings that its creator may have; PolicyError or ApiError for others. For a worker thread."""
    spec = from_json(body)
    vetted(spec.egress.entries)
    return spec


def named(request: web.Request) -> Supervisor:
    """The workspace in the request's path."""
    return request.app[FLEET].get(checked_name(request.match_info["name"]))


async def json_body(request: web.Request) -> Any:
    """The request's JSON; ApiError `invalid` when it is none."""
    # Not the request's own method, which lets its sender choose among all of Python's codecs.
    return parsed(await request.read())


def parsed(text: bytes) -> Any:
    """JSON from a client; ApiError `invalid` when it is none. Nothing else runs meanwhile, so it is bounded."""
    if text.count(b",") + text.count(b"[") + text.count(b"{") > _MOST_VALUES:
        raise ApiError("invalid", f"the request's JSON has more than {_MOST_VALUES} values")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ApiError("invalid", "the request's body is not JSON") from error
