"""What the machine refused, in words that say what to do about it."""

import errno
import os

from microagent.errors import HostError

_DESCRIPTORS = (
    "the agent has no file descriptors left",
    "raise LimitNOFILE= of its unit (`ulimit -n` for one by hand)",
)
_SPACE = ("the disk is full", "free some space below state_dir (/var/lib/microagent), or delete workspaces")
_PROCESSES = ("the machine can start no more processes", "raise kernel.pid_max, or the pids.max of the agent's cgroup")
_WORDS = {
    errno.EMFILE: _DESCRIPTORS,
    errno.ENFILE: ("the machine has no file descriptors left", "raise fs.file-max"),
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
    errno.EAGAIN: _PROCESSES,
    errno.ENOMEM: ("the machine has no memory left", "stop workspaces, or give them less with --memory"),
    errno.EROFS: ("the file system is read-only", "look into the kernel's log (dmesg) for why"),
}


def host_error(error: OSError | RuntimeError) -> HostError:
    """As a HostError. A RuntimeError is what Python makes of a thread that cannot be started."""
    if isinstance(error, RuntimeError):
        return HostError(*_PROCESSES)
    what, hint = _WORDS.get(error.errno or 0, ("", ""))
    if not what:
        return HostError(str(error))
    where = f": {os.fsdecode(error.filename)}" if isinstance(error.filename, str | bytes) else ""
    return HostError(f"{what}{where}", hint)
