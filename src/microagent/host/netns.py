"""Network namespaces, and a way to run a function inside one.

How this works: `setns(2)` and `unshare(2)` move one thread, and everything a thread makes there (sockets, taps,
netlink handles) stays in that namespace when it is used elsewhere. So each piece of work runs in a fresh thread
that enters, works and ends; the daemon's other threads never leave home. Nothing forks: the daemon is threaded.
"""

import contextlib
import ctypes
import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pyroute2 import netns

from microagent.errors import HostError
from microagent.host.threads import start_thread

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000
_MNT_DETACH = 2
_libc = ctypes.CDLL(None, use_errno=True)
# The first attach() lays a mount over the directory (see release_directory); two firsts at once would lay two.
_ATTACHING = threading.Lock()


def create(path: Path) -> None:
    """Make a namespace and keep it by a bind mount at `path`, as iproute2 does under /run/netns."""

    def work() -> None:
        _check(_libc.unshare(_CLONE_NEWNET), f"make a network namespace for {path.name}")
        # pyroute2's own create() forks; attach() by the calling thread's entry in /proc does not.
        with _ATTACHING:
            netns.attach(str(path), "thread-self")

    _in_thread(work)


def remove(path: Path) -> None:
    """Undo `create`; fine when there is nothing."""
    if path.exists():
        with contextlib.suppress(FileNotFoundError):
            netns.remove(str(path))


def release_directory(directory: Path) -> None:
    """Undo the mount that pyroute2 lays over the directory of namespaces."""
    _libc.umount2(str(directory).encode(), _MNT_DETACH)


def run_inside(path: Path, function: Callable[[], T]) -> T:
    """Run `function` in the namespace kept at `path`, in a thread of its own; its result or exception is ours."""

    def work() -> T:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _check(_libc.setns(fd, _CLONE_NEWNET), f"enter the network namespace {path.name}")
        finally:
            os.close(fd)
        return function()

    return _in_thread(work)


def run_in_scratch(function: Callable[[], T]) -> T:
    """Run `function` in a namespace of its own that ends with it."""

    def work() -> T:
        _check(_libc.unshare(_CLONE_NEWNET), "make a network namespace")
        return function()

    return _in_thread(work)


def _in_thread(work: Callable[[], T]) -> T:
    result: list[T] = []
    failure: list[BaseException] = []

    def body() -> None:
        try:
            result.append(work())
        except BaseException as error:  # noqa: BLE001  (handed to the caller, whatever it is)
            failure.append(error)

    start_thread(body, "in-netns").join()
    if failure:
        raise failure[0]
    return result[0]


def _check(code: int, doing: str) -> None:
    if code < 0:
        error = ctypes.get_errno()
        hint = "the agent needs root with CAP_SYS_ADMIN"
        if error == errno.ENOSPC:  # unshare(2): not of any disk
            hint = "raise user.max_net_namespaces (sysctl); a workspace takes two"
        raise HostError(f"cannot {doing}: {os.strerror(error)}", hint)
