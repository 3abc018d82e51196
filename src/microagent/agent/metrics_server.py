"""Serves the metrics, and keeps them up to date from the files of records.

Mediators take no part in it: what a slow reader of metrics holds up is this task alone, and the files wait.
"""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from microagent.agent.config import Config
from microagent.agent.door import keep_door
from microagent.agent.fleet import Fleet
from microagent.agent.metrics import Metrics, Tally
from microagent.agent.peers import listen, uid_of
from microagent.agent.undo import cancelled
from microagent.audit.reader import Filter
from microagent.audit.tail import Tail
from microagent.errors import HostError
from microagent.workspace.store import EGRESS

log = logging.getLogger(__name__)

_EVERY = 1.0  # seconds; eight files of 64 MiB cannot be filled meanwhile
# At once, of each user; on a loopback address of all together, since nothing there says whose a connection is.
_CONNECTIONS = 64
_ANYBODY = -1


@asynccontextmanager
async def serving_metrics(fleet: Fleet, config: Config, group: int | None) -> AsyncIterator[None]:
    """Serves `/metrics` where the configuration says so, else does nothing.

    Where it cannot listen it tries again and again: any local user can have a port first, and nothing else of the
    agent's waits for that.

    Counters begin at 0 with the agent, as Prometheus expects of a process: records from before are not counted.
    """
    if not config.metrics:
        yield
        return
    metrics, registry = Metrics(), CollectorRegistry()
    registry.register(metrics)
    app = web.Application()

    async def answer(_: web.Request) -> web.Response:
        # Nothing else runs meanwhile, however many ask.
        if readers.page is None:
            readers.page = generate_latest(registry)
        return web.Response(body=readers.page, headers={"Content-Type": CONTENT_TYPE_LATEST})

    app.add_routes([web.get("/metrics", answer)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    readers = _Readers(fleet, metrics)
    await asyncio.to_thread(readers.look, skip_what_is_there=True)
    async with AsyncExitStack() as last:
        last.callback(readers.close)
        last.push_async_callback(runner.cleanup)
        last.push_async_callback(cancelled, asyncio.create_task(_count(readers)))
        assert runner.server is not None  # noqa: S101  (setup made it)
        serving = asyncio.create_task(_serve(config.metrics, group, runner.server))
        last.push_async_callback(cancelled, serving)
        # It may listen from the first moment on, as the rest does.
        await asyncio.sleep(0)
        yield


class _Readers:
    """One reader a workspace; those of deleted ones go with their sums."""

    def __init__(self, fleet: Fleet, metrics: Metrics) -> None:
        self._fleet = fleet
        self._metrics = metrics
        self._tails: dict[str, tuple[object, Tail]] = {}
        # What is answered until the figures are new; None: nobody has asked since.
        self.page: bytes | None = None

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
        self.page = None

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


async def _serve(address: str, group: int | None, protocol: Callable[[], asyncio.Protocol]) -> None:
    said = False
    while True:
        try:
            sock, who = _listen(address, group)
            break
        except (HostError, OSError) as error:
            if not said:
                log.error("metrics are not served yet address=%s reason=%r", address, str(error))
            said = True
        await asyncio.sleep(_EVERY)
    with sock:
        await keep_door(sock, protocol, who, _CONNECTIONS)


def _listen(address: str, group: int | None) -> tuple[socket.socket, Callable[[socket.socket], int]]:
    """Where it is asked, and who asks; HostError or OSError when it cannot listen there."""
    if address.startswith("/"):
        return listen(Path(address), group), uid_of
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    return socket.create_server((host.strip("[]"), int(port)), family=family), lambda _: _ANYBODY
