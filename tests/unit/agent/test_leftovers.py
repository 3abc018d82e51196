"""What an agent finds of a guest that nobody could note: its own, and nobody else's who would be taken for one."""

import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.waiting import wait_for

from microagent.agent.leftovers import _guests
from microagent.guests.qemu import WORKSPACE_VARIABLE
from microagent.workspace.store import FIRST_UID

pytestmark = pytest.mark.kernel

STRANGER = 12345


def test_a_strangers_process_is_no_guest_whatever_it_says(tmp_path: Path) -> None:
    """One that waits for a disk of its user's own is not to be ended: whoever waited for that would wait for ever."""
    with ExitStack() as stack:

        def start(user: int, place: Path) -> "subprocess.Popen[bytes]":
            command = ["/bin/sleep", "60"]
            env = {WORKSPACE_VARIABLE: str(place)}
            process = subprocess.Popen(command, env=env, user=user, group=user, extra_groups=[])
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        wanted = {start(FIRST_UID + 1, tmp_path).pid, start(0, tmp_path).pid}
        others = start(FIRST_UID + 1, tmp_path / "other"), start(STRANGER, tmp_path)
        wait_for(lambda: all(Path(f"/proc/{one.pid}/exe").readlink().name == "sleep" for one in others))
        wait_for(lambda: {process.pid for process in _guests(tmp_path)} == wanted, looks=20)
