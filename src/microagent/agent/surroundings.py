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
    look = Looker(fleet.services.config).look
    before = await look()
    while True:
        await asyncio.sleep(_SECONDS)
        now = await look()
        if now == before:
            continue
        # Mediators keep what they were told; one that is made meanwhile is told of nobody to ask.
        before = now
        if now is None:
            continue
        log.info("surroundings changed resolvers=%s addresses=%d", ",".join(now[0].resolvers), len(now[1]))
        await asyncio.gather(*(supervisor.refresh() for supervisor in fleet.all()))


class Looker:
    """Reads both; what keeps it from that is said once, and not every two seconds."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._said = ""

    async def look(self) -> tuple[ResolvConf, frozenset[str]] | None:
        """resolv.conf and addresses; None while they cannot be read, as in the middle of a change."""
        try:
            addresses = await asyncio.to_thread(host_addresses)
            # Every container's veth has one of those, and nobody reaches any by name, whoever has it (contract 4).
            lasting = frozenset(address for address in addresses if not address.startswith("fe80:"))
            found = read_resolv_conf(self._config.resolv_conf), lasting
        except (HostError, OSError) as error:
            if str(error) != self._said:
                log.warning("surroundings not read error=%r", str(error))
            self._said = str(error)
            return None
        self._said = ""
        return found
