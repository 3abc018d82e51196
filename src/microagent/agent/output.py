"""The guest's output: into output.log, and to whoever is attached, as it comes."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeAlias

from microagent.errors import HostError
from microagent.workspace.store import OUTPUT, Store

Sink: TypeAlias = Callable[[int, bytes], Awaitable[None]]

# A guest may print for weeks. The log and the one before it are kept, so this is half of what it may take.
_LONGEST_LOG = 16 << 20


class Output:
    """Relays one run's output. An attached client that is slow slows the guest; one that left does not."""

    def __init__(self, store: Store, name: str, sink: Sink | None) -> None:
        self._store = store
        self._name = name
        self._sink = sink
        self._sending: asyncio.Future[None] | None = None

    async def pump(self, chunks: AsyncIterator[tuple[int, bytes]]) -> None:
        """Runs until the guest's output ends."""
        fd = self._store.open_log(self._name, OUTPUT)
        try:
            async for channel, data in chunks:
                fd = self._log(fd, data)
                await self._send(channel, data)
        finally:
            os.close(fd)

    def detach(self) -> None:
        """Nobody is attached any more: a guest that is ended must not wait for a client that does not read."""
        self._sink = None
        if self._sending:
            self._sending.cancel()

    async def _send(self, channel: int, data: bytes) -> None:
        if self._sink is None:
            return
        self._sending = asyncio.ensure_future(self._sink(channel, data))
        await asyncio.wait([self._sending])
        if self._sending.cancelled() or self._sending.exception():
            self._sink = None

    def _log(self, fd: int, data: bytes) -> int:
        """Appends to the log; returns the descriptor to go on with, a new one when the log was put aside."""
        # A full disk costs the log, and not the run: output that nobody takes would stop the guest for good.
        with contextlib.suppress(OSError, HostError):
            os.write(fd, data)
            if os.fstat(fd).st_size > _LONGEST_LOG:
                path = self._store.path(self._name, OUTPUT)
                path.replace(path.with_suffix(".log.1"))
                new = self._store.open_log(self._name, OUTPUT)
                os.close(fd)
                return new
        return fd
