"""Seals the logs of running workspaces, each second; rotates them when they are long, makes anew what somebody took.

How this works: the agent reads the last line of a log and nothing else, and that at its two ends only, which are the
mediator's, and signs where it stands (`seals`).

Rotation: a new file takes the log's name, the mediator is handed its descriptor and says when it has switched, and the
last record of the old file is sealed. Seals of records that were rotated out go, but for the last, which the oldest
record that is left is linked to. An agent that takes over finishes what the one before had begun of a rotation.
"""

import contextlib
import logging
import os
from collections.abc import Awaitable, Callable
from functools import partial

from microagent.agent.keeper import Keeper
from microagent.agent.rounds import Rounds
from microagent.agent.seals import Seals
from microagent.audit import logfile
from microagent.audit.chain import head
from microagent.errors import HostError, MicroagentError
from microagent.workspace.store import EGRESS, Store

log = logging.getLogger(__name__)

# Contract 10.
ROTATE_BYTES = 64 << 20


class Sealer:
    """Seals and rotates the log of one workspace for as long as it runs."""

    def __init__(self, rounds: Rounds, store: Store, seals: Seals, name: str, switched: Callable[[int], None]) -> None:
        """`switched` is given the descriptor of the new file after a rotation, or when the log was taken away."""
        self._rounds = rounds
        self._store = store
        self._seals = seals
        self._name = name
        self._switched = switched
        self._path = str(store.path(name, EGRESS))
        self._inode = 0
        self._sealed = 0, 0

    async def keep_sealed(self, keeper: Keeper) -> None:
        """Runs until it is cancelled, with a last seal then."""
        self._inode = self._stamp()[0]
        try:
            await self._try(self._rounds.work(self._finish_rotation))
            while True:
                await self._rounds.until(self._look)
                now = self._stamp()
                if now[0] != self._inode:
                    await self._try(self._make_anew(keeper))
                    now = self._stamp()
                if now != self._sealed and await self._try(self._rounds.work(self.seal)):
                    self._sealed = now
                if now[1] >= ROTATE_BYTES:
                    await self._try(self._rotate(keeper))
        finally:
            with contextlib.suppress(OSError, MicroagentError):
                self.seal()

    def seal(self) -> None:
        """Now."""
        self._seals.seal(self._name, self._store.last_line(self._name, EGRESS))

    async def _rotate(self, keeper: Keeper) -> None:
        async with keeper.changing:
            await self._switch(keeper, await self._rounds.work(partial(self._store.rotate, self._name, EGRESS)))
            await self._rounds.work(self._after_rotation)
        log.info("log rotated workspace=%s", self._name)

    async def _make_anew(self, keeper: Keeper) -> None:
        """Somebody moved or removed the log: the mediator must not go on where nobody looks, and `verify` misses it."""
        async with keeper.changing:
            await self._switch(keeper, await self._rounds.work(partial(self._store.open_log, self._name, EGRESS)))
        log.error("log was taken away, and is made anew workspace=%s", self._name)

    async def _switch(self, keeper: Keeper, fd: int) -> None:
        self._switched(fd)
        self._inode = os.fstat(fd).st_ino
        try:
            await keeper.mediator.switch_log(fd)
        except (HostError, OSError):
            # The next one begins with the new file.
            keeper.mediator.kill()
            await keeper.mediator.ended

    def _after_rotation(self) -> None:
        path = self._store.path(self._name, EGRESS)
        self._seals.seal(self._name, self._store.last_line(self._name, f"{EGRESS}.1"), rotated=True)
        files = logfile.open_all(path)
        try:
            block = next(logfile.forward(files[0]), None) if files else None
            first = head(block.data.partition(b"\n")[0]) if block else None
            if first:
                self._seals.forget_before(self._name, first.seq)
        finally:
            for file in files:
                file.close()

    def _finish_rotation(self) -> None:
        self._seals.finish_rotation(self._name, self._store.last_line(self._name, f"{EGRESS}.1"))

    def _look(self) -> bool:
        return self._stamp() != self._sealed or self._sealed[1] >= ROTATE_BYTES

    def _stamp(self) -> tuple[int, int]:
        """Which file the log is, and how long."""
        try:
            found = os.stat(self._path)  # noqa: PTH116  (as often as this is asked, a Path's own costs as much again)
        except OSError:
            return 0, 0
        return found.st_ino, found.st_size

    async def _try(self, work: Awaitable[None]) -> bool:
        try:
            await work
        except (OSError, MicroagentError) as error:
            log.error("log not sealed workspace=%s error=%r", self._name, str(error))
            return False
        return True
