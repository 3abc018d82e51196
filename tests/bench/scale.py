"""P8 and P9: what one workspace costs, and whether the five hundredth costs more. Draws docs/images/growth.svg.

How this works: workspaces are built by the agent's own code, each with its network, mediator, keeper and sealer, one
after the other. The first and the last have a guest's namespace at a veth instead of the tap, in which clients run;
they are measured in turns, the best of each counts, since whatever else runs can only make it slower.
"""

import asyncio
import contextlib
import gc
import mmap
import os
import statistics
import sys
import time
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from unittest.mock import patch

from tests.bench import load
from tests.bench.dns import measure as ask
from tests.bench.plot import growth
from tests.bench.rig import NAME, UPSTREAM, Rig, guest_card, veth_for_tap
from tests.bench.row import Row
from tests.kernel.workspace import Room

from microagent.agent.bringup import build
from microagent.agent.config import Config
from microagent.agent.ledger import Ledger
from microagent.agent.outbox import Outbox
from microagent.agent.rounds import Rounds
from microagent.agent.seals import Seals
from microagent.agent.services import Services, netns_directory
from microagent.agent.spawner import Spawner
from microagent.api.limits import Limits
from microagent.api.link import GATEWAY
from microagent.audit.record import timestamp
from microagent.demo.namespaces import Namespace
from microagent.guests.image import ImageStore
from microagent.host import links
from microagent.host.netns import release_directory
from microagent.pki.ca import create_ca
from microagent.workspace.spec import from_json
from microagent.workspace.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from microagent.agent.keeper import Keeper

_ENTRY: Final = {"verb": "allow", "entry": NAME, "origin": "bench"}
_MANY: Final = int(os.environ.get("MICROAGENT_BENCH_WORKSPACES", "500"))
_GROUP: Final = 25  # set-up times that are compared by their median
_TURNS: Final = 3
_MEGABYTES: Final = 8  # what a workspace takes of memory, the kernel's included
_IDLE_SECONDS: Final = 10
_TICKS: Final = os.sysconf("SC_CLK_TCK")


@dataclass
class Figures:
    """Of one workspace: the delay of a request in ms, and DNS questions answered a second."""

    delay: float = float("inf")
    questions: float = 0.0

    def best(self, delay: float, questions: float) -> None:
        """Keeps the better ones."""
        self.delay, self.questions = min(self.delay, delay), max(self.questions, questions)


class Many:
    """Workspaces of one agent in the rig's `host`; a context manager."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self._undo = ExitStack()
        self.keepers: list[Keeper] = []
        self.seconds: list[float] = []

    def __enter__(self) -> "Many":
        with ExitStack() as undo:
            self._build(undo)
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def add(self) -> None:
        """One more, with a tap that nobody uses."""
        self._do(self._add())

    def add_measured(self) -> Namespace:
        """One more; the namespace its guest's programs run in."""
        namespace = Namespace()
        self._namespaces.callback(namespace.close)
        with patch.object(links, "make_tap", lambda: veth_for_tap(namespace.descriptor)):
            self.add()
        namespace.run(guest_card)
        return namespace

    def cpu(self) -> tuple[float, float]:
        """What agent and all mediators have used so far, in seconds."""
        mediators = sum(_cpu(keeper.mediator.pid) for keeper in self.keepers)
        return _cpu(os.getpid()), mediators

    def _build(self, undo: ExitStack) -> None:
        room = Room(self._rig)  # type: ignore[arg-type]  # it only wants `host`
        undo.callback(room.close)
        self._do: Callable[[Coroutine[Any, Any, Any]], Any] = room.call
        directory = self._rig.directory / "many"
        directory.mkdir(mode=0o700)
        resolv_conf, ca = directory / "resolv.conf", (self._rig.ca.read_text(),)
        resolv_conf.write_text(f"nameserver {UPSTREAM}\n")
        limits = Limits(dns_queries_per_second=1_000_000)
        config = Config(directory / "state", directory / "run", resolv_conf=resolv_conf, limits=limits)
        store, ledger, seals = Store(config.state_dir), Ledger(config.run_dir), Seals(config.state_dir)
        undo.callback(release_directory, netns_directory(config))
        for one in (store, ledger, seals):
            undo.callback(one.close)
        _touch_memory(_MANY * _MEGABYTES << 20)
        gc.freeze()  # as the agent does
        undo.callback(gc.unfreeze)
        # They go last: each holds the other end of a workspace's tap, which its keeper would miss.
        self._namespaces = undo.enter_context(ExitStack())
        self._stack = AsyncExitStack()
        undo.callback(lambda: room.call(self._stack.aclose(), seconds=600))
        spawner = room.call(self._stack.enter_async_context(Spawner.started(ca)))
        rounds = room.call(self._stack.enter_async_context(Rounds.going()))
        images = ImageStore(directory / "images", directory / "built")
        self._services = Services(config, store, ledger, spawner, images, None, seals, Outbox(config), rounds)

    async def _add(self) -> None:
        services, now, name = self._services, datetime.now(UTC), f"w{len(self.keepers)}"
        spec = from_json({"name": name, "image": "none", "egress": {"mode": "strict", "entries": [_ENTRY]}})
        record = services.store.create(spec, create_ca(name, now), timestamp(now))
        began = time.perf_counter()
        _, keeper = await build(services, record, self._stack)
        self.seconds.append(time.perf_counter() - began)
        keeping = asyncio.create_task(keeper.keep())
        self._stack.push_async_callback(_cancelled, keeping)
        self.keepers.append(keeper)


def _touch_memory(size: int) -> None:
    """A machine whose host gives it memory as that is first touched would seem to slow down with each workspace."""
    with mmap.mmap(-1, size) as memory:
        for place in range(0, size, mmap.PAGESIZE):
            memory[place] = 1


async def _cancelled(task: "asyncio.Task[None]") -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def run() -> list[Row]:
    """One workspace alone, then all of them."""
    with Rig() as rig, Many(rig) as many:
        namespace = many.add_measured()
        alone, first, last = Figures(), Figures(), Figures()
        for _ in range(_TURNS):
            alone.best(*_measure(rig, namespace))
        while len(many.keepers) < _MANY - 1:
            many.add()
            if len(many.keepers) % 50 == 0:
                sys.stderr.write(f"  {len(many.keepers)} workspaces\n")
        at_the_end = many.add_measured()
        for _ in range(_TURNS):
            first.best(*_measure(rig, namespace))
            last.best(*_measure(rig, at_the_end))
        agent, mediators = many.cpu()
        time.sleep(_IDLE_SECONDS)
        agent_after, mediators_after = many.cpu()
        pss, private = _memory(many.keepers[_MANY // 2].mediator.pid)
        taken = sum(_memory(keeper.mediator.pid)[0] for keeper in many.keepers)
        milliseconds = [seconds * 1000 for seconds in many.seconds]
    growth(milliseconds)
    early, late = statistics.median(milliseconds[1 : _GROUP + 1]), statistics.median(milliseconds[-_GROUP - 1 : -1])
    idle = ((agent_after - agent) / _IDLE_SECONDS, (mediators_after - mediators) / _IDLE_SECONDS)
    return [
        Row("P8", "network and mediator ready", f"{early:.0f} ms", "≤ 60 ms"),
        Row("P8", "idle mediator, of its own", f"{private:.1f} MB private, {pss:.1f} MB PSS", "≤ 12 MB"),
        Row(
            "P9",
            f"set-up, the last {_GROUP} of {_MANY} against the first {_GROUP}",
            f"{late / early:.2f} × ({late:.0f} ms, {early:.0f} ms)",
            "≤ 1.10 ×",
        ),
        Row(
            "P9",
            f"added delay of a request, number {_MANY} against one alone",
            f"{last.delay / alone.delay:.2f} × ({last.delay:.2f} ms, {alone.delay:.2f} ms; "
            f"the first among {_MANY}: {first.delay:.2f} ms)",
            "≤ 1.10 ×",
        ),
        Row(
            "P9",
            f"DNS questions a second, number {_MANY} against one alone",
            f"{last.questions / alone.questions:.2f} × ({last.questions:.0f}, {alone.questions:.0f}; "
            f"the first among {_MANY}: {first.questions:.0f})",
            "≥ 0.90 ×",
        ),
        Row(
            "P9",
            f"what {_MANY} idle ones take",
            f"{taken / 1e3:.1f} GB for all mediators; of a core, {idle[0]:.0%} for the agent, {idle[1]:.0%} for them",
            "24 GiB of memory",
        ),
    ]


def _measure(rig: Rig, namespace: Namespace) -> tuple[float, float]:
    """The delay that is added to a request, in ms, and questions answered a second."""
    added = 1000 / load.requests(rig, namespace, 1) - 1000 / load.requests(rig, rig.client, 1)
    return added, ask(rig, namespace, str(GATEWAY.ip), NAME)[0]


def _memory(pid: int) -> tuple[float, float]:
    """PSS, and what nobody shares, in MB."""
    lines = (line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    sizes = {words[0]: int(words[1]) * 1024 / 1e6 for words in lines}
    return sizes["Pss:"], sizes["Private_Dirty:"] + sizes["Private_Clean:"]


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS
