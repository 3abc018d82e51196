"""Threads for what users ask for, a few for each: nobody waits for another's search, or for a disk that hangs.

How this works. A thread cannot be stopped: one that reads from a file system that does not answer may never end. So a
turn is given back when its thread has ended, and not when its user has left. Nobody waits for such threads at the end
of the process either.
"""

import asyncio
import errno
import os
import threading
from collections.abc import Callable
from functools import partial
from typing import TypeVar
from weakref import WeakValueDictionary

from microagent.errors import ApiError

T = TypeVar("T")

_EACH = 4
_SECONDS = 30.0


class Turns:
    """Who works on what, by user."""

    def __init__(self) -> None:
        # Gone with the last who has a turn, or waits for one.
        self._users: WeakValueDictionary[int, asyncio.Semaphore] = WeakValueDictionary()

    async def work(self, uid: int, function: Callable[[], T]) -> T:
        """Runs `function` in a thread, when it is this user's turn; what it raises is raised.

        ApiError `busy` when all turns of theirs are taken, and stay so for half a minute.
        """
        turns = self._users.setdefault(uid, asyncio.Semaphore(_EACH))
        try:
            await asyncio.wait_for(turns.acquire(), _SECONDS)
        except TimeoutError:
            what = f"{_EACH} requests of yours are still being worked on"
            raise ApiError("busy", what, "end some of them, or wait; is what they read on a disk that hangs?") from None
        loop = asyncio.get_running_loop()
        result: asyncio.Future[T] = loop.create_future()

        def over(settle: Callable[[], None]) -> None:
            turns.release()
            if not result.done():
                settle()

        def body() -> None:
            try:
                settle = partial(result.set_result, function())
            except Exception as error:  # noqa: BLE001  (handed to the caller, whatever it is)
                settle = partial(result.set_exception, error)
            if not loop.is_closed():
                loop.call_soon_threadsafe(over, settle)

        try:
            threading.Thread(target=body, name="for a user", daemon=True).start()
        except RuntimeError as error:
            turns.release()
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from error
        return await result
