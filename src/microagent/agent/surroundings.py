"""The host's own addresses and resolv.conf, watched while workspaces run.

Both are part of what a mediator decides by: a new address of the host's is one that no guest may reach by name, and a
resolver that is gone answers nobody. Looking takes a fraction of a millisecond for the whole agent, however many
workspaces run.
"""

import asyncio
import logging

from microagent.agent.config import Config
from microagent.agent.fleet import Fleet
from microagent.agent.resolv_conf import ResolvConf, read_resolv_conf
from microagent.errors import HostError
from microagent.host.links import host_addresses

log = logging.getLogger(__name__)

_SECONDS = 2.0


async def keep_told(fleet: Fleet) -> None:
    """Tells every running workspace of changes; runs until it is cancelled."""
    before = await _look(fleet.services.config)
    while True:
        await asyncio.sleep(_SECONDS)
        now = await _look(fleet.services.config)
        if now == before or now is None:
            continue
        before = now
        log.info("surroundings changed resolvers=%s addresses=%d", ",".join(now[0].resolvers), len(now[1]))
        await asyncio.gather(*(supervisor.refresh() for supervisor in fleet.all()))


async def _look(config: Config) -> tuple[ResolvConf, frozenset[str]] | None:
    """resolv.conf and addresses; None while they cannot be read, as in the middle of a change: nothing changes then."""
    try:
        return read_resolv_conf(config.resolv_conf), await asyncio.to_thread(host_addresses)
    except (HostError, OSError) as error:
        log.warning("surroundings not read error=%r", str(error))
        return None
