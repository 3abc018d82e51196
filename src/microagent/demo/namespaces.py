"""Network namespaces that are held by a descriptor and nothing else.

How this works: a thread unshares its network and the new namespace's descriptor is kept. There is no mount
and no name in the file system, so when this process dies, by whatever signal, the kernel takes all of it
back. Other programs are started inside through `/proc/PID/fd/N`, for as long as this process lives.
"""

import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pyroute2 import IPRoute

from microagent.errors import HostError
from microagent.host import netns

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000  # <linux/sched.h>; Python 3.11 has no os.unshare
_libc = ctypes.CDLL(None, use_errno=True)


class Namespace:
    """One network namespace, with its loopback up."""

    def __init__(self) -> None:
        """Raises HostError without CAP_SYS_ADMIN."""
        # "Inside" our own namespace, only for the thread that comes with it: what it unshares ends with it.
        self.descriptor = netns.run_inside(Path("/proc/self/ns/net"), _unshared)

    @property
    def path(self) -> Path:
        """A path that names the namespace while this process lives."""
        return Path(f"/proc/{os.getpid()}/fd/{self.descriptor}")

    def run(self, function: Callable[[], T]) -> T:
        """The result of `function`, called inside, in a thread of its own."""
        return netns.run_inside(self.path, function)

    def argv(self, *command: str) -> list[str]:
        """The argument vector that starts `command` inside (nsenter execs, so the process id stays)."""
        return ["nsenter", f"--net={self.path}", *command]

    def close(self) -> None:
        """Let go; the namespace ends with the last process and socket in it. Idempotent."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def _unshared() -> int:
    if _libc.unshare(_CLONE_NEWNET) != 0:
        error = os.strerror(ctypes.get_errno())
        raise HostError(f"cannot make a network namespace: {error}", "run this as root")
    with IPRoute() as kernel:
        kernel.link("set", index=1, state="up")
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
