"""Taking over a workspace that an earlier agent left running.

How this works: what is right is kept as it is, what differs is put right, and what cannot be verified ends the
workspace. The guest must be the process that was noted (pid and start time), with the uid of this workspace and QEMU's
program; its namespace must have the tap, up, and no interface but lo besides; rules must equal those that a start would
make now, and are put back where they do not. A mediator that is the process that was noted and decides by the policy in
the store is kept, with its connections; any other is replaced, and the log says that there was a gap.
"""

import asyncio
import logging
import os
import sys
from contextlib import AsyncExitStack
from pathlib import Path

from microagent.agent.bringup import Life, attend, bound, keep_mediated, settings_of, steering_of
from microagent.agent.keeper import Keeper
from microagent.agent.ledger import Process
from microagent.agent.leftovers import clear
from microagent.agent.mediators import Mediator
from microagent.agent.services import Services, netns_directory, sockets_directory
from microagent.errors import HostError
from microagent.guests.accelerator import QEMU
from microagent.guests.qemu import adopt_guest
from microagent.host.network import Network
from microagent.policy.model import Policy
from microagent.policy.stored import entries_from_json
from microagent.workspace.record import Record
from microagent.workspace.store import EGRESS

log = logging.getLogger(__name__)


class GuestGone(HostError):  # noqa: N818  (the name is the fact: its command is over, and nobody saw how it ended)
    """The guest ended while there was no agent."""


async def take_over(services: Services, record: Record, undo: AsyncExitStack) -> Life:
    """The workspace as it runs; GuestGone when its guest has ended, HostError when it cannot be verified.

    When `undo` unwinds, nothing of it is left.
    """
    name = record.name
    undo.push_async_callback(asyncio.to_thread, clear, services, name)
    noted = services.ledger.processes(name)
    guest = noted.get("guest")
    if guest is None or not guest.alive():
        raise GuestGone("its guest ended while no agent ran")
    if record.on_terminal:
        raise GuestGone("its terminal ended with the agent before")
    if not guest.runs(Path(QEMU).name, record.guest_uid):
        raise HostError(f"process {guest.pid} is not its guest")
    bound(services, record)
    network = await _network(services, record)
    undo.push_async_callback(asyncio.to_thread, network.remove)
    keeper = await _mediator(services, record, network, noted.get("mediator"), undo)
    place = sockets_directory(services.config) / name
    try:
        adopted = await adopt_guest(guest.pid, services.store.path(name), place)
    except ProcessLookupError as error:
        raise GuestGone("its guest ended while no agent ran") from error
    return await attend(services, record, network, keeper, adopted, None, undo)


async def _network(services: Services, record: Record) -> Network:
    def adopt() -> Network:
        steering = steering_of(services.config, record.spec.egress)
        network = Network.adopt(netns_directory(services.config) / record.name, steering)
        # Unless its mediator knows better: what came while there was none is in the gap.
        network.count_from({})
        for what in network.repair():
            log.warning("%s repaired workspace=%s", what, record.name)
        return network

    return await asyncio.to_thread(adopt)


async def _mediator(
    services: Services, record: Record, network: Network, noted: Process | None, undo: AsyncExitStack
) -> Keeper:
    async def adopt() -> Mediator | None:
        """The one that runs, brought to the policy of now; None when it is not to be had or not to be trusted."""
        if noted is None or not noted.runs(Path(sys.executable).resolve().name, record.mediator_uid):
            return None
        try:
            mediator = await Mediator.adopt(noted.pid, sockets_directory(services.config) / record.name, network)
            await _hand_log_over(services, record, mediator)
            settings = await asyncio.to_thread(settings_of, services, record, "a new agent")
            digest = await mediator.reconfigure(settings)
        except (HostError, OSError) as error:
            log.warning("mediator not taken over workspace=%s error=%r", record.name, str(error))
            return None
        if services.cgroups:
            services.cgroups.enter(record.name, "mediator", noted.pid)
        # Grants may have ended meanwhile.
        if digest == Policy(entries_from_json(settings.entries)).digest:
            return mediator
        await mediator.stop("it decided by another policy")
        return None

    kept = await adopt()
    if kept is None and noted is not None:
        noted.kill()
        await asyncio.to_thread(noted.wait)
    return await keep_mediated(services, record, network, undo, kept)


async def _hand_log_over(services: Services, record: Record, mediator: Mediator) -> None:
    """The agent before may have ended within a rotation: then it writes into a file that has another name by now."""
    log_fd = await asyncio.to_thread(services.store.open_log, record.name, EGRESS)
    try:
        await mediator.switch_log(log_fd)
    finally:
        os.close(log_fd)
