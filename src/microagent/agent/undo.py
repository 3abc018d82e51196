"""Steps that are undone in reverse, also when the work is cancelled in the middle of one."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any, TypeVar

T = TypeVar("T")


async def acquire(undo: AsyncExitStack, make: Coroutine[Any, Any, T], release: Callable[[T], Awaitable[object]]) -> T:
    """What `make` makes, to be given to `release` when `undo` unwinds.

    A cancelled step still runs to its end (a thread cannot be stopped), and is then released like any other: so there
    is no moment in which a network or a process exists and nobody will remove it.
    """
    making = asyncio.create_task(make)

    async def unmake() -> None:
        await asyncio.wait([making])
        if not making.cancelled() and making.exception() is None:
            await release(making.result())

    undo.push_async_callback(unmake)
    return await asyncio.shield(making)


async def cancelled(task: "asyncio.Task[Any]") -> None:
    """Cancel a task that runs for as long as what it serves, and wait until it has ended, whatever it ended with."""
    task.cancel()
    await asyncio.wait([task])
