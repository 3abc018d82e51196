"""Networks and mediators, made and removed many at a time by the agent's own code: nothing stays.

`python -m tests.kernel.test_cycles 1000 20` runs a thousand, twenty at a time, and says how long they took.
"""

import asyncio
import sys
import tempfile
import threading
import time
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from microagent.agent.bringup import build
from microagent.agent.config import Config
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

pytestmark = pytest.mark.kernel


def left(directory: Path) -> dict[str, object]:
    """All that a workspace could leave, counted."""
    mounts = [line for line in Path("/proc/self/mounts").read_text().splitlines() if str(directory) in line]
    return {
        "descriptors": sum(1 for _ in Path("/proc/self/fd").iterdir()),
        "threads": threading.active_count(),
        "mounts": len(mounts),
        "files": sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if not path.is_dir()),
        "processes": processes(directory),
    }


def processes(directory: Path) -> int:
    """Those that hold a file below the directory, as every mediator does."""
    count = 0
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            count += any(directory in _target(fd).parents for fd in tuple((entry / "fd").iterdir()))
    return count


def _target(fd: Path) -> Path:
    """What a descriptor is open on; one that was closed while we looked is open on nothing."""
    try:
        return fd.readlink()
    except OSError:
        return Path("/")


async def cycle(services: Services, name: str) -> None:
    now = datetime.now(UTC)
    spec = from_json({"name": name, "image": "none"})
    record = services.store.create(spec, create_ca(name, now), timestamp(now))
    async with AsyncExitStack() as undo:
        _, keeper = await build(services, record, undo)
        assert Path(f"/proc/{keeper.mediator.pid}").exists()
    services.store.remove(name)
    services.seals.remove(name)


async def cycles(directory: Path, count: int, at_once: int) -> tuple[dict[str, object], dict[str, object]]:
    """What there was after a few, and after all."""
    (directory / "resolv.conf").write_text("nameserver 192.0.2.1\n")
    config = Config(state_dir=directory / "state", run_dir=directory / "run", resolv_conf=directory / "resolv.conf")
    store, ledger, seals = Store(config.state_dir), Ledger(config.run_dir), Seals(config.state_dir)
    try:
        async with Spawner.started(()) as spawner, Rounds.going() as rounds:
            images = ImageStore(directory / "images", directory / "built")
            services = Services(config, store, ledger, spawner, images, None, seals, Outbox(config), rounds)
            turn = asyncio.Semaphore(at_once)

            async def one(number: int) -> None:
                async with turn:
                    await cycle(services, f"w{number}")

            # All threads that its pools may have are there from now on, and all caches after the first few.
            await asyncio.gather(*(pool(lambda: time.sleep(0.1)) for pool in (asyncio.to_thread, rounds.work) * 40))
            await asyncio.gather(*(one(number) for number in range(at_once)))
            before = left(directory)
            await asyncio.gather(*(one(number) for number in range(count)))
            return before, left(directory)
    finally:
        ledger.close()
        store.close()
        seals.close()
        release_directory(netns_directory(config))


def test_nothing_stays(tmp_path: Path) -> None:
    before, after = asyncio.run(cycles(tmp_path, 40, 10))
    assert after == before
    assert (before["mounts"], before["processes"], before["files"]) == (
        1,
        1,
        ["resolv.conf", "state/seals/seal-key.pem"],
    )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir="/tmp") as home:
        began = time.monotonic()
        found = asyncio.run(cycles(Path(home), int(sys.argv[1]), int(sys.argv[2])))
        sys.stdout.write(
            f"{sys.argv[1]} cycles in {time.monotonic() - began:.1f} s\nbefore {found[0]}\nafter  {found[1]}\n"
        )
