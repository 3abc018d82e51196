"""Rounds: each second every look, and what one of them raises is its own waiter's alone."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from microagent.agent import rounds
from microagent.agent.rounds import Rounds

pytestmark = pytest.mark.asyncio


async def test_who_has_something_to_do_is_woken_and_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "_SECONDS", 0.01)
    seen: list[int] = []

    def third_time() -> bool:
        seen.append(len(seen))
        return len(seen) == 3

    async with Rounds.going() as going:
        idle, left = going.until(lambda: False), going.until(seen.clear)  # type: ignore[arg-type]
        left.cancel()
        await asyncio.wait_for(going.until(third_time), 10)
        await asyncio.wait_for(going.until(lambda: True), 10)
        assert (seen, idle.done()) == ([0, 1, 2], False)
        idle.cancel()


async def test_what_was_noticed_is_worked_on_while_every_other_thread_is_busy() -> None:
    loop, over = asyncio.get_running_loop(), threading.Event()
    loop.set_default_executor(ThreadPoolExecutor(1))
    busy = loop.run_in_executor(None, over.wait)
    async with Rounds.going() as going:
        assert await asyncio.wait_for(going.work(lambda: 7), 10) == 7
    over.set()
    await busy


async def test_a_look_that_fails_ends_no_round_but_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "_SECONDS", 0.01)

    def broken() -> bool:
        raise ZeroDivisionError

    async with Rounds.going() as going:
        with pytest.raises(ZeroDivisionError):
            await asyncio.wait_for(going.until(broken), 10)
        await asyncio.wait_for(going.until(lambda: True), 10)
