"""What is running, on disk, so that the next agent can clean up after one that was killed.

How this works: `run_dir/workspaces/NAME.json` is written before the first kernel object of a workspace is made and
removed after the last one is gone. A process is named by its pid and its start time, which together are never used
again until the next boot; it is signalled through a pidfd that was opened before the start time was compared.
"""

import json
import os
import select
import signal
from dataclasses import dataclass
from pathlib import Path

from microagent.workspace.files import drop_unfinished, ensure_directory, listing, open_directory, write_atomic


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

    def alive(self) -> bool:
        """Whether it runs; one that has ended and waits to be reaped does not."""
        try:
            return Process.of(self.pid) == self and self._status("State")[:1] not in ("Z", "X")
        except ProcessLookupError:
            return False

    def runs(self, program: str, uid: int) -> bool:
        """Whether it is alive as this user, and in all of its ids, with a program of that name."""
        try:
            executed = Path(f"/proc/{self.pid}/exe").readlink().name.removesuffix(" (deleted)")
            return executed == program and self.uids() == {uid} and self.alive()
        except OSError:
            return False

    def uids(self) -> set[int]:
        """Whose it is, in all of its ids; ProcessLookupError when it has ended."""
        return set(map(int, self._status("Uid").split()))

    def wait(self) -> None:
        """Returns when it has ended."""
        try:
            pidfd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            if self.alive():
                over = select.poll()
                over.register(pidfd, select.POLLIN)
                over.poll()
        finally:
            os.close(pidfd)

    def _status(self, field: str) -> str:
        try:
            lines = Path(f"/proc/{self.pid}/status").read_text("utf-8", "replace").splitlines()
        except FileNotFoundError as error:
            raise ProcessLookupError(self.pid) from error
        return next(line.partition(":")[2].strip() for line in lines if line.startswith(f"{field}:"))

    def kill(self) -> bool:
        """Ends it; False when it has ended already."""
        try:
            pidfd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return False
        try:
            if not self.alive():
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
        drop_unfinished(self._fd)

    def close(self) -> None:
        """Gives the directory's descriptor back."""
        os.close(self._fd)

    def note(self, name: str, **pids: int) -> None:
        """Says that workspace `name` has kernel objects, and these processes, by what they are to it."""
        processes = {}
        for role, pid in pids.items():
            try:
                process = Process.of(pid)
            except ProcessLookupError:
                continue
            processes[role] = [process.pid, process.started]
        write_atomic(self._fd, f"{name}.json", json.dumps(processes).encode())

    def forget(self, name: str) -> None:
        """Says that nothing of it is left."""
        try:
            os.unlink(f"{name}.json", dir_fd=self._fd)
        except FileNotFoundError:
            return

    def left(self) -> list[str]:
        """Workspaces of which an earlier agent may have left something."""
        names = (entry.rpartition(".") for entry in listing(self._fd))
        return [name for name, dot, suffix in names if dot and suffix == "json" and not name.startswith(".")]

    def processes(self, name: str) -> dict[str, Process]:
        """The processes that were noted for a workspace: `guest`, `mediator`. None of them need be there any more."""
        try:
            fd = os.open(f"{name}.json", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._fd)
        except FileNotFoundError:
            return {}
        with os.fdopen(fd, "rb") as file:
            try:
                return {role: Process(int(pid), int(started)) for role, (pid, started) in json.load(file).items()}
            except (ValueError, TypeError, AttributeError):
                return {}  # not ours: what is there is found without it
