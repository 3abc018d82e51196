"""The guest's output: into output.log, and to whoever is attached, as it comes."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeAlias

from microagent.workspace.store import OUTPUT, Store

Sink: TypeAlias = Callable[[int, bytes], Awaitable[None]]

# A guest may print for weeks. The log and the one before it are kept, so this is half of what it may take.
_LONGEST_LOG = 16 << 20


async def pump(chunks: AsyncIterator[tuple[int, bytes]], store: Store, name: str, sink: Sink | None) -> None:
    """Runs until the guest's output ends. An attached client that is slow slows the guest; one that left does not."""
    fd = store.open_log(name, OUTPUT)
    try:
        async for channel, data in chunks:
            os.write(fd, data)
            if os.fstat(fd).st_size > _LONGEST_LOG:
                os.close(fd)
                path = store.path(name, OUTPUT)
                path.replace(path.with_suffix(".log.1"))
                fd = store.open_log(name, OUTPUT)
            if sink:
                try:
                    await sink(channel, data)
                except ConnectionError:
                    sink = None
    finally:
        os.close(fd)
