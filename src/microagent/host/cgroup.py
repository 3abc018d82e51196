"""Bounds on what a workspace's processes take, by cgroup v2: memory, CPU, processes.

How this works: below the mount's root lies one group of the agent's, in it one a workspace, and in that `guest` and
`mediator`. It is not below the agent's own unit, since a unit with groups that have processes cannot be started again.
A group's processes are killed together and at once, also those that nobody noted (kernel: cgroup-v2.rst).
"""

import contextlib
import errno
import time
from dataclasses import dataclass
from pathlib import Path

from microagent.errors import HostError

CONTROLLERS = ("cpu", "memory", "pids")
_MOUNTS = Path("/proc/self/mounts")
_PERIOD = 100_000  # microseconds, the kernel's default
_KILL_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the processes of one group may take together."""

    memory_mib: int
    processes: int
    cpus: int


class Cgroups:
    """The agent's groups, below `root`. Every call is fine to repeat."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @classmethod
    def open(cls, name: str) -> "Cgroups":
        """The group `name` of this machine, made if need be; HostError, with what is missing, when it cannot be."""
        mount = _mount()
        there = set((mount / "cgroup.controllers").read_text().split())
        missing = sorted(set(CONTROLLERS) - there)
        if missing:
            hint = "boot with cgroup v2 alone (systemd.unified_cgroup_hierarchy=1)"
            raise HostError(f"cgroup v2 at {mount} has no controller {', '.join(missing)}", hint)
        root = mount / name
        try:
            _enable(mount)
            root.mkdir(exist_ok=True)
            _enable(root)
        except OSError as error:
            hint = "in a container, delegate a cgroup to it whose root has no processes of its own"
            raise HostError(f"cgroup v2 at {mount} cannot be used: {error.strerror}", hint) from error
        return cls(root)

    def create(self, workspace: str, bounds: dict[str, Bounds]) -> None:
        """A group for each role of a workspace, with its bounds."""
        one = self._root / workspace
        try:
            one.mkdir(exist_ok=True)
            _enable(one)
            for role, bound in bounds.items():
                group = one / role
                group.mkdir(exist_ok=True)
                (group / "memory.max").write_text(str(bound.memory_mib << 20))
                # All or nothing: half a guest is of no use.
                (group / "memory.oom.group").write_text("1")
                (group / "pids.max").write_text(str(bound.processes))
                (group / "cpu.max").write_text(f"{bound.cpus * _PERIOD} {_PERIOD}")
        except OSError as error:
            raise HostError(f"cannot bound workspace {workspace} in {one}: {error.strerror}") from error

    def enter(self, workspace: str, role: str, pid: int) -> None:
        """Puts a process into its group; one that has ended already is let go."""
        try:
            (self._root / workspace / role / "cgroup.procs").write_text(str(pid))
        except OSError as error:
            if error.errno != errno.ESRCH:
                raise HostError(f"cannot bound process {pid} of workspace {workspace}: {error.strerror}") from error

    def remove(self, workspace: str) -> None:
        """Kills what is in a workspace's groups, and removes them; HostError when something does not die."""
        one = self._root / workspace
        if not one.exists():
            return
        (one / "cgroup.kill").write_text("1")
        groups = [*(path for path in one.iterdir() if path.is_dir()), one]
        end = time.monotonic() + _KILL_SECONDS
        for group in groups:
            while not _removed(group):
                if time.monotonic() > end:
                    raise HostError(f"a process in {group} does not end")
                time.sleep(0.01)

    def close(self) -> None:
        """Removes the agent's group when no workspace is in it."""
        with contextlib.suppress(OSError):
            self._root.rmdir()


def _mount() -> Path:
    for line in _MOUNTS.read_text().splitlines():
        _, place, kind, options, *_ = line.split(" ")
        if kind == "cgroup2":
            if "rw" in options.split(","):
                return Path(place)
            raise HostError(f"cgroup v2 at {place} is read-only")
    raise HostError("cgroup v2 is not mounted", "mount -t cgroup2 cgroup2 /sys/fs/cgroup")


def _enable(group: Path) -> None:
    (group / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in CONTROLLERS))


def _removed(group: Path) -> bool:
    try:
        group.rmdir()
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        return False
    return True
