"""An image lies on a disk that does not answer: its user waits, and nobody else does, nor does the end of the agent."""

import ctypes
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.agent.test_agent import Agent

from microagent.api.messages import WORKSPACES, workspace_path
from microagent.errors import ApiError

pytestmark = pytest.mark.kernel

_libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture
def silent(tmp_path: Path) -> Iterator[Path]:
    """A FUSE mount whose server never says a word; in the end its server dies, and who waited gets an error."""
    place = tmp_path / "silent"
    place.mkdir()
    server = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={server},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
    if _libc.mount(b"silent", str(place).encode(), b"fuse.silent", 0, options):
        os.close(server)
        raise OSError(ctypes.get_errno(), "mount")
    yield place
    os.close(server)
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_an_image_on_a_disk_that_hangs_keeps_nobody_else_waiting(silent: Path, tmp_path: Path) -> None:
    agent = Agent(tmp_path)
    try:
        agent.create("a")

        def hang(number: int) -> None:
            try:
                agent.create(f"h{number}", image=f"{silent}/image")
            except (ApiError, OSError):
                return

        hanging = [threading.Thread(target=hang, args=(number,), daemon=True) for number in range(40)]
        for one in hanging:
            one.start()
        answers: list[str] = []

        def ask() -> None:
            answers.append(agent.ask("GET", workspace_path("a"))["name"])

        # Those that came first are in their threads by now, or this is served before them.
        for _ in range(20):
            asking = threading.Thread(target=ask, daemon=True)
            asking.start()
            asking.join(10)
        assert answers == ["a"] * 20
        assert [one["name"] for one in agent.ask("GET", WORKSPACES)["workspaces"]] == ["a"]
        agent.process.terminate()
        agent.process.wait(20)
    finally:
        agent.process.kill()
        agent.process.communicate()
