"""What the agent has, without API and virtual machine: its services, and a workspace's network, mediator and keeper."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.records import Witness

from microagent.agent.bringup import build
from microagent.agent.config import Config
from microagent.agent.keeper import Keeper
from microagent.agent.ledger import Ledger
from microagent.agent.outbox import Outbox
from microagent.agent.rounds import Rounds
from microagent.agent.seals import Seals
from microagent.agent.services import Services, netns_directory
from microagent.agent.spawner import Spawner
from microagent.audit.record import timestamp
from microagent.guests.image import ImageStore
from microagent.host.netns import release_directory
from microagent.pki.ca import create_ca
from microagent.workspace.spec import from_json
from microagent.workspace.store import Store

NAME = "sealed"


@asynccontextmanager
async def agent(directory: Path, **settings: Any) -> AsyncIterator[Services]:
    """What an agent has, but for its API; `settings` are of its configuration."""
    (directory / "resolv.conf").write_text("nameserver 192.0.2.1\n")
    config = Config(
        state_dir=directory / "state", run_dir=directory / "run", resolv_conf=directory / "resolv.conf", **settings
    )
    store, seals, ledger = Store(config.state_dir), Seals(config.state_dir), Ledger(config.run_dir)
    with closing(store), closing(seals), closing(ledger):
        async with Spawner.started(()) as spawner, Rounds.going() as rounds:
            images = ImageStore(directory / "images", directory / "built")
            yield Services(config, store, ledger, spawner, images, None, seals, Outbox(config), rounds)
    release_directory(netns_directory(config))


@asynccontextmanager
async def workspace(services: Services) -> AsyncIterator[Keeper]:
    """Its network, its mediator, the keeper and the sealer."""
    if NAME not in services.store.names():
        now = datetime.now(UTC)
        services.store.create(from_json({"name": NAME, "image": "none"}), create_ca(NAME, now), timestamp(now))
    async with AsyncExitStack() as undo:
        undo.enter_context(Witness(services.config.state_dir))
        _, keeper = await build(services, services.store.load(NAME), undo)
        keeping = asyncio.create_task(keeper.keep())
        yield keeper
        keeping.cancel()
        await asyncio.wait([keeping])


async def write(keeper: Keeper, count: int) -> None:
    """So many records, by the mediator."""
    for number in range(count):
        await keeper.mediator.record("enforcement_verified", {"who": "a test", "checks": [f"record {number}"]})
