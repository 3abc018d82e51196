"""An attached run: one websocket from the settings to the exit code (frames: see api.messages).

The workspace belongs to the websocket. When the client is gone, for whatever reason, the guest is ended; an ephemeral
workspace is then deleted by the fleet, with nobody left to ask. When the agent is gone, the guest goes on without a
client: the next agent has its exit code.
"""

import asyncio
import json
import logging
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp import web

from microagent.agent.handlers import FLEET, caller_of
from microagent.agent.supervisor import Supervisor
from microagent.api.errors import to_json
from microagent.api.messages import STDIN, frame
from microagent.errors import ApiError, MicroagentError
from microagent.workspace.egress import vetted
from microagent.workspace.spec import from_json
from microagent.workspace.states import State

if TYPE_CHECKING:
    from microagent.guests.qemu import Guest

log = logging.getLogger(__name__)

# What a shell reports for a command ended by SIGKILL: the code of a run that was ended from outside.
_KILLED = 128 + 9


async def run(request: web.Request) -> web.WebSocketResponse:
    """Creates, starts, relays, reports."""
    socket = web.WebSocketResponse(max_msg_size=64 << 20)
    await socket.prepare(request)
    try:
        await _run(request, socket)
    except MicroagentError as error:
        await _tell(socket, {"type": "error", **to_json(error)})
    await socket.close()
    return socket


async def _run(request: web.Request, socket: web.WebSocketResponse) -> None:
    spec = from_json(await _spec(socket))
    vetted(spec.egress.entries)
    make = request.query.get("make") != "0"
    supervisor = await request.app[FLEET].create(spec, caller_of(request), make=make)
    begun: asyncio.Future[Guest] = asyncio.get_running_loop().create_future()
    listening = asyncio.create_task(_listen(socket, supervisor, begun))
    try:
        life = await supervisor.start(lambda channel, data: socket.send_bytes(frame(channel, data)))
        begun.set_result(life.guest)
        await _tell(socket, {"type": "started", "name": supervisor.record.name})
        await supervisor.ended()
        if supervisor.released:
            name = supervisor.record.name
            raise ApiError("busy", f"the agent ends; workspace {name} goes on", f"microagent logs {name} -f")
    finally:
        listening.cancel()
        await supervisor.kill()
    record = supervisor.record
    if record.state is State.FAILED:
        hint = (
            "run with --keep to have its console"
            if record.spec.ephemeral
            else f"microagent logs {record.name} --console"
        )
        raise ApiError("failed", record.reason, hint)
    code = _KILLED if record.exit_code is None else record.exit_code
    await _tell(socket, {"type": "exit", "code": code, "denied": dict(supervisor.denied)})


async def _spec(socket: web.WebSocketResponse) -> Any:
    try:
        return (await socket.receive_json())["spec"]
    except (TypeError, KeyError, ValueError) as error:
        raise ApiError("invalid", "a run begins with its settings") from error


async def _listen(socket: web.WebSocketResponse, supervisor: Supervisor, begun: asyncio.Future["Guest"]) -> None:
    """The client's frames, until it ends the run or is gone."""
    async for message in socket:
        if message.type is aiohttp.WSMsgType.BINARY and message.data[:1] == bytes((STDIN,)):
            await (await begun).stdin.write(message.data[1:])
        elif message.type is not aiohttp.WSMsgType.TEXT or (wish := _wish(message.data)) == "end":
            break
        elif wish == "eof":
            await (await begun).stdin.eof()
    await supervisor.kill()


def _wish(text: str) -> str:
    """What a text frame asks for; one that is none of ours ends the run."""
    try:
        return str(json.loads(text)["type"])
    except (ValueError, TypeError, KeyError):
        return "end"


async def _tell(socket: web.WebSocketResponse, message: dict[str, Any]) -> None:
    try:
        await socket.send_json(message)
    except ConnectionError:
        log.info("the client of a run left before its end")
