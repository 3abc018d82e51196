"""Sends the records on: from the files, by the agent, to the receivers that agent.yaml names.

Mediators take no part in it, so a receiver that is slow or away slows no flow: the files wait. What a receiver has
taken is noted after it has, so it gets every record, and after a crash a few of them twice; `id` and `seq` tell.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING

from microagent.agent.fleet import Fleet
from microagent.agent.outbox import Outbox, Place, Source
from microagent.agent.receivers import Receiver, receivers_of
from microagent.agent.undo import cancelled
from microagent.errors import HostError

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger(__name__)

_EVERY = 1.0  # seconds
_BATCH = 256
# After each failure it waits twice as long, up to this.
_LONGEST_WAIT = 10.0


@asynccontextmanager
async def forwarding(fleet: Fleet) -> AsyncIterator[None]:
    """Sends records for as long as it is entered; nothing where no receiver is configured."""
    async with AsyncExitStack() as undo:
        for receiver in receivers_of(fleet.services.config):
            undo.push_async_callback(receiver.close)
            task = asyncio.create_task(_Forwarder(fleet, receiver).run())
            undo.push_async_callback(cancelled, task)
        yield


class _Forwarder:
    """One receiver, all logs, a block of each in turn."""

    def __init__(self, fleet: Fleet, receiver: Receiver) -> None:
        self._fleet = fleet
        self._outbox: Outbox = fleet.services.outbox
        self._receiver = receiver
        self._sources: dict[Path, tuple[object, Source]] = {}
        self._wait = 0.0

    async def run(self) -> None:
        """Until it is cancelled."""
        try:
            while True:
                try:
                    if not await self._round():
                        await asyncio.sleep(_EVERY)
                except OSError as error:
                    log.error("records not read to=%s error=%s", self._receiver.name, error)
                    await asyncio.sleep(_EVERY)
        finally:
            for _, source in self._sources.values():
                source.close()

    async def _round(self) -> bool:
        """Whether there was anything to send."""
        self._look_around()
        busy = False
        for path, (whose, source) in tuple(self._sources.items()):
            lines = await asyncio.to_thread(source.block)
            if lines:
                busy = True
                await self._send(source, lines)
            elif whose is self._outbox:
                self._sources.pop(path)[1].close()
                self._outbox.sent(path, self._receiver.name)
        return busy

    def _look_around(self) -> None:
        store = self._fleet.services.store
        here: dict[Path, object] = {store.path(s.record.name): s for s in self._fleet.all()}
        here |= dict.fromkeys(self._outbox.waiting_for(self._receiver.name), self._outbox)
        for path in [path for path, (whose, _) in self._sources.items() if here.get(path) is not whose]:
            self._sources.pop(path)[1].close()
        for path, whose in here.items():
            if path not in self._sources:
                with suppress(HostError):  # it was deleted in this moment
                    self._sources[path] = whose, Source(path, self._receiver.name)

    async def _send(self, source: Source, lines: list[tuple[bytes, Place]]) -> None:
        """All of them, however long it takes; the place is noted as they are taken."""
        sent = 0
        while batch := lines[sent : sent + _BATCH]:
            if taken := await self._try(source.workspace, [line for line, _ in batch]):
                await self._remember(source, batch[taken - 1][1])
                sent += taken

    async def _remember(self, source: Source, place: Place) -> None:
        try:
            await asyncio.to_thread(source.remember, place)
        except (HostError, OSError) as error:
            # A full disk, or the workspace is just deleted: it is sent on, and after a restart once more.
            log.warning("place not noted workspace=%s to=%s error=%s", source.workspace, self._receiver.name, error)

    async def _try(self, workspace: str, lines: list[bytes]) -> int:
        try:
            taken = await self._receiver.send(workspace, lines)
        except OSError as error:
            if not self._wait:
                log.warning("records wait for=%s error=%s", self._receiver.name, error)
            self._wait = min(_LONGEST_WAIT, self._wait * 2 or _EVERY)
            await asyncio.sleep(self._wait)
            return 0
        if self._wait:
            log.info("records are sent again to=%s", self._receiver.name)
            self._wait = 0.0
        return taken
