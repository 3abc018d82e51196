"""Mediators for all workspaces, from a nursery that is replaced when it dies."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path

from microagent.agent.mediators import Counters, Mediator, Nursery
from microagent.api.control import MediatorSettings
from microagent.host.sockets import MediatorSockets

log = logging.getLogger(__name__)


class Spawner:
    """Holds the nursery; mediators that live do not notice when it changes."""

    def __init__(self, nursery: Nursery, upstream_ca: tuple[str, ...]) -> None:
        self._nursery = nursery
        self._upstream_ca = upstream_ca
        self._renewing = asyncio.Lock()

    @classmethod
    @contextlib.asynccontextmanager
    async def started(cls, upstream_ca: tuple[str, ...]) -> AsyncIterator["Spawner"]:
        """A spawner whose nursery ends with the block; `upstream_ca` are PEM texts. HostError when it cannot start."""
        spawner = cls(await Nursery.start(upstream_ca), upstream_ca)
        try:
            yield spawner
        finally:
            await spawner._nursery.close()

    async def spawn(
        self, settings: MediatorSettings, sockets: MediatorSockets, log_fd: int, place: Path, counters: Counters
    ) -> Mediator:
        """As `Nursery.spawn`, tried once more from a new nursery when the old one is gone."""
        nursery = self._nursery
        try:
            return await nursery.spawn(settings, sockets, log_fd, place, counters)
        except ConnectionError as error:
            log.warning("nursery gone error=%r", str(error))
            await self._renew(nursery)
        return await self._nursery.spawn(settings, sockets, log_fd, place, counters)

    async def _renew(self, gone: Nursery) -> None:
        async with self._renewing:
            # Of several workspaces that notice, the first one starts another.
            if self._nursery is gone:
                self._nursery = await Nursery.start(self._upstream_ca)
                await gone.close()
