"""Steps are undone in reverse, finished or not."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from microagent.agent.undo import acquire


async def made(log: list[str], name: str, go: asyncio.Event | None = None) -> str:
    if go:
        await go.wait()
    log.append(f"made {name}")
    return name


async def released(log: list[str], name: str) -> None:
    log.append(f"released {name}")


@pytest.mark.asyncio
async def test_in_reverse() -> None:
    log: list[str] = []
    async with AsyncExitStack() as undo:
        for name in "ab":
            assert await acquire(undo, made(log, name), lambda n: released(log, n)) == name
    assert log == ["made a", "made b", "released b", "released a"]


@pytest.mark.asyncio
async def test_a_cancelled_step_runs_to_its_end_and_is_released() -> None:
    log: list[str] = []
    go = asyncio.Event()

    async def work() -> None:
        async with AsyncExitStack() as undo:
            await acquire(undo, made(log, "a", go), lambda n: released(log, n))
            log.append("not reached")

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    asyncio.get_running_loop().call_later(0.01, go.set)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert log == ["made a", "released a"]


@pytest.mark.asyncio
async def test_a_failed_step_releases_nothing_of_its_own() -> None:
    log: list[str] = []

    async def fail() -> str:
        raise OSError("no")

    async def work() -> None:
        async with AsyncExitStack() as undo:
            await acquire(undo, made(log, "a"), lambda n: released(log, n))
            await acquire(undo, fail(), lambda n: released(log, n))

    with pytest.raises(OSError, match="no"):
        await work()
    assert log == ["made a", "released a"]
