"""The agent's end of `exec` against a guest that does what it likes. What an honest one does: tests/vm/test_exec.py."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from microagent.errors import ApiError
from microagent.guests.exec import MOST, Command, Commands
from microagent.guests.frames import INPUT_WINDOW, MAX_PAYLOAD, OUTPUT_WINDOW, Request, frame

TRUE = Request(["true"], {})
GREETING = 7 + MAX_PAYLOAD


class HostileGuest:
    """The guest's end of the line, in the test's hands; it has answered the greeting."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, commands: Commands) -> None:
        self.reader = reader
        self.writer = writer
        self.commands = commands
        self.mark = b""

    async def greet(self) -> None:
        await self.reader.readexactly(GREETING)
        self.say(await self.reader.readexactly(7 + 16))

    def say(self, data: bytes) -> None:
        self.writer.write(data)

    async def started(self) -> Command:
        """A command that has begun."""
        starting = asyncio.create_task(self.commands.start(TRUE))
        number = await self.asked()
        self.say(frame(b"s", number))
        self.number = number
        return await starting

    async def asked(self) -> int:
        """The number of the next command that we are to start."""
        while True:
            head = await self.reader.readexactly(7)
            await self.reader.readexactly(int.from_bytes(head[5:], "big"))
            if head[:1] == b"o":
                return int.from_bytes(head[1:5], "big")


@pytest_asyncio.fixture
async def guest() -> AsyncIterator[HostileGuest]:
    ours, theirs = socket.socketpair()
    commands = Commands(*await asyncio.open_connection(sock=ours))
    made = HostileGuest(*await asyncio.open_connection(sock=theirs), commands)
    await made.greet()
    yield made
    await commands.close()
    made.writer.close()


async def printed(command: Command) -> bytes:
    return b"".join([data async for _, data in command.output()])


@pytest.mark.asyncio
async def test_an_honest_conversation(guest: HostileGuest) -> None:
    command = await guest.started()
    guest.say(frame(b"1", guest.number, b"hello") + frame(b"x", guest.number, b"\3"))
    assert await printed(command) == b"hello"
    assert await command.wait() == 3


@pytest.mark.asyncio
async def test_what_nobody_asked_about_is_for_nobody(guest: HostileGuest) -> None:
    command = await guest.started()
    guest.say(frame(b"x", 999, b"\0") + frame(b"1", 998, b"x") + frame(b"x", guest.number, b"\4"))
    assert await command.wait() == 4


@pytest.mark.asyncio
async def test_more_output_than_was_asked_for_ends_the_line(guest: HostileGuest) -> None:
    command = await guest.started()
    for _ in range(OUTPUT_WINDOW // MAX_PAYLOAD + 1):
        guest.say(frame(b"1", guest.number, bytes(MAX_PAYLOAD)))
    with pytest.raises(ApiError, match="more output than was asked for"):
        await command.wait()
    with pytest.raises(ApiError, match="does not speak as it should"):
        await guest.commands.start(TRUE)


@pytest.mark.asyncio
async def test_garbage_ends_the_line_and_all_that_is_on_it(guest: HostileGuest) -> None:
    command = await guest.started()
    guest.say(b"\xff" * 100)
    with pytest.raises(ApiError, match="does not speak as it should"):
        await command.wait()


async def taken_in_a_second(guest: HostileGuest, data: bytes) -> int:
    """How many bytes of `data`, again and again, we take within a second."""
    taken = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(1.0):
            while True:
                guest.say(data)
                await guest.writer.drain()
                taken += len(data)
    return taken


@pytest.mark.asyncio
async def test_small_frames_do_not_take_the_agents_time(guest: HostileGuest) -> None:
    # What a second allows, and what the buffers on the way hold.
    assert await taken_in_a_second(guest, frame(b"s", 999) * 10_000) < 2 << 20


@pytest.mark.asyncio
async def test_large_frames_are_taken_as_they_come(guest: HostileGuest) -> None:
    assert await taken_in_a_second(guest, frame(b"1", 999, bytes(MAX_PAYLOAD)) * 16) > 16 << 20


@pytest.mark.asyncio
async def test_input_that_was_not_asked_for_is_not_sent(guest: HostileGuest) -> None:
    command = await guest.started()
    writing = asyncio.create_task(command.write(bytes(INPUT_WINDOW + 1)))
    await guest.reader.readexactly(INPUT_WINDOW + 7 * (INPUT_WINDOW // MAX_PAYLOAD))
    done, _ = await asyncio.wait([writing], timeout=0.2)
    assert not done
    # Boasting of room gives it no more than a window.
    guest.say(frame(b"c", guest.number, b"\xff\xff\xff\xff"))
    await writing
    assert await guest.reader.readexactly(8) == frame(b"i", guest.number, b"\0")


@pytest.mark.asyncio
async def test_a_guest_that_does_not_read_is_cut_off(guest: HostileGuest) -> None:
    command = await guest.started()
    for _ in range(1 << 20):
        command.signal(2)
        if command._end.done():
            break
    with pytest.raises(ApiError, match="it does not read"):
        await command.wait()


@pytest.mark.asyncio
async def test_a_guest_that_ends_ends_its_commands_as_a_kill_does(guest: HostileGuest) -> None:
    command = await guest.started()
    guest.writer.close()
    assert await command.wait() == 137
    with pytest.raises(ApiError, match="the guest has ended"):
        await guest.commands.start(TRUE)


@pytest.mark.asyncio
async def test_a_refusal_is_printable(guest: HostileGuest) -> None:
    starting = asyncio.create_task(guest.commands.start(TRUE))
    guest.say(frame(b"f", await guest.asked(), b"no \x1b[31mmemory"))
    with pytest.raises(ApiError, match=r"the guest cannot start it: no \.\[31mmemory"):
        await starting


@pytest.mark.asyncio
async def test_no_more_than_execd_takes(guest: HostileGuest) -> None:
    commands = [await guest.started() for _ in range(MOST)]
    with pytest.raises(ApiError, match="commands run in it already") as error:
        await guest.commands.start(TRUE)
    assert error.value.code == "busy"
    commands[0].kill()
    await guest.started()


@pytest.mark.asyncio
async def test_collecting_is_bounded_in_bytes_and_time(guest: HostileGuest) -> None:
    collecting = asyncio.create_task(guest.commands.collect(["x"], most=4))
    number = await guest.asked()
    guest.say(frame(b"s", number) + frame(b"1", number, b"12345"))
    with pytest.raises(ApiError, match="more than 4 bytes"):
        await collecting
    collecting = asyncio.create_task(guest.commands.collect(["x"], seconds=0.1))
    guest.say(frame(b"s", await guest.asked()))
    with pytest.raises(ApiError, match="did not end within"):
        await collecting
