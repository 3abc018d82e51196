"""The client's half of an attached run: our stdin to the guest, its output to ours, its exit code back.

Ctrl-C and SIGTERM ask the agent to end the guest and wait for its answer, so that nothing is left when we exit; a
second one does not wait. A closed output (`| head`) ends the guest, too.
"""

import asyncio
import json
import os
import signal
import stat
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from microagent.api.client import Client
from microagent.api.errors import from_json
from microagent.api.messages import RUN, STDERR, STDIN, Denied, frame
from microagent.errors import ApiError

_CHUNK = 64 * 1024
_OUTPUTS = {STDERR: 2}


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended: the code to exit with, and what was denied."""

    code: int
    denied: Denied


@dataclass
class _Ending:
    """Which signal asked for the end, if one did."""

    number: int = 0


async def attached(socket: Path, spec: dict[str, Any]) -> Ended:
    """Runs a new workspace to its end. ApiError when it cannot be."""
    ending = _Ending()
    async with Client(socket) as client, client.websocket(RUN) as websocket:
        _on_signals(websocket, ending)
        await websocket.send_json({"spec": spec})
        feeding: asyncio.Task[None] | None = None
        try:
            async for message in websocket:
                if message.type is aiohttp.WSMsgType.BINARY:
                    await _show(message.data, websocket, ending)
                    continue
                told = json.loads(message.data)
                if told["type"] == "started":
                    feeding = asyncio.create_task(_feed(websocket))
                elif told["type"] == "exit":
                    return Ended(128 + ending.number if ending.number else told["code"], told["denied"])
                elif ending.number:
                    return Ended(128 + ending.number, {"count": 0, "hosts": []})
                else:
                    raise from_json(told)
        finally:
            if feeding:
                feeding.cancel()
    raise ApiError("internal", "the agent went away during the run", "its log says why")


def _on_signals(websocket: aiohttp.ClientWebSocketResponse, ending: _Ending) -> None:
    loop = asyncio.get_running_loop()
    asked: set[asyncio.Task[None]] = set()

    def end(number: int) -> None:
        if ending.number:
            os._exit(128 + number)
        ending.number = number
        asked.add(loop.create_task(_ask_to_end(websocket)))

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, end, int(number))


async def _ask_to_end(websocket: aiohttp.ClientWebSocketResponse) -> None:
    await websocket.send_json({"type": "end"})


async def _show(data: bytes, websocket: aiohttp.ClientWebSocketResponse, ending: _Ending) -> None:
    """Writes a frame to stdout or stderr, in a thread: a reader that is slow must not keep Ctrl-C from us."""
    try:
        await asyncio.to_thread(_write_all, _OUTPUTS.get(data[0], 1), data[1:])
    except BrokenPipeError:
        if not ending.number:
            ending.number = signal.SIGPIPE
            await _ask_to_end(websocket)


def _write_all(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


async def _feed(websocket: aiohttp.ClientWebSocketResponse) -> None:
    try:
        async for chunk in _stdin():
            await websocket.send_bytes(frame(STDIN, chunk))
        await websocket.send_json({"type": "eof"})
    except ConnectionError:
        return


async def _stdin() -> AsyncIterator[bytes]:
    """Our stdin's bytes as they come; none when it is closed, or a terminal that another job has."""
    if sys.stdin is None:
        return
    fd = sys.stdin.fileno()
    pollable = stat.S_IFMT(os.fstat(fd).st_mode) in (stat.S_IFIFO, stat.S_IFSOCK) or os.isatty(fd)
    while True:
        if pollable:
            await _readable(fd)
        if os.isatty(fd) and os.tcgetpgrp(fd) != os.getpgrp():
            # Reading would stop us (SIGTTIN); the terminal is the foreground job's.
            await asyncio.sleep(0.2)
            continue
        chunk = os.read(fd, _CHUNK) if pollable else await asyncio.to_thread(os.read, fd, _CHUNK)
        if not chunk:
            return
        yield chunk


async def _readable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    ready = loop.create_future()

    def wake() -> None:
        # The loop may report it once more before the reader is removed.
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(fd, wake)
    try:
        await ready
    finally:
        loop.remove_reader(fd)
