"""The client's half of an attached run: our stdin to the guest, its output to ours, its exit code back.

Ctrl-C and SIGTERM ask the agent to end the guest and wait for its answer, so that nothing is left when we exit; a
second one does not wait. A closed output (`| head`) ends the guest, too.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from microagent.api.client import Client
from microagent.api.errors import from_json
from microagent.api.messages import RUN, STDERR, STDIN, STDOUT, Denied, frame
from microagent.cli.pipes import read, while_read, write
from microagent.errors import ApiError

_DESCRIPTORS = {STDOUT: 1, STDERR: 2}


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended: the code to exit with, and what was denied."""

    code: int
    denied: Denied


async def attached(socket: Path, spec: dict[str, Any], *, make: bool) -> Ended:
    """Runs a new workspace to its end. ApiError when it cannot be, `no_image` when its image is to be made first."""
    async with Client(socket) as client, client.websocket(f"{RUN}?make={int(make)}") as websocket:
        run = _Run(websocket)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, run.end, int(number))
        await websocket.send_json({"spec": spec})
        try:
            return await run.follow()
        finally:
            run.close()


@dataclass
class _Run:
    """One run; `ending` is the number of the signal that ends it, 0 while nobody wants that."""

    websocket: aiohttp.ClientWebSocketResponse
    ending: int = 0
    _wanted: asyncio.Event = field(default_factory=asyncio.Event)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def follow(self) -> Ended:
        """Shows output until the run is over."""
        self._do(self._watch_output())
        async for message in self.websocket:
            if message.type is aiohttp.WSMsgType.BINARY:
                await self._show(message.data)
                continue
            told = json.loads(message.data)
            if told["type"] == "started":
                self._do(self._feed())
            elif told["type"] == "exit":
                return Ended(self._code(told["code"]), told["denied"])
            elif self.ending:
                return Ended(self._code(0), {"count": 0, "hosts": []})
            else:
                raise from_json(told)
        raise ApiError("internal", "the agent went away during the run", "its log says why")

    def end(self, number: int) -> None:
        """Asks for the end of the guest; the second time, does not wait for it."""
        if self.ending:
            os._exit(128 + number)
        self.ending = number
        self._wanted.set()
        self._do(self._say("end"))

    def close(self) -> None:
        """Stops reading stdin, and all else that goes on."""
        for task in self._tasks:
            task.cancel()

    def _code(self, code: int) -> int:
        return 128 + self.ending if self.ending else code

    async def _show(self, data: bytes) -> None:
        """Writes a frame, for as long as nobody wants the end: then a reader that does not read is not waited for."""
        writing = asyncio.ensure_future(write(_DESCRIPTORS[data[0]], data[1:]))
        wanted = asyncio.ensure_future(self._wanted.wait())
        await asyncio.wait([writing, wanted], return_when=asyncio.FIRST_COMPLETED)
        wanted.cancel()
        writing.cancel()
        await asyncio.wait([writing])
        if not writing.cancelled() and isinstance(writing.exception(), BrokenPipeError):
            self._broken()

    async def _watch_output(self) -> None:
        try:
            await while_read(_DESCRIPTORS[STDOUT], asyncio.Event().wait())
        except BrokenPipeError:
            self._broken()

    def _broken(self) -> None:
        if not self.ending:
            self.end(signal.SIGPIPE)

    async def _feed(self) -> None:
        """Our stdin to the guest; none when it is closed."""
        if sys.stdin is not None:
            async for chunk in read(sys.stdin.fileno()):
                await self.websocket.send_bytes(frame(STDIN, chunk))
        await self._say("eof")

    async def _say(self, wish: str) -> None:
        await self.websocket.send_json({"type": wish})

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        async def until_the_agent_left() -> None:
            with contextlib.suppress(ConnectionError):
                await work

        task = asyncio.get_running_loop().create_task(until_the_agent_left())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
