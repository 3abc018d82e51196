"""For whom the agent reads: files that a caller names are opened with that caller's rights and no other.

How this works. Linux keeps a user and a list of groups for file access apart from the process's own, one of each a
thread (setfsuid(2), credentials(7)). A thread that takes a caller's loses CAP_DAC_OVERRIDE and its like in the same
moment, so that the kernel itself decides, file by file, and no check can be outrun. The raw system call sets the
groups of one thread; the C library's function would set those of all.
"""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_SYS_SETGROUPS = 116  # x86-64, the one machine that guests run on
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Caller:
    """A user as the kernel knows it."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()

    @property
    def is_root(self) -> bool:
        """Whether every file is its to read."""
        return self.uid == 0


ROOT = Caller(0, 0)


@contextmanager
def acting_as(caller: Caller) -> Iterator[None]:
    """This thread reads files as `caller` would; OSError when that cannot be. For code that does not await."""
    if caller.is_root:
        yield
        return
    own = os.getgroups()
    try:
        _set_groups(caller.groups)
        _libc.setfsgid(caller.gid)
        _libc.setfsuid(caller.uid)
        # Both return what was set before, also when they refuse; asking for nobody shows what is.
        if _libc.setfsuid(-1) != caller.uid or _libc.setfsgid(-1) != caller.gid:
            raise PermissionError("the agent cannot take its caller's rights")
        yield
    finally:
        _libc.setfsuid(os.geteuid())
        _libc.setfsgid(os.getegid())
        _set_groups(tuple(own))


def _set_groups(groups: tuple[int, ...]) -> None:
    if _libc.syscall(_SYS_SETGROUPS, len(groups), (ctypes.c_uint32 * len(groups))(*groups)) != 0:
        raise OSError(ctypes.get_errno(), "setgroups failed")
