"""The agent's end of a guest's own streams, its machine played by a process that sleeps."""

import asyncio
import contextlib
import socket
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from microagent.errors import HostError
from microagent.guests.console import Console
from microagent.guests.guest import STDOUT, Guest
from microagent.guests.process import Process
from microagent.guests.qemu import LINES

MARK = b"12083a24-77cd-4741-9abb-5ebe5232fb73"


class Machine:
    """The other end of each stream, and the guest that the agent sees."""

    def __init__(self, guest: Guest, ends: dict[str, asyncio.StreamWriter]) -> None:
        self.guest = guest
        self._ends = ends

    def say(self, line: str, data: bytes) -> None:
        self._ends[line].write(data)


@pytest_asyncio.fixture
async def machine(tmp_path: Path) -> AsyncIterator[Machine]:
    process = Process.start(["sleep", "600"], stderr=subprocess.PIPE)
    streams, ends = [], {}
    for name in LINES:
        ours, theirs = socket.socketpair()
        streams.append(await asyncio.open_connection(sock=ours, limit=64 << 10))
        _, ends[name] = await asyncio.open_connection(sock=theirs)
    made = Machine(Guest(process, streams, Console(tmp_path)), ends)
    closing = asyncio.create_task(close_with(process, ends))
    yield made
    made.guest.kill()
    await closing
    await asyncio.wait([made.guest._ending])


async def close_with(process: Process, ends: dict[str, asyncio.StreamWriter]) -> None:
    """A machine that is gone has let go of its streams."""
    await process.wait()
    for end in ends.values():
        end.close()
        with contextlib.suppress(ConnectionError):
            await end.wait_closed()


@pytest.mark.asyncio
async def test_an_honest_guest_is_heard_to_its_end(machine: Machine) -> None:
    machine.say("control", b"started\nready " + MARK + b"\nbegan\n")
    machine.say("stdout", b"hello" + MARK)
    machine.say("stderr", MARK)
    machine.say("control", b"exit 3\n" * 60)
    assert [item async for item in machine.guest.output] == [(STDOUT, b"hello")]
    assert await machine.guest.wait() == 3


@pytest.mark.asyncio
async def test_a_guest_that_reports_without_end_is_ended(machine: Machine) -> None:
    machine.say("control", b"started\n" + b"began\n" * 10_000)
    with pytest.raises(HostError, match="reports without end"):
        await asyncio.wait_for(machine.guest.wait(), 10)
