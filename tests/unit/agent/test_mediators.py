"""A mediator that somebody has taken over says what it likes to the agent: it loses its place, and nobody else does."""

import asyncio
import contextlib
import socket
import subprocess
from collections.abc import Iterator

import pytest

from microagent.agent.mediators import Figures, Mediator
from microagent.api.control import encode


class Counters:
    """What the kernel counts: nothing, and how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.reported: Figures = {}

    def count_from(self, reported: Figures) -> None:
        self.reported = reported

    def new_drops(self) -> Figures:
        self.asked += 1
        return {}


@pytest.fixture
def process() -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen(["sleep", "60"]) as running:
        yield running
        running.kill()


def framed(payload: bytes) -> bytes:
    return len(payload).to_bytes(4, "big") + payload


NOT_OURS = {
    "not JSON": framed(b"{"),
    "no object": framed(b"7"),
    "nested": framed(b"[" * 60_000),
    "digits": framed(b'{"a":' + b"1" * 5000 + b"}"),
    "long": framed(b" " * 100_000 + b"{}"),
    "longer than any": b"\xff" * 100,
    "answers to nothing": encode({"reconfigured": "x"}) * 1000,
}


@pytest.mark.asyncio
@pytest.mark.parametrize("said", NOT_OURS.values(), ids=NOT_OURS)
async def test_one_that_says_what_none_says_is_ended_and_its_end_is_noticed(
    process: "subprocess.Popen[bytes]", said: bytes
) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        mediator = Mediator(process.pid, ours, Counters())
        theirs.sendall(encode({"ready": True}))
        await mediator.start()
        await asyncio.to_thread(theirs.sendall, said)
        assert await asyncio.wait_for(mediator.ended, 10) == "died"
        assert await mediator._answer(1) == {"gone": True}
        await asyncio.wait_for(mediator.stop(), 10)


@pytest.mark.asyncio
async def test_one_that_talks_without_end_does_not_take_the_agents_time(process: "subprocess.Popen[bytes]") -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        mediator = Mediator(process.pid, ours, Counters())
        theirs.sendall(encode({"ready": True}))
        await mediator.start()
        theirs.setblocking(False)
        taken = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                while True:
                    await asyncio.get_running_loop().sock_sendall(theirs, encode({"pong": True}) * 1000)
                    taken += 1
        # What a second allows, and what the buffers on the way hold.
        assert taken < 50
        theirs.shutdown(socket.SHUT_RDWR)
        assert await asyncio.wait_for(mediator.ended, 60) == "died"


@pytest.mark.asyncio
async def test_one_that_always_asks_for_the_counts_has_them_read_once_a_second(
    process: "subprocess.Popen[bytes]",
) -> None:
    ours, theirs = socket.socketpair()
    counters = Counters()
    with theirs:
        mediator = Mediator(process.pid, ours, counters)
        theirs.sendall(encode({"ready": True}) + encode({"counts": True}) * 2000 + encode({"reconfigured": "x"}))
        await mediator.start()
        assert await mediator._answer(10) == {"reconfigured": "x"}
        assert len(asyncio.all_tasks()) < 10
        mediator.kill()
        theirs.shutdown(socket.SHUT_RDWR)
        await asyncio.wait_for(mediator.ended, 10)
        assert counters.asked <= 1
