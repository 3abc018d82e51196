"""Our own stdin, stdout and stderr, from inside an event loop.

They are never made non-blocking, because that would change them for every process that shares them; and never read or
written in threads, because a thread that waits cannot be left. A pipe that polls as writable takes PIPE_BUF bytes
without blocking (POSIX). What cannot be polled, a file, does not block for long.
"""

import asyncio
import os
import select
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

T = TypeVar("T")

_CHUNK = 64 * 1024


async def read(fd: int) -> AsyncIterator[bytes]:
    """The bytes that come, until the end."""
    loop = asyncio.get_running_loop()
    while True:
        if _can_be_polled(fd):
            await _event(lambda wake: loop.add_reader(fd, wake), lambda: loop.remove_reader(fd))
        if _is_another_jobs(fd):
            # Reading would stop us (SIGTTIN): the terminal is another job's. It may become ours again.
            await asyncio.sleep(0.2)
            continue
        chunk = os.read(fd, _CHUNK)
        if not chunk:
            return
        yield chunk


async def write(fd: int, data: bytes) -> None:
    """Writes all of it; BrokenPipeError when nobody reads any more."""
    loop = asyncio.get_running_loop()
    rest = memoryview(data)
    polled = _can_be_polled(fd)
    while rest:
        if polled:
            await _event(lambda wake: loop.add_writer(fd, wake), lambda: loop.remove_writer(fd))
        rest = rest[os.write(fd, rest[: select.PIPE_BUF] if polled else rest) :]


async def while_read(fd: int, work: Awaitable[T]) -> T:
    """What `work` returns; BrokenPipeError as soon as `fd` is a pipe nobody reads, also while nothing is written."""
    if not stat.S_ISFIFO(os.fstat(fd).st_mode):
        return await work
    loop = asyncio.get_running_loop()
    # The writing end of a pipe never polls as readable; what wakes a reader there is the error condition.
    closed = asyncio.ensure_future(_event(lambda wake: loop.add_reader(fd, wake), lambda: loop.remove_reader(fd)))
    working = asyncio.ensure_future(work)
    try:
        await asyncio.wait([closed, working], return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise BrokenPipeError
        return working.result()
    finally:
        closed.cancel()
        working.cancel()
        await asyncio.wait([closed, working])


def _is_another_jobs(fd: int) -> bool:
    """Whether it is our terminal, and another job has it; a terminal that is not our own has no jobs of ours."""
    try:
        return os.tcgetpgrp(fd) != os.getpgrp()
    except OSError:
        return False


def _can_be_polled(fd: int) -> bool:
    mode = os.fstat(fd).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(fd)


async def _event(watch: Callable[[Callable[[], Any]], None], unwatch: Callable[[], object]) -> None:
    happened = asyncio.Event()
    watch(happened.set)
    try:
        await happened.wait()
    finally:
        unwatch()
