"""Commands in a running guest, besides its own: several at once, each with its streams and its exit code.

How this works. One connection carries all of them as `frames`. A command may send what was asked for and no more, so
one whose output nobody reads waits, and the others do not; a guest that sends more is cut off, for it does not run our
execd. What is sent unasked (that output was read, a size, a signal) is small and never waits; when it piles up, the
guest has stopped reading, and is cut off as well. To be cut off costs a guest its commands here, and nothing else.
A frame of seven bytes costs us as much as one of sixteen thousand, so they are read at so many a second.
"""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count

from microagent.errors import ApiError, Malformed
from microagent.guests.frames import (
    INPUT_WINDOW,
    MARK_LENGTH,
    MAX_PAYLOAD,
    OUTPUT_WINDOW,
    STDERR,
    STDOUT,
    Ended,
    FrameReader,
    Output,
    Refused,
    Report,
    Request,
    Started,
    Terminal,
    Wanted,
    frame,
    greeting,
    more_output,
    opening,
    resize,
)
from microagent.guests.pace import Pace

# As many as execd takes.
MOST = 64
# Read at once, and no more before others had their turn: two thousand of the smallest frames take ten milliseconds.
_CHUNK = 16 << 10
# In frames as large as they may be 160 MB a second; small ones grow in execd's pipes while they wait.
_FRAMES_PER_SECOND = 10_000
# Small frames that wait to be read by the guest: a hundred thousand of them.
_MOST_UNREAD = 1 << 20
# To fork takes milliseconds; a guest that starts, on a busy machine, may take this long to come to it.
_START_SECONDS = 120
_KILLED = 128 + 9
_REPLACED = "something in it has ended or replaced its side of exec: stop the workspace and start it again"


@dataclass(frozen=True, slots=True)
class Collected:
    """What came of a command; `code` is 128+N when signal N ended it."""

    code: int
    stdout: bytes
    stderr: bytes


class Commands:
    """All commands that run in one guest at our wish, over the connection to its execd."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._numbers = count(1)
        self._running: dict[int, Command] = {}
        self._broken: ApiError | None = None
        self._pace = Pace(_FRAMES_PER_SECOND)
        mark = secrets.token_bytes(MARK_LENGTH)
        writer.write(greeting(mark))
        self._reading = asyncio.create_task(self._read(FrameReader(mark)))

    async def start(self, request: Request) -> "Command":
        """Starts a command. ApiError `invalid` for one that Linux cannot run, `busy` when too many run already,
        `failed` when the guest does not start it, or does not answer."""
        if self._broken:
            raise self._broken
        if len(self._running) >= MOST:
            raise ApiError("busy", f"{MOST} commands run in it already", "try again when one has ended")
        number = next(self._numbers)
        try:
            frames = list(opening(number, request))
        except Malformed as error:
            raise ApiError("invalid", error.what, error.hint) from error
        command = self._running[number] = Command(self, number)
        try:
            async with asyncio.timeout(_START_SECONDS):
                for part in frames:
                    await self.put(part)
                await command.begun()
        except TimeoutError as error:
            command.kill()
            raise ApiError("failed", "the guest does not answer", _REPLACED) from error
        except BaseException:
            command.kill()
            raise
        return command

    async def collect(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        user: str = "",
        stdin: bytes = b"",
        seconds: float = 60.0,
        most: int = 1 << 20,
    ) -> Collected:
        """Runs a command to its end; ApiError `failed` when that takes longer, or it prints more than `most` bytes."""
        running = await self.start(Request(command, env or {}, user))
        printed = {STDOUT: bytearray(), STDERR: bytearray()}

        async def feed() -> None:
            await running.write(stdin)
            await running.eof()

        feeding = asyncio.create_task(feed())
        try:
            async with asyncio.timeout(seconds):
                async for stream, data in running.output():
                    printed[stream] += data
                    if sum(map(len, printed.values())) > most:
                        raise ApiError("failed", f"{command[0]} printed more than {most} bytes in the guest")
                code = await running.wait()
        except TimeoutError as error:
            what = f"{command[0]} did not end within {seconds:g} s in the guest"
            raise ApiError("failed", what) from error
        finally:
            running.kill()
            feeding.cancel()
            await asyncio.wait([feeding])
        return Collected(code, bytes(printed[STDOUT]), bytes(printed[STDERR]))

    async def ended(self) -> None:
        """Returns when all has been read that the guest said before it ended."""
        self._pace.hurry()
        await asyncio.wait([self._reading])

    async def close(self) -> None:
        """Ends the connection; execd kills what still runs, and whoever waits for it is told."""
        self._reading.cancel()
        await asyncio.wait([self._reading])
        self._break(ApiError("busy", "the agent ends, and the command with it", "try again in a moment"))

    # --- for Command

    async def put(self, data: bytes) -> None:
        """Sends; returns when the guest takes more."""
        if self._broken:
            raise self._broken
        self._writer.write(data)
        with contextlib.suppress(ConnectionError):  # its end is told by the reader
            await self._writer.drain()

    def nudge(self, data: bytes) -> None:
        """Sends something small, without waiting."""
        if self._broken:
            return
        self._writer.write(data)
        if self._writer.transport.get_write_buffer_size() > _MOST_UNREAD:
            self._cut_off("it does not read")

    def forget(self, number: int) -> None:
        """What comes for this number from now on is for nobody."""
        self._running.pop(number, None)

    # --- the connection

    async def _read(self, frames: FrameReader) -> None:
        try:
            while data := await self._reader.read(_CHUNK):
                reports = frames.feed_untrusted(data)
                for report in reports:
                    if command := self._running.get(report.number):
                        command.take(report)
                await self._pace.after(len(reports))
        except Malformed as error:
            self._cut_off(error.what)
        except ConnectionError:
            pass
        self._break(None)

    def _cut_off(self, why: str) -> None:
        self._break(ApiError("failed", f"the guest does not speak as it should: {why}", _REPLACED))

    def _break(self, error: ApiError | None) -> None:
        """No more commands; those that run end with `error`, or as what ends with its machine does."""
        if self._broken is None:
            self._broken = error or ApiError("conflict", "the guest has ended")
            self._writer.close()
        for command in list(self._running.values()):
            command.give_up(error)
        self._running.clear()


class Command:
    """One command. Its output must be read (`output`), or it waits when the window is full."""

    def __init__(self, commands: Commands, number: int) -> None:
        self._commands = commands
        self._number = number
        self._started = asyncio.Event()
        self._moved = asyncio.Event()
        self._allowed = asyncio.Event()
        self._may_send = INPUT_WINDOW
        self._printed = {STDOUT: bytearray(), STDERR: bytearray()}
        self._read = 0
        self._end: asyncio.Future[int | ApiError] = asyncio.get_running_loop().create_future()

    async def begun(self) -> None:
        """Returns when it runs; ApiError when it never will."""
        await self._started.wait()
        if self._end.done() and isinstance(failure := self._end.result(), ApiError):
            raise failure

    async def output(self) -> AsyncIterator[tuple[int, bytes]]:
        """(STDOUT or STDERR, bytes) as they come, until it has ended. For one reader."""
        while True:
            self._moved.clear()
            for stream, printed in self._printed.items():
                if printed:
                    data = bytes(printed)
                    printed.clear()
                    yield stream, data
                    self._ask_for_more(len(data))
            if self._moved.is_set():
                continue
            if self._end.done():
                return
            await self._moved.wait()

    async def wait(self) -> int:
        """Its exit code, 128+N when signal N ended it, once `output` is read. ApiError when it is lost."""
        end = await asyncio.shield(self._end)
        if isinstance(end, ApiError):
            raise end
        return end

    async def write(self, data: bytes) -> None:
        """Input; returns when it is on its way. What a command that has ended did not read is dropped silently."""
        rest = memoryview(data)
        while rest and not self._end.done():
            if self._may_send == 0:
                self._allowed.clear()
                await self._allowed.wait()
                continue
            part = rest[: min(self._may_send, MAX_PAYLOAD)]
            self._may_send -= len(part)
            rest = rest[len(part) :]
            with contextlib.suppress(ApiError):  # `wait` says it
                await self._commands.put(frame(b"i", self._number, bytes(part)))

    async def eof(self) -> None:
        """No more input."""
        self._commands.nudge(frame(b"e", self._number))

    def resize(self, size: Terminal) -> None:
        """Its terminal has another size."""
        self._commands.nudge(resize(self._number, size))

    def signal(self, number: int) -> None:
        """A signal to the command and its process group."""
        self._commands.nudge(frame(b"s", self._number, bytes((number,))))

    def kill(self) -> None:
        """Ends it and all that it started, at once; nothing when it has ended."""
        if not self._end.done():
            self._commands.nudge(frame(b"k", self._number))
            self.give_up(None)
            self._commands.forget(self._number)

    # --- for Commands

    def take(self, report: Report) -> None:
        """What the guest says of it; Malformed for what it may not say."""
        match report:
            case Started():
                self._started.set()
            case Output(_, stream, data):
                if sum(map(len, self._printed.values())) + self._read + len(data) > OUTPUT_WINDOW:
                    raise Malformed("more output than was asked for")
                self._printed[stream] += data
                self._moved.set()
            case Wanted(_, more):
                self._may_send = min(self._may_send + more, INPUT_WINDOW)
                self._allowed.set()
            case Ended(_, code):
                self._over(code)
            case Refused(_, what):
                self._over(ApiError("failed", f"the guest cannot start it: {what}"))

    def give_up(self, error: ApiError | None) -> None:
        """It ends with the guest, or with the connection."""
        self._over(error or _KILLED)

    def _over(self, end: int | ApiError) -> None:
        if not self._end.done():
            self._end.set_result(end)
        self._commands.forget(self._number)
        for event in (self._started, self._moved, self._allowed):
            event.set()

    def _ask_for_more(self, read: int) -> None:
        """In large steps: a frame for each byte would be more than what was read."""
        self._read += read
        if self._read >= OUTPUT_WINDOW // 2 and not self._end.done():
            self._commands.nudge(more_output(self._number, self._read))
            self._read = 0
