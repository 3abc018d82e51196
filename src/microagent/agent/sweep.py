"""Cleaning up after an agent that was killed: its guests, mediators and namespaces, and what the store says of them."""

import logging
from dataclasses import replace

from microagent.agent.bringup import netns_directory
from microagent.agent.services import Services
from microagent.errors import HostError
from microagent.host import netns
from microagent.workspace.record import Record
from microagent.workspace.states import LIVE, State

log = logging.getLogger(__name__)


def sweep(services: Services) -> list[Record]:
    """Ends what is left over, and returns the workspaces there are, none of them running.

    No guest runs without the agent that watches its mediator: enforcement would hold, but nobody would repair it.
    """
    for name, processes in services.ledger.left().items():
        for process in processes:
            if process.kill():
                log.warning("ended leftover workspace=%s pid=%d", name, process.pid)
        netns.remove(netns_directory(services.config) / name)
        services.ledger.forget(name)
    return [record for name in services.store.names() if (record := _settled(services, name))]


def _settled(services: Services, name: str) -> Record | None:
    try:
        record = services.store.load(name)
    except HostError as error:
        log.error("damaged workspace=%s reason=%r", name, error.what)
        return None
    if record.spec.ephemeral:
        services.store.remove(name)
        return None
    if record.state not in LIVE:
        return record
    return services.store.save(replace(record, state=State.STOPPED, reason="its agent was killed"))
