"""A process that may outlive the agent, or that an earlier agent started: a guest's QEMU, a mediator.

How this works. Its pidfd becomes readable when it ends, whoever's child it is; then it is reaped, if it is ours.
asyncio's own subprocesses are not for this: their transport kills the process when it is collected, which at the
latest is when the agent ends.
"""

import asyncio
import contextlib
import io
import os
import signal
import subprocess
from collections.abc import Sequence
from typing import Any, cast

_CHUNK = 64 << 10
# QEMU's own complaints are short; a pipe nobody reads would stop it.
_MAX_COMPLAINT = 8192


class Process:
    """One process, watched until it ends or is let go. `complaint` is the end of what it wrote to stderr, to us."""

    def __init__(self, pid: int, stderr: io.FileIO | None = None) -> None:
        """Watches a process that runs, in the running loop; ProcessLookupError when there is none."""
        self.pid = pid
        self.complaint = b""
        self._pidfd = os.pidfd_open(pid)
        self._stderr = stderr
        self._ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._pidfd, self._over)
        if stderr:
            os.set_blocking(stderr.fileno(), False)
            self._loop.add_reader(stderr.fileno(), self._listen)

    @classmethod
    def start(cls, command: Sequence[str], **how: Any) -> "Process":
        """Starts a program; `how` is for subprocess.Popen. OSError when it cannot be."""
        child = subprocess.Popen(command, bufsize=0, **how)
        try:
            process = cls(child.pid, cast("io.FileIO | None", child.stderr))
        except OSError:
            child.kill()
            child.wait()
            raise
        # It is reaped here: Popen must neither do that when it likes, nor warn that nobody did.
        child.returncode = 0
        return process

    def kill(self) -> None:
        """Ends it; nothing when it has ended, or was let go."""
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):  # it has ended, which the loop has still to tell
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    async def wait(self) -> None:
        """Returns when it has ended, and all its complaints are here."""
        await self._ended.wait()

    def let_go(self) -> None:
        """Watches it no longer: it goes on without us."""
        self._close_stderr()
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    def _over(self) -> None:
        while self._listen():
            pass
        with contextlib.suppress(ChildProcessError):  # another's child, which that one reaps
            os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
        self.let_go()
        self._ended.set()

    def _listen(self) -> bool:
        """Takes what it complains about; False when there is no more for now."""
        said = self._stderr.read(_CHUNK) if self._stderr else None
        if said:
            self.complaint = (self.complaint + said)[-_MAX_COMPLAINT:]
        elif said is not None:
            self._close_stderr()
        return bool(said)

    def _close_stderr(self) -> None:
        if self._stderr:
            self._loop.remove_reader(self._stderr.fileno())
            self._stderr.close()
            self._stderr = None
