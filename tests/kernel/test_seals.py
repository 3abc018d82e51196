"""A real mediator's log, sealed and rotated by the agent while it is written, kills included."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from datetime import UTC, datetime
from pathlib import Path
from unittest.mock import patch

import pytest

from microagent.agent import sealer
from microagent.agent.bringup import build
from microagent.agent.config import Config
from microagent.agent.keeper import Keeper
from microagent.agent.ledger import Ledger
from microagent.agent.seals import Seals
from microagent.agent.services import Services, netns_directory
from microagent.agent.spawner import Spawner
from microagent.audit.archive import verify_log
from microagent.audit.record import timestamp
from microagent.audit.verify import Report
from microagent.guests.image import ImageStore
from microagent.host.netns import release_directory
from microagent.pki.ca import create_ca
from microagent.workspace.spec import from_json
from microagent.workspace.store import EGRESS, Store

pytestmark = [pytest.mark.kernel, pytest.mark.asyncio]

NAME = "sealed"


@asynccontextmanager
async def agent(directory: Path) -> AsyncIterator[Services]:
    """What an agent has, but for its API."""
    (directory / "resolv.conf").write_text("nameserver 192.0.2.1\n")
    config = Config(state_dir=directory / "state", run_dir=directory / "run", resolv_conf=directory / "resolv.conf")
    store, seals, ledger = Store(config.state_dir), Seals(config.state_dir), Ledger(config.run_dir)
    with closing(store), closing(seals), closing(ledger):
        async with Spawner.started(()) as spawner:
            images = ImageStore(directory / "images", directory / "built")
            yield Services(config, store, ledger, spawner, images, None, seals)
    release_directory(netns_directory(config))


@asynccontextmanager
async def workspace(services: Services) -> AsyncIterator[Keeper]:
    """Its network, its mediator, the keeper and the sealer."""
    if NAME not in services.store.names():
        now = datetime.now(UTC)
        services.store.create(from_json({"name": NAME, "image": "none"}), create_ca(NAME, now), timestamp(now))
    async with AsyncExitStack() as undo:
        _, keeper = await build(services, services.store.load(NAME), undo)
        keeping = asyncio.create_task(keeper.keep())
        yield keeper
        keeping.cancel()
        await asyncio.wait([keeping])


async def write(keeper: Keeper, count: int) -> None:
    for number in range(count):
        await keeper.mediator.record("egress_listen", {"why": f"record {number}"})


async def replaced(keeper: Keeper, pid: int) -> None:
    for _ in range(500):
        if keeper.mediator.pid != pid and not keeper.mediator.ended.done():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("the mediator was not replaced")


def verified(services: Services) -> Report:
    seals = services.seals.lines(NAME)
    return verify_log(services.store.path(NAME, EGRESS), seals, services.seals.public_key)


async def until_sealed(services: Services, records: int) -> Report:
    for _ in range(100):
        report = verified(services)
        if report.sealed >= records:
            return report
        await asyncio.sleep(0.1)
    raise AssertionError(f"not sealed up to {records}: {report}")


async def test_what_is_written_is_sealed_within_a_second_or_so_and_to_the_last_word(tmp_path: Path) -> None:
    async with agent(tmp_path) as services:
        async with workspace(services) as keeper:
            await write(keeper, 10)
            assert (await until_sealed(services, 11)).whole  # with the mediator's first word
        report = verified(services)
        assert (report.whole, report.sealed, report.last) == (True, 12, 12), report.faults  # and its last
        # The positive control of every fault: one byte, somewhere.
        log = services.store.path(NAME, EGRESS)
        log.write_bytes(log.read_bytes().replace(b"record 3", b"record 4"))
        assert [fault.line for fault in verified(services).faults] == [5]


async def test_rotation_loses_nothing_with_mediators_killed_at_any_time(tmp_path: Path) -> None:
    with patch.object(sealer, "ROTATE_BYTES", 10_000), patch.object(sealer, "_SECONDS", 0.05):
        async with agent(tmp_path) as services:
            async with workspace(services) as keeper:
                for round_ in range(8):
                    pid = keeper.mediator.pid
                    await write(keeper, 60)
                    await asyncio.sleep(0.02 * round_)
                    if round_ % 2:
                        keeper.mediator.kill()
                        await replaced(keeper, pid)
            report = verified(services)
            assert report.whole, report.faults
            assert report.files > 2
            assert report.first == 1
            # One that begins with a new file goes on where the last one ended.
            async with workspace(services):
                pass
            assert verified(services).whole


async def test_the_oldest_file_goes_and_its_last_seal_stays(tmp_path: Path) -> None:
    with patch.object(sealer, "ROTATE_BYTES", 3_000), patch.object(sealer, "_SECONDS", 0.05):
        async with agent(tmp_path) as services:
            async with workspace(services) as keeper:
                for _ in range(12):
                    await write(keeper, 15)
                    await asyncio.sleep(0.15)
            report = verified(services)
            assert report.whole, report.faults
            assert (report.files, report.first > 1) == (8, True)
            assert report.seals < 200
            # A file that is gone is missed, the oldest too.
            services.store.path(NAME, f"{EGRESS}.7").unlink()
            assert not verified(services).whole


async def test_a_mediator_cannot_reach_key_or_seals(tmp_path: Path) -> None:
    async with agent(tmp_path) as services:
        async with workspace(services) as keeper:
            await write(keeper, 1)
            await until_sealed(services, 1)
        for file in (tmp_path / "state" / "seals").iterdir():
            assert (file.stat().st_uid, file.stat().st_mode & 0o777) == (0, 0o600), file
        assert (tmp_path / "state" / "seals").stat().st_mode & 0o777 == 0o700
        assert all(json.loads(line)["signature"] for line in services.seals.lines(NAME))
