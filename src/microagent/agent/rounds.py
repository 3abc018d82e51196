"""One look around a second, at all workspaces: who has something to do is woken, and nobody else is.

An idle workspace costs the few system calls of its looks, and no task's turn, since there may be hundreds.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypeVar

from microagent.agent.undo import cancelled

T = TypeVar("T")

# Changed rules are put back within 2 s (contract 11), and what is new in a log is sealed each second (contract 10).
_SECONDS = 1.0
_THREADS = 4


class Rounds:
    """Who waits for what, of all workspaces."""

    def __init__(self) -> None:
        self._looks: dict[asyncio.Future[None], Callable[[], bool]] = {}
        # Its own, so that what was noticed never waits for threads that serve somebody.
        self._threads = ThreadPoolExecutor(_THREADS, "rounds")

    @classmethod
    @asynccontextmanager
    async def going(cls) -> AsyncIterator["Rounds"]:
        """Rounds that end with the block."""
        rounds = cls()
        going = asyncio.create_task(rounds._go())
        try:
            yield rounds
        finally:
            await cancelled(going)
            rounds._threads.shutdown(wait=False)

    def until(self, look: Callable[[], bool]) -> "asyncio.Future[None]":
        """Done in the first round in which `look` says True; what it raises is raised. It is asked in the event loop,
        as long as nobody cancels, and so it may not wait for anything.
        """
        found = asyncio.get_running_loop().create_future()
        self._looks[found] = look
        found.add_done_callback(self._looks.pop)
        return found

    async def work(self, function: Callable[[], T]) -> T:
        """Runs what is to be done about it in a thread; what it raises is raised."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, function)

    async def _go(self) -> None:
        while True:
            await asyncio.sleep(_SECONDS)
            for found, look in list(self._looks.items()):
                try:
                    if not found.done() and look():
                        found.set_result(None)
                except Exception as error:  # noqa: BLE001  (one workspace's, whatever it is, and no other's)
                    found.set_exception(error)
