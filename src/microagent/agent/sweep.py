"""What an earlier agent left: cleaned up, but for the workspaces that run, which are the fleet's to take over."""

import logging
from contextlib import suppress
from dataclasses import replace

from microagent.agent.leftovers import clear
from microagent.agent.services import Services
from microagent.errors import HostError
from microagent.workspace.record import Record
from microagent.workspace.states import LIVE, State
from microagent.workspace.store import EGRESS

log = logging.getLogger(__name__)


def sweep(services: Services) -> list[Record]:
    """Ends what is left over, and returns the workspaces there are. Those that are `running` may really run."""
    found = [record for name in services.store.names() if (record := _loaded(services, name))]
    running = {record.name for record in found if record.state is State.RUNNING}
    for name in services.ledger.left():
        if name not in running:
            clear(services, name)
    return [settled for record in found if (settled := _settled(services, record))]


def _loaded(services: Services, name: str) -> Record | None:
    try:
        return services.store.load(name)
    except HostError as error:
        log.error("damaged workspace=%s reason=%r", name, error.what)
        return None


def _settled(services: Services, record: Record) -> Record | None:
    if record.state is State.RUNNING:
        return record
    if record.spec.ephemeral:
        services.outbox.keep(record.name, services.store.path(record.name))
        services.store.remove(record.name)
        services.seals.remove(record.name)
        return None
    if record.state not in LIVE:
        return record
    with suppress(HostError, OSError):
        services.seals.seal(record.name, services.store.last_line(record.name, EGRESS))
    return services.store.save(replace(record, state=State.STOPPED, reason="its agent was killed"))
