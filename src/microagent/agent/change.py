"""A new policy for a workspace that may be running: kernel, store, mediator, in this order.

The kernel's sets only spare the mediator work, so they may be ahead of it. The store is what counts: a mediator that
dies in the middle is followed by one that reads it. Until the store is written, everything can be put back.
"""

import asyncio
import logging
from collections.abc import Callable

from microagent.agent.bringup import Life, settings_of, steering_of
from microagent.agent.services import Services
from microagent.errors import HostError
from microagent.workspace.egress import Egress
from microagent.workspace.record import Record

log = logging.getLogger(__name__)


async def apply_egress(
    services: Services, life: Life, before: Egress, after: Egress, who: str, store: Callable[[], Record]
) -> None:
    """Makes `after` the policy of a workspace that runs; `store` writes it and returns what it wrote.

    HostError or OSError when it cannot be done; then `before` goes on. When this returns, the mediator decides by the
    new policy, and flows that it refuses are cut.
    """
    async with life.keeper.changing:
        await asyncio.to_thread(_steer, services, life, after)
        try:
            record = store()
        except (HostError, OSError):
            await asyncio.to_thread(_steer, services, life, before)
            raise
        try:
            settings = await asyncio.to_thread(settings_of, services, record, who)
            await life.keeper.mediator.reconfigure(settings)
        except (HostError, OSError) as error:
            log.warning("mediator not told while its policy changed workspace=%s error=%r", record.name, str(error))
            life.keeper.mediator.kill()


def _steer(services: Services, life: Life, egress: Egress) -> None:
    life.network.steer(steering_of(services.config, egress))
