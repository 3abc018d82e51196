"""Keeps one workspace mediated: replaces a mediator that died or hangs, puts back rules and tap that were changed.

A dead mediator means no egress, not open egress: its sockets stay with the agent, and what comes waits or is refused.
Connections it held are gone; the guest sees them end. The next mediator finds the log unfinished and records the gap.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from time import monotonic

from microagent.agent.mediators import Mediator
from microagent.agent.rounds import Rounds
from microagent.errors import HostError
from microagent.host.network import Network

log = logging.getLogger(__name__)

# Seconds to wait before each new attempt. The first comes at once, and all but the last within the contract's 3 s;
# a mediator that dies this often in a row has a cause that another attempt will not remove.
_DELAYS = (0.0, 0.2, 0.6, 1.2, 3.0)
# A mediator that lived this long was not part of a row.
_SETTLED = 60.0


@dataclass
class Keeper:
    """Watches one mediator and one network, from the moment the first mediator is ready."""

    workspace: str
    network: Network
    mediator: Mediator
    rounds: Rounds
    spawn: Callable[[], Awaitable[Mediator]]
    replaced: Callable[[], None] = lambda: None
    # Held while the policy changes, and while this changes mediator or rules: neither sees half of the other.
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)
    _born: float = field(default_factory=monotonic)
    _failures: int = 0

    async def keep(self) -> None:
        """Runs until it is cancelled. HostError when the workspace can no longer be mediated; its tap is down then."""
        try:
            while True:
                await self._until_anything()
                if self.mediator.ended.done():
                    await self._replace(self.mediator.ended.result())
                else:
                    await self._repair()
        except (HostError, OSError) as error:
            with contextlib.suppress(HostError, OSError):
                await self.rounds.work(self.network.lower_tap)
            raise HostError(f"workspace {self.workspace} cannot be mediated: {error}") from error

    async def _until_anything(self) -> None:
        """Returns when the mediator has ended, or somebody has touched the network."""
        touched = self.rounds.until(self._look)
        try:
            await asyncio.wait((self.mediator.ended, touched), return_when=asyncio.FIRST_COMPLETED)
            if touched.done():
                touched.result()
        finally:
            touched.cancel()

    def _look(self) -> bool:
        self.mediator.look()
        return not self.network.untouched

    async def _repair(self) -> None:
        async with self.changing:
            repaired = " and ".join(await self.rounds.work(self.network.repair))
            if repaired:
                log.warning("%s repaired workspace=%s", repaired, self.workspace)
                with contextlib.suppress(ConnectionError):  # the next one begins with a gap of its own
                    await self.mediator.record("gap", {"why": f"changed from outside, and put back: {repaired}"})

    async def _replace(self, reason: str) -> None:
        log.warning("mediator ended workspace=%s pid=%d reason=%r", self.workspace, self.mediator.pid, reason)
        if monotonic() - self._born > _SETTLED:
            self._failures = 0
        while self._failures < len(_DELAYS):
            await asyncio.sleep(_DELAYS[self._failures])
            self._failures += 1
            try:
                async with self.changing:
                    self.mediator = await self.spawn()
            except (HostError, OSError) as error:
                log.warning("mediator not started workspace=%s error=%r", self.workspace, str(error))
                continue
            self._born = monotonic()
            self.replaced()
            log.info("mediator replaced workspace=%s pid=%d", self.workspace, self.mediator.pid)
            return
        raise HostError(f"its mediator failed {self._failures} times in a row")
