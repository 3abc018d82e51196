"""A guest's process: one that this agent started, or one that an earlier agent did."""

import asyncio
import os
import signal
from typing import Protocol


class Process(Protocol):
    """What a guest needs of its process; `asyncio.subprocess.Process` is one."""

    @property
    def pid(self) -> int:
        """Its number."""

    @property
    def returncode(self) -> int | None:
        """None as long as it runs."""

    @property
    def stderr(self) -> asyncio.StreamReader | None:
        """What it complains about, if that comes to us."""

    def kill(self) -> None:
        """Ends it."""

    async def wait(self) -> int:
        """Returns when it has ended."""


class Adopted:
    """A process that is no child of ours, watched by its pidfd. Its exit status is nobody's to see: it counts as 0."""

    stderr = None

    def __init__(self, pid: int) -> None:
        """ProcessLookupError when there is none."""
        self.pid = pid
        self._fd = os.pidfd_open(pid)
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().add_reader(self._fd, self._over)

    @property
    def returncode(self) -> int | None:
        """See Process."""
        return 0 if self._ended.done() else None

    def kill(self) -> None:
        """See Process."""
        if not self._ended.done():
            signal.pidfd_send_signal(self._fd, signal.SIGKILL)

    async def wait(self) -> int:
        """See Process."""
        await asyncio.shield(self._ended)
        return 0

    def _over(self) -> None:
        asyncio.get_running_loop().remove_reader(self._fd)
        os.close(self._fd)
        self._ended.set_result(None)
