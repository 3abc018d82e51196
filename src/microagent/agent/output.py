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
        self._fd = store.open_log(name, OUTPUT)

    async def pump(self, chunks: AsyncIterator[tuple[int, bytes]]) -> None:
        """Runs until the guest's output ends."""
        try:
            async for channel, data in chunks:
                await self.add(channel, data)
        finally:
            os.close(self._fd)
            self._fd = -1

    async def add(self, channel: int, data: bytes) -> None:
        """What was printed: into the log, and to who is attached; for pump, and for a command on a terminal."""
        self._log(data)
        await self._send(channel, data)

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

    def _log(self, data: bytes) -> None:
        """Appends to the log, which is put aside when it is long."""
        # A full disk costs the log, and not the run: output that nobody takes would stop the guest for good.
        with contextlib.suppress(OSError, HostError):
            os.write(self._fd, data)
            if os.fstat(self._fd).st_size > _LONGEST_LOG:
                path = self._store.path(self._name, OUTPUT)
                path.replace(path.with_suffix(".log.1"))
                new = self._store.open_log(self._name, OUTPUT)
                os.close(self._fd)
                self._fd = new
