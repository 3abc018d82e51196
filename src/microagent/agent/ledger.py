"""What is running, on disk, so that the next agent can clean up after one that was killed.

How this works: `run_dir/workspaces/NAME.json` is written before the first kernel object of a workspace is made and
removed after the last one is gone. A process is named by its pid and its start time, which together are never used
again until the next boot; it is signalled through a pidfd that was opened before the start time was compared.
"""

import json
import os
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from microagent.errors import HostError
from microagent.workspace.files import ensure_directory, listing, open_directory, write_atomic


@dataclass(frozen=True, slots=True)
class Process:
    """One process, for as long as the machine is up: pid, and start time in clock ticks since boot."""

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> "Process":
        """The process that has this pid now; ProcessLookupError when there is none."""
        try:
            stat = Path(f"/proc/{pid}/stat").read_bytes()
        except FileNotFoundError as error:
            raise ProcessLookupError(pid) from error
        # proc(5): the second field is in parentheses and may hold anything; the start time is the 22nd.
        return cls(pid, int(stat[stat.rindex(b")") + 2 :].split()[19]))

    def kill(self) -> bool:
        """Ends it; False when it has ended already."""
        try:
            pidfd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return False
        try:
            if Process.of(self.pid) != self:
                return False
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        except ProcessLookupError:
            return False
        finally:
            os.close(pidfd)
        return True


class Ledger:
    """The files of `run_dir/workspaces`."""

    def __init__(self, run_dir: Path) -> None:
        directory = run_dir / "workspaces"
        ensure_directory(directory, 0o700)
        self._fd = open_directory(directory)

    def close(self) -> None:
        """Gives the directory's descriptor back."""
        os.close(self._fd)

    def note(self, name: str, pids: Iterable[int] = ()) -> None:
        """Says that workspace `name` has kernel objects, and these processes."""
        processes = []
        for pid in pids:
            try:
                process = Process.of(pid)
            except ProcessLookupError:
                continue
            processes.append([process.pid, process.started])
        write_atomic(self._fd, f"{name}.json", json.dumps(processes).encode())

    def forget(self, name: str) -> None:
        """Says that nothing of it is left."""
        try:
            os.unlink(f"{name}.json", dir_fd=self._fd)
        except FileNotFoundError:
            return

    def left(self) -> dict[str, list[Process]]:
        """Workspaces of which an earlier agent may have left something, with their processes."""
        found = {}
        for entry in listing(self._fd):
            name, dot, suffix = entry.rpartition(".")
            if dot and suffix == "json" and not name.startswith("."):
                found[name] = self._processes(entry)
        return found

    def _processes(self, entry: str) -> list[Process]:
        fd = os.open(entry, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._fd)
        with os.fdopen(fd, "rb") as file:
            try:
                return [Process(int(pid), int(started)) for pid, started in json.load(file)]
            except (ValueError, TypeError) as error:
                raise HostError(f"{entry} in the run directory is damaged: {error}") from error
