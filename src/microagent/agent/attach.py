"""Attached commands: one websocket from the request to the exit code (frames: see api.messages).

A command belongs to its websocket. When the client is gone, for whatever reason, the command is ended: that of `run`
with its guest (an ephemeral workspace is then deleted by the fleet, with nobody left to ask), that of `exec` by itself.
When the agent is gone, a guest goes on without a client and the next agent has its exit code; commands of `exec` end.
"""

import asyncio
import contextlib
import json
import logging
import signal
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import aiohttp
from aiohttp import web

from microagent.agent.bringup import Life
from microagent.agent.client_input import ClientInput
from microagent.agent.handlers import FLEET, caller_of, in_turn, named, parsed, spec_from
from microagent.agent.supervisor import Supervisor
from microagent.api.errors import to_json
from microagent.api.messages import LARGEST_REQUEST, STDIN, frame
from microagent.errors import ApiError, MicroagentError
from microagent.guests.exec import Command
from microagent.guests.frames import Request, Terminal
from microagent.workspace.spec import exec_from_json
from microagent.workspace.states import State

log = logging.getLogger(__name__)

# What a shell reports for a command ended by SIGKILL: the code of a run that was ended from outside.
_KILLED = 128 + 9
_SIGNALS = frozenset(map(int, signal.Signals))
_CELLS = range(1, 1 << 16)
# Of a terminal: names in terminfo are far shorter.
_LONGEST_TYPE = 64
# Of what a client says after its first word.
_LONGEST_WISH = 1024


class Attached:
    """The client's side of a command: its socket, its input, and what it wishes."""

    def __init__(self, socket: web.WebSocketResponse) -> None:
        self.socket = socket
        self.input = ClientInput()
        # Set once there is one; wishes that come earlier concern nothing yet.
        self.command: Command | None = None

    async def first(self) -> dict[str, Any]:
        """What the client asks for."""
        try:
            message = parsed((await self.socket.receive_str()).encode())
        except (TypeError, ValueError) as error:
            raise ApiError("invalid", "the client begins with what is not JSON") from error
        if not isinstance(message, dict):
            raise ApiError("invalid", "the client begins with what is no request")
        return message

    async def tell(self, message: dict[str, Any]) -> None:
        """One JSON message; nothing when the client has left."""
        try:
            await self.socket.send_json(message)
        except ConnectionError:
            log.info("the client of a command left before its end")

    async def show(self, channel: int, data: bytes) -> None:
        """Output, as fast as the client reads; ConnectionError when it has left."""
        await self.socket.send_bytes(frame(channel, data))

    async def listen(self) -> None:
        """Takes the client's frames, until it ends the command, is gone, or sends what is none of ours."""
        async for message in self.socket:
            if message.type is aiohttp.WSMsgType.BINARY and message.data[:1] == bytes((STDIN,)):
                self.input.add(message.data[1:])
            elif message.type is not aiohttp.WSMsgType.TEXT or not self._fulfilled(message.data):
                return

    def _fulfilled(self, text: str) -> bool:
        if len(text) > _LONGEST_WISH:
            return False
        try:
            match json.loads(text):
                case {"type": "eof"}:
                    self.input.end()
                case {"type": "resize", **size}:
                    if (terminal := _size(size)) and self.command:
                        self.command.resize(terminal)
                case {"type": "signal", "number": int(number)} if number in _SIGNALS:
                    if self.command:
                        self.command.signal(number)
                case _:
                    return False
        except (ValueError, RecursionError):
            return False
        return True

    async def until_left(self, work: Coroutine[Any, Any, None]) -> None:
        """Does the work; cancels it as soon as the client is gone, or wants the end."""
        working, listening = asyncio.create_task(work), asyncio.create_task(self.listen())
        try:
            await asyncio.wait([working, listening], return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                working.cancel()
                await asyncio.wait([working])
            listening.cancel()
            await asyncio.wait([listening])
            if not listening.cancelled() and (broken := listening.exception()):
                raise broken
            if not working.cancelled():
                working.result()
        finally:
            working.cancel()
            listening.cancel()

    async def relay(self, command: Command, show: Callable[[int, bytes], Awaitable[None]]) -> int:
        """Input and output of a command on its own, to its end; its code."""
        self.command = command
        feeding = asyncio.create_task(self.input.pump(self.socket, command))
        try:
            async for stream, data in command.output():
                await show(stream, data)
            return await command.wait()
        finally:
            command.kill()
            feeding.cancel()
            await asyncio.wait([feeding])


async def run(request: web.Request) -> web.WebSocketResponse:
    """Creates, starts, relays, reports."""
    return await _answer(request, _run)


async def exec_(request: web.Request) -> web.WebSocketResponse:
    """Runs a command in a workspace that runs."""
    return await _answer(request, _exec)


async def _answer(
    request: web.Request, do: Callable[[web.Request, Attached], Awaitable[None]]
) -> web.WebSocketResponse:
    socket = web.WebSocketResponse(max_msg_size=LARGEST_REQUEST)
    await socket.prepare(request)
    attached = Attached(socket)
    try:
        await do(request, attached)
    except MicroagentError as error:
        await attached.tell({"type": "error", **to_json(error)})
    await socket.close()
    return socket


async def _exec(request: web.Request, attached: Attached) -> None:
    wish = await attached.first()
    terminal, env = _terminal(wish.pop("terminal", None))
    what = exec_from_json(wish)
    supervisor = named(request)
    life = running(supervisor)

    async def work() -> None:
        wanted = Request(what.command, env | dict(what.env), what.user, what.workdir, terminal)
        command = await life.guest.commands.start(wanted)
        try:
            await attached.tell({"type": "started", "name": supervisor.record.name})
            with contextlib.suppress(ConnectionError):
                code = await attached.relay(command, attached.show)
                await attached.tell({"type": "exit", "code": code})
        finally:
            command.kill()

    await attached.until_left(work())


def running(supervisor: Supervisor) -> Life:
    """The workspace's life; ApiError when nothing can be run in it now."""
    name, state = supervisor.record.name, supervisor.record.state
    if state in (State.STARTING, State.STOPPING):
        raise ApiError("busy", f"workspace {name} is {state}", "try again in a moment")
    if supervisor.life is None:
        how = "has failed" if state is State.FAILED else f"is {state}"
        raise ApiError("conflict", f"workspace {name} does not run, it {how}", f"microagent start {name}")
    return supervisor.life


async def _run(request: web.Request, attached: Attached) -> None:
    wish = await attached.first()
    if "spec" not in wish:
        raise ApiError("invalid", "a run begins with its settings")
    terminal, env = _terminal(wish.get("terminal"))
    spec = await in_turn(request, lambda: spec_from(wish["spec"]))
    make = request.query.get("make") != "0"
    supervisor: Supervisor | None = None

    async def work() -> None:
        nonlocal supervisor
        supervisor = await request.app[FLEET].create(spec, caller_of(request), make=make, commanded=True)
        life = await supervisor.start(attached.show, on_terminal=terminal is not None)
        await attached.tell({"type": "started", "name": spec.name})
        if terminal is None:
            await _follow(supervisor, life, attached)
        else:
            wanted = Request(life.argv, env | dict(spec.env), terminal=terminal)
            command = await life.guest.commands.start(wanted)
            await supervisor.finish(await attached.relay(command, life.output.add))

    try:
        await attached.until_left(work())
    finally:
        if supervisor:
            await supervisor.kill()
    await _report(supervisor, attached)


async def _follow(supervisor: Supervisor, life: Life, attached: Attached) -> None:
    """Input to the guest's own command, until its workspace has ended; its output goes to the client by itself."""
    feeding = asyncio.create_task(attached.input.pump(attached.socket, life.guest.stdin))
    try:
        await supervisor.ended()
    finally:
        feeding.cancel()
        await asyncio.wait([feeding])
    if supervisor.released:
        name = supervisor.record.name
        raise ApiError("busy", f"the agent ends; workspace {name} goes on", f"microagent logs {name} -f")


async def _report(supervisor: Supervisor | None, attached: Attached) -> None:
    """How a run ended; a client that left before anything was made hears nothing."""
    if supervisor is None:
        return
    record = supervisor.record
    if record.state is State.FAILED:
        hint = (
            "run with --keep to have its console"
            if record.spec.ephemeral
            else f"microagent logs {record.name} --console"
        )
        raise ApiError("failed", record.reason, hint)
    code = _KILLED if record.exit_code is None else record.exit_code
    await attached.tell({"type": "exit", "code": code, "denied": dict(supervisor.denied)})


def _terminal(value: object) -> tuple[Terminal | None, dict[str, str]]:
    """A terminal's size, and the variable that says what it can do; ApiError `invalid` for what is neither nor null."""
    if value is None:
        return None, {}
    match value:
        case {"type": str(kind), **size} if (
            (terminal := _size(size)) and kind.isprintable() and len(kind) <= _LONGEST_TYPE
        ):
            return terminal, {"TERM": kind}
    raise ApiError("invalid", "not a terminal")


def _size(value: dict[Any, Any]) -> Terminal | None:
    match value:
        case {"rows": int(rows), "columns": int(columns)} if rows in _CELLS and columns in _CELLS:
            return Terminal(rows, columns)
    return None
