"""A real mediator's log, sealed and rotated by the agent while it is written, kills included."""

import asyncio
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from tests.kernel.agent_room import NAME, agent, workspace, write

from microagent.agent import rounds, sealer
from microagent.agent.keeper import Keeper
from microagent.agent.services import Services
from microagent.audit.archive import verify_log
from microagent.audit.verify import Report
from microagent.host import netns, nft
from microagent.workspace.store import EGRESS

pytestmark = [pytest.mark.kernel, pytest.mark.asyncio]


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
            assert (await until_sealed(services, 12)).whole  # with the mediator's first two words
        report = verified(services)
        assert (report.whole, report.sealed, report.last) == (True, 13, 13), report.faults  # and its last
        # The positive control of every fault: one byte, somewhere.
        log = services.store.path(NAME, EGRESS)
        log.write_bytes(log.read_bytes().replace(b"record 3", b"record 4"))
        assert [fault.line for fault in verified(services).faults] == [6]


async def test_seals_and_repairs_wait_for_nobodys_threads(tmp_path: Path) -> None:
    over = threading.Event()
    loop, few = asyncio.get_running_loop(), ThreadPoolExecutor(2)
    loop.set_default_executor(few)
    async with agent(tmp_path) as services, workspace(services) as keeper:
        busy = [loop.run_in_executor(None, over.wait) for _ in range(10)]
        try:
            await write(keeper, 10)
            assert (await until_sealed(services, 12)).whole
            flushed = threading.Thread(
                target=netns.run_inside, args=(keeper.network.path, lambda: nft.apply("flush ruleset"))
            )
            flushed.start()
            flushed.join()
            for _ in range(100):
                if any(record["event"] == "gap" for record in records(services)):
                    break
                await asyncio.sleep(0.1)
            assert records(services)[-1]["why"] == "changed from outside, and put back: rules"
        finally:
            over.set()
            await asyncio.wait(busy)


def records(services: Services) -> list[dict[str, Any]]:
    return [json.loads(line) for line in services.store.path(NAME, EGRESS).read_text().splitlines()]


async def test_rotation_loses_nothing_with_mediators_killed_at_any_time(tmp_path: Path) -> None:
    with patch.object(sealer, "ROTATE_BYTES", 10_000), patch.object(rounds, "_SECONDS", 0.05):
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
    with patch.object(sealer, "ROTATE_BYTES", 3_000), patch.object(rounds, "_SECONDS", 0.05):
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


async def test_a_log_that_somebody_takes_away_is_missed_and_made_anew(tmp_path: Path) -> None:
    """As `rm` does, or a log rotation that knows nothing of ours: nothing is written where nobody looks."""
    async with agent(tmp_path) as services:
        async with workspace(services) as keeper:
            await write(keeper, 5)
            await until_sealed(services, 7)
            pid, log = keeper.mediator.pid, services.store.path(NAME, EGRESS)
            log.unlink()
            for _ in range(100):
                if log.exists():
                    break
                await asyncio.sleep(0.05)
            await write(keeper, 5)
            assert (keeper.mediator.pid, keeper.mediator.ended.done()) == (pid, False)
        records = [json.loads(line) for line in log.read_text().splitlines()]
        assert [record["seq"] for record in records] == [*range(8, 14)]
        assert records[-1]["event"] == "mediator_down"
        report = verified(services)
        assert (report.whole, report.sealed) == (False, 13)
        assert report.faults[0].what == "the records before 8 are gone"


async def test_a_mediator_cannot_reach_key_or_seals(tmp_path: Path) -> None:
    async with agent(tmp_path) as services:
        async with workspace(services) as keeper:
            await write(keeper, 1)
            await until_sealed(services, 1)
        for file in (tmp_path / "state" / "seals").iterdir():
            assert (file.stat().st_uid, file.stat().st_mode & 0o777) == (0, 0o600), file
        assert (tmp_path / "state" / "seals").stat().st_mode & 0o777 == 0o700
        assert all(json.loads(line)["signature"] for line in services.seals.lines(NAME))
