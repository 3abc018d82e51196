"""What an attached client types or pipes in, on its way to the command.

How this works. Whoever listens to a client must never wait for the command, or nobody would notice that the client has
left. So the client sends no more than INPUT_WINDOW bytes that were not reported as taken, and they wait here.
"""

import asyncio
from typing import Protocol

from aiohttp import web

from microagent.api.messages import INPUT_WINDOW
from microagent.errors import ApiError


class Stdin(Protocol):
    """Where it goes: the guest's own command, or one that was started besides."""

    async def write(self, data: bytes) -> None:
        """Returns when more may come."""

    async def eof(self) -> None:
        """No more."""


class ClientInput:
    """Takes what the client sends, at once; `pump` brings it to the command."""

    def __init__(self) -> None:
        self._waiting: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._size = 0

    def add(self, data: bytes) -> None:
        """ApiError `invalid` for more than was asked for."""
        self._size += len(data)
        if self._size > INPUT_WINDOW:
            raise ApiError("invalid", "the client sends more than it was asked for")
        self._waiting.put_nowait(data)

    def end(self) -> None:
        """Nothing more comes."""
        self._waiting.put_nowait(None)

    async def pump(self, socket: web.WebSocketResponse, stdin: Stdin) -> None:
        """Runs until the end of the input."""
        while (data := await self._waiting.get()) is not None:
            await stdin.write(data)
            self._size -= len(data)
            try:
                await socket.send_json({"type": "taken", "bytes": len(data)})
            except ConnectionError:
                return
        await stdin.eof()
