"""Processes that may outlive their agent, played by shells: the end is seen, reaped, and nobody else's doing."""

import asyncio
import gc
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from microagent.agent.ledger import Process as Noted
from microagent.guests.process import Process


def shell(script: str) -> Process:
    return Process.start(["sh", "-c", script], stderr=subprocess.PIPE)


async def until(condition: Callable[[], object]) -> None:
    for _ in range(3000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never happened")


def descriptors() -> set[str]:
    return {entry.name for entry in Path("/proc/self/fd").iterdir()}


def test_it_outlives_the_loop_that_started_it_and_the_next_one_sees_its_end() -> None:
    async def start() -> int:
        process = shell("echo up >&2; exec sleep 600")
        await until(lambda: process.complaint)
        process.let_go()
        process.kill()  # it is no longer ours to end
        return process.pid

    pid = asyncio.run(start())
    gc.collect()
    assert Noted.of(pid).alive()

    async def adopt() -> None:
        process = Process(pid)
        process.kill()
        await process.wait()

    asyncio.run(adopt())
    with pytest.raises(ProcessLookupError):
        Noted.of(pid)


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_it_outlives_a_loop_that_is_closed_under_it() -> None:
    """As when the agent ends before it has let go: nothing that is collected then ends the process."""

    async def start() -> int:
        return shell("exec sleep 600").pid

    pid = asyncio.run(start())
    gc.collect()
    try:
        assert Noted.of(pid).alive()
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@pytest.mark.asyncio
async def test_all_that_it_said_is_there_at_its_end_and_nothing_is_left_of_it() -> None:
    before = descriptors()
    process = shell("head -c 100000 /dev/zero >&2; echo the end >&2; kill -9 $$")
    await process.wait()
    assert (len(process.complaint), process.complaint[-8:]) == (8192, b"the end\n")
    process.kill()
    process.let_go()
    with pytest.raises(ProcessLookupError):
        Noted.of(process.pid)
    assert descriptors() == before


@pytest.mark.asyncio
async def test_closing_stderr_is_not_the_end() -> None:
    process = shell("exec sleep 600 2>&-")
    ending = asyncio.create_task(process.wait())
    await until(lambda: b"sleep\x00" in Path(f"/proc/{process.pid}/cmdline").read_bytes()[:6])
    await asyncio.sleep(0.05)
    assert not ending.done()
    process.kill()
    await ending


@pytest.mark.asyncio
async def test_what_is_no_child_of_ours_is_watched_as_well() -> None:
    parent = shell("sleep 600 & echo $! >&2; wait")
    await until(lambda: parent.complaint.endswith(b"\n"))
    process = Process(int(parent.complaint))
    process.kill()
    await process.wait()
    await parent.wait()


@pytest.mark.asyncio
async def test_what_is_not_there_is_an_error_and_leaves_nothing() -> None:
    before = descriptors()
    with pytest.raises(FileNotFoundError):
        Process.start(["/no/such/program"], stderr=subprocess.PIPE)
    gone = shell("exit 3")
    await gone.wait()
    with pytest.raises(ProcessLookupError):
        Process(gone.pid)
    assert descriptors() == before
