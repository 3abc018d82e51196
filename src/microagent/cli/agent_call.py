"""Asking the agent, and having one started when root finds none."""

import contextlib
import os
import socket as socketlib
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from microagent.cli.output import DEFAULT_SOCKET, Settings, note
from microagent.errors import ApiError

T = TypeVar("T")

# A fresh agent sweeps what an earlier one left, then listens; it takes about a second.
_READY_WITHIN = 20.0
_OTHER_READY_WITHIN = 3.0
_LOG = "agent.log"
# As `make install` leaves it, where systemd runs (sd_booted(3)).
_UNIT = "microagent"
_UNIT_FILE = Path(f"/etc/systemd/system/{_UNIT}.service")
_SYSTEMD = Path("/run/systemd/system")


def ask(
    settings: Settings,
    method: str,
    path: str,
    body: object = None,
    query: Mapping[str, str] | None = None,
) -> Any:
    """The agent's answer as JSON."""
    from microagent.api.client import call

    return with_agent(settings, lambda: call(settings.socket, method, path, body, query))


def with_agent(settings: Settings, work: Callable[[], T]) -> T:
    """What `work` returns; when no agent answers it, and we may, one is started and `work` is tried once more."""
    from microagent.api.client import NoAgent

    try:
        return work()
    except NoAgent:
        if settings.socket != DEFAULT_SOCKET:
            raise
        if os.geteuid() != 0:
            hint = "run it with sudo: root starts an agent by itself"
            raise ApiError("no_agent", f"no agent runs on this machine ({settings.socket})", hint) from None
    if not (_UNIT_FILE.exists() and _SYSTEMD.exists()):
        _start_agent(settings.socket)
        return work()
    _start_unit()
    try:
        return work()
    except NoAgent as error:
        # For systemd it runs: somebody has removed its socket.
        hint = f"systemctl restart {_UNIT}: workspaces go on meanwhile"
        raise ApiError("no_agent", error.what, hint) from None


def _start_unit() -> None:
    """Has systemd start the agent: one of our own would keep the unit's from ever starting."""
    note(f"no agent was running: systemctl start {_UNIT}")
    done = subprocess.run(["systemctl", "start", _UNIT], capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        why = (done.stderr.strip().splitlines() or [f"systemctl ended with {done.returncode}"])[0]
        raise ApiError("no_agent", f"the agent did not start: {why}", f"journalctl -u {_UNIT}")


def _start_agent(socket: Path) -> None:
    """Starts an agent that outlives this command, and waits until it listens."""
    log = socket.parent / _LOG
    # As the agent makes it: its group must reach the socket in it, also where root's umask is 077.
    with contextlib.suppress(FileExistsError):
        log.parent.mkdir(mode=0o700)
        log.parent.chmod(0o711)
    fd = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        # -P: a daemon of root's must not import what lies in the directory this happens to be called from.
        agent = subprocess.Popen(
            [sys.executable, "-P", "-m", "microagent.cli", "agent"],
            stdin=subprocess.DEVNULL,
            stdout=fd,
            stderr=fd,
            start_new_session=True,
        )
    finally:
        os.close(fd)
    note(f"no agent was running: started one (pid {agent.pid}, log {log})")
    end = time.monotonic() + _READY_WITHIN
    while not _answers(socket):
        if agent.poll() is not None:
            # Another command may have started one in the same moment, and that one has the lock.
            end = min(end, time.monotonic() + _OTHER_READY_WITHIN)
        if time.monotonic() > end:
            why, hint = _last_words(log)
            raise ApiError("no_agent", f"the agent did not start: {why}", hint or f"see {log}, and microagent doctor")
        time.sleep(0.05)


def _answers(path: Path) -> bool:
    with socketlib.socket(socketlib.AF_UNIX) as sock:
        return sock.connect_ex(str(path)) == 0


def _last_words(log: Path) -> tuple[str, str]:
    """The last error in the agent's log, and its hint if it has one."""
    lines = log.read_text(errors="replace").strip().splitlines()
    hint = lines.pop().removeprefix("hint: ") if lines and lines[-1].startswith("hint: ") else ""
    return (lines[-1].removeprefix("error: ") if lines else "it wrote nothing"), hint
