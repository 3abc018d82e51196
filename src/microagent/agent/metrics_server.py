"""Serves the metrics, and keeps them up to date from the files of records.

Mediators take no part in it: what a slow reader of metrics holds up is this task alone, and the files wait.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from microagent.agent.config import Config
from microagent.agent.fleet import Fleet
from microagent.agent.metrics import Metrics, Tally
from microagent.agent.peers import listen
from microagent.audit.reader import Filter
from microagent.audit.tail import Tail
from microagent.errors import HostError
from microagent.workspace.store import EGRESS

log = logging.getLogger(__name__)

_EVERY = 1.0  # seconds; eight files of 64 MiB cannot be filled meanwhile


@asynccontextmanager
async def serving_metrics(fleet: Fleet, config: Config, group: int | None) -> AsyncIterator[None]:
    """Serves `/metrics` where the configuration says so, else does nothing. HostError when it cannot listen.

    Counters begin at 0 with the agent, as Prometheus expects of a process: records from before are not counted.
    """
    if not config.metrics:
        yield
        return
    metrics, registry = Metrics(), CollectorRegistry()
    registry.register(metrics)
    app = web.Application()

    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app.add_routes([web.get("/metrics", answer)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    readers = _Readers(fleet, metrics)
    await asyncio.to_thread(readers.look, skip_what_is_there=True)
    counting = asyncio.create_task(_count(readers))
    try:
        await _start(runner, config.metrics, group)
        yield
    finally:
        counting.cancel()
        await asyncio.wait([counting])
        await runner.cleanup()
        readers.close()


class _Readers:
    """One reader a workspace; those of deleted ones go with their sums."""

    def __init__(self, fleet: Fleet, metrics: Metrics) -> None:
        self._fleet = fleet
        self._metrics = metrics
        self._tails: dict[str, tuple[object, Tail]] = {}

    def look(self, *, skip_what_is_there: bool = False) -> None:
        """Counts what is new, in a worker thread."""
        here = {supervisor.record.name: supervisor for supervisor in self._fleet.all()}
        for name in [name for name, (whose, _) in self._tails.items() if here.get(name) is not whose]:
            self._tails.pop(name)[1].close()
            del self._metrics.tallies[name]
        for name, supervisor in here.items():
            if name not in self._tails:
                self._tails[name] = supervisor, Tail(self._fleet.services.store.path(name, EGRESS))
                self._metrics.tallies[name] = Tally()
            tail = self._tails[name][1]
            if skip_what_is_there:
                list(tail.past(Filter(), 0))
            tally = self._metrics.tallies[name]
            for record in tail.records():
                tally.add(record)
        self._metrics.running = frozenset(name for name, supervisor in here.items() if supervisor.live)

    def close(self) -> None:
        """Closes the files."""
        for _, tail in self._tails.values():
            tail.close()


async def _count(readers: _Readers) -> None:
    while True:
        await asyncio.sleep(_EVERY)
        try:
            await asyncio.to_thread(readers.look)
        except OSError as error:
            log.warning("metrics wait: %s", error)


async def _start(runner: web.AppRunner, address: str, group: int | None) -> None:
    site: web.BaseSite
    if address.startswith("/"):
        site = web.SockSite(runner, listen(Path(address), group))
    else:
        host, _, port = address.rpartition(":")
        site = web.TCPSite(runner, host.strip("[]"), int(port))
    try:
        await site.start()
    except OSError as error:
        raise HostError(f"cannot serve metrics on {address}: {error.strerror or error}") from error
