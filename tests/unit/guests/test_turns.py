"""Each user has a few threads: who fills theirs waits alone, and a thread that hangs keeps its turn."""

import asyncio
import threading

import pytest

from microagent.errors import ApiError
from microagent.guests import turns
from microagent.guests.turns import Turns

pytestmark = pytest.mark.asyncio

ONE, OTHER = 1000, 1001


async def test_who_fills_their_threads_waits_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "_SECONDS", 0.2)
    over, begun, work = threading.Event(), threading.Semaphore(0), Turns()

    def hang() -> str:
        begun.release()
        over.wait()
        return "done"

    hanging = [asyncio.create_task(work.work(ONE, hang)) for _ in range(turns._EACH)]
    for _ in hanging:
        await asyncio.to_thread(begun.acquire)
    # One whose client left: its thread goes on, and so its turn is not another's.
    hanging.pop().cancel()
    with pytest.raises(ApiError, match="4 requests of yours are still being worked on"):
        await work.work(ONE, lambda: "never")
    assert await asyncio.wait_for(work.work(OTHER, lambda: "other"), 10) == "other"
    over.set()
    assert await asyncio.gather(*hanging) == ["done"] * (turns._EACH - 1)
    assert await asyncio.wait_for(work.work(ONE, lambda: "again"), 10) == "again"


async def test_what_the_work_raises_is_raised_and_gives_its_turn_back() -> None:
    work = Turns()

    def fail() -> None:
        raise FileNotFoundError("x")

    for _ in range(2 * turns._EACH):
        with pytest.raises(FileNotFoundError):
            await asyncio.wait_for(work.work(ONE, fail), 10)
