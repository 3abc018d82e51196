"""The client's half of an attached command: our stdin to the guest, its output to ours, its exit code back.

Ctrl-C and SIGTERM end a run: the agent is asked to end the guest and waited for, so that nothing is left when we exit.
A command of `exec` gets the signal itself, and says how it ends. A second one does not wait: the agent ends a command
whose client is gone. So does a closed output (`| head`). On a terminal Ctrl-C is a key like others.
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
from microagent.api.messages import INPUT_WINDOW, STDERR, STDIN, STDOUT, Denied, frame
from microagent.cli.pipes import read, while_read, write
from microagent.cli.terminal import RawMode, size
from microagent.errors import ApiError

_DESCRIPTORS = {STDOUT: 1, STDERR: 2}
_NOTHING: Denied = {"count": 0, "hosts": []}


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended: the code to exit with, and what was denied (of a run)."""

    code: int
    denied: Denied


async def attached(socket: Path, path: str, first: dict[str, Any], *, signals: bool) -> Ended:
    """Runs a command to its end, beginning with the message `first`. ApiError when it cannot be.

    `signals`: the command gets our signals, instead of being ended by them.
    """
    async with Client(socket) as client, client.websocket(path) as websocket:
        command = _Attached(websocket, signals, on_terminal=first["terminal"] is not None)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, command.told, int(number))
        await websocket.send_json(first)
        try:
            ended = await command.follow()
        finally:
            command.close()
    if command.unwritten:
        raise ApiError("failed", f"cannot write the command's output: {command.unwritten.strerror}")
    return ended


@dataclass
class _Attached:
    """One command; `ending` is the number of the signal that ends it, 0 while nobody wants that.

    `unwritten` is why its output could not be written, where that was not because nobody reads it.
    """

    websocket: aiohttp.ClientWebSocketResponse
    signals: bool
    on_terminal: bool
    ending: int = 0
    unwritten: OSError | None = None
    _started: bool = False
    _last_told: int = 0
    _on_its_way: int = 0
    _taken: asyncio.Event = field(default_factory=asyncio.Event)
    _wanted: asyncio.Event = field(default_factory=asyncio.Event)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _raw: RawMode = field(default_factory=RawMode)

    async def follow(self) -> Ended:
        """Shows output until the command is over."""
        self._do(self._watch_output())
        async for message in self.websocket:
            if message.type is aiohttp.WSMsgType.BINARY:
                await self._show(message.data)
                continue
            told = json.loads(message.data)
            if told["type"] == "started":
                self._begin()
            elif told["type"] == "taken":
                self._on_its_way -= told["bytes"]
                self._taken.set()
            elif told["type"] == "exit":
                return Ended(self._code(told["code"]), told.get("denied", _NOTHING))
            elif self.ending:
                break
            else:
                raise from_json(told)
        if self.ending:
            return Ended(self._code(0), _NOTHING)
        raise ApiError("internal", "the agent went away during the command", "its log says why")

    def told(self, number: int) -> None:
        """A signal for us."""
        if self._last_told:
            self._raw.restore()
            os._exit(128 + number)
        self._last_told = number
        if self.signals and self._started:
            self._do(self.websocket.send_json({"type": "signal", "number": number}))
        else:
            self._end(number)

    def close(self) -> None:
        """Stops reading stdin, and all else that goes on."""
        self._raw.restore()
        for task in self._tasks:
            task.cancel()

    def _begin(self) -> None:
        self._started = True
        if self.on_terminal:
            self._raw.begin()
            asyncio.get_running_loop().add_signal_handler(signal.SIGWINCH, self._resized)
            self._resized()  # it may have another size by now
        self._do(self._feed())

    def _resized(self) -> None:
        self._do(self.websocket.send_json({"type": "resize", **size()}))

    def _end(self, number: int) -> None:
        """Asks for the end, of a run with its guest."""
        self.ending = number
        self._wanted.set()
        self._do(self.websocket.send_json({"type": "end"}))

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
        error = None if writing.cancelled() else writing.exception()
        if isinstance(error, OSError):
            self.unwritten = None if isinstance(error, BrokenPipeError) else error
            self._broken()

    async def _watch_output(self) -> None:
        try:
            await while_read(_DESCRIPTORS[STDOUT], asyncio.Event().wait())
        except BrokenPipeError:
            self._broken()

    def _broken(self) -> None:
        if not self.ending:
            self._end(signal.SIGPIPE)

    async def _feed(self) -> None:
        """Our stdin to the guest, no faster than it is taken; none when it is closed."""
        if sys.stdin is not None:
            async for chunk in read(sys.stdin.fileno()):
                while self._on_its_way + len(chunk) > INPUT_WINDOW:
                    self._taken.clear()
                    await self._taken.wait()
                self._on_its_way += len(chunk)
                await self.websocket.send_bytes(frame(STDIN, chunk))
        await self.websocket.send_json({"type": "eof"})

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        async def until_the_agent_left() -> None:
            with contextlib.suppress(ConnectionError):
                await work

        task = asyncio.get_running_loop().create_task(until_the_agent_left())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
