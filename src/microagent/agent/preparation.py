"""The end of a workspace's set-up, for somebody who waits for it."""

import asyncio
from pathlib import Path

from microagent.agent.bringup import Life
from microagent.agent.supervisor import SetupFailed, Supervisor
from microagent.agent.undo import cancelled
from microagent.audit.logfile import open_log
from microagent.errors import ApiError

# What a set-up that failed said last: enough for the error and what led to it, and less than a terminal.
_LINES = 10
_TAIL = 4096
# What each set-up that failed says last (guests.bootdisk), though what it wrote to the other stream may come behind it.
_FAILED = "microagent: setup command "


async def until_prepared(supervisor: Supervisor, output: Path) -> None:
    """Returns when the command of a workspace that was started has begun, at once where it has no set-up.

    The reason why it will not begin is raised, with the last lines of `output` where it is the set-up's own.
    """
    life = supervisor.life
    if life and supervisor.setting_up:
        await _over(supervisor, life)
        if not (life.guest.began.is_set() or supervisor.failure or supervisor.released):
            raise ApiError("conflict", f"workspace {supervisor.record.name} was stopped while it was set up")
    if (failure := supervisor.failure) is not None:
        if isinstance(failure, SetupFailed):
            said = "\n".join((failure.what, *await asyncio.to_thread(last_lines, output)))
            raise ApiError(failure.code, f"{supervisor.record.name}: {said}", failure.hint)
        raise failure


async def _over(supervisor: Supervisor, life: Life) -> None:
    ended, began = asyncio.create_task(supervisor.ended()), asyncio.create_task(life.guest.began.wait())
    try:
        await asyncio.wait([ended, began], return_when=asyncio.FIRST_COMPLETED)
    finally:
        await cancelled(ended)
        await cancelled(began)


def last_lines(path: Path) -> list[str]:
    """Of the last set-up, as the guest wrote them: whoever shows them makes them inert. OSError."""
    with open_log(path) as log:
        log.seek(max(0, path.stat().st_size - _TAIL))
        lines = log.read().decode("utf-8", "replace").splitlines()
    ends = [n for n, line in enumerate(lines, 1) if line.startswith(_FAILED)]
    return lines[ends[-2] if len(ends) > 1 else 0 :][-_LINES:]
