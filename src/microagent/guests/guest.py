"""A running guest: its streams, how its command ends, and how to end it.

How this works. Init marks the end of stdout and stderr and reports the exit on the control port. When the report
is there and both marks have been read, nothing is left in flight and the disks are synced: QEMU is killed, which is
faster than to let the machine go down. Readers stop reading when nobody takes what they read, and so the guest's
pipes fill and its command waits.
"""

import asyncio
from collections.abc import AsyncIterator

from microagent.errors import HostError, Malformed
from microagent.guests.console import Console
from microagent.guests.control import (
    AGAIN,
    EOF,
    Began,
    Exited,
    Failed,
    MarkedStream,
    Ready,
    Report,
    parse_report_untrusted,
    shutdown_request,
)
from microagent.guests.exec import Commands
from microagent.guests.frames import STDERR as STDERR
from microagent.guests.frames import STDOUT as STDOUT
from microagent.guests.process import Process

KILLED = 128 + 9
_CHUNK = 64 << 10
# Chunks a slow reader may leave waiting before the guest is made to wait.
_QUEUED = 16
# A boot takes two seconds, and ten times that on a busy machine; one that hangs would hang for ever.
_BOOT_SECONDS = 120
# What init has sent before its report arrives well within this; nobody slows the reader of an adopted guest.
_QUIET_SECONDS = 2
# Init says less than ten things, and its last one sixty times at the most; each costs the one loop of all guests.
_MOST_REPORTS = 200
# After its grace period init kills, syncs and reports, which takes well under this, also when emulated.
_SHUTDOWN_SLACK = 10

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Stillborn(HostError):  # noqa: N818  (what the guest was, and not what was wrong)
    """The machine ended before its init said a word; init has it end where the timer is of no use: start another."""


class GuestInput:
    """The command's stdin."""

    def __init__(self, writer: asyncio.StreamWriter, control: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._control = control

    async def write(self, data: bytes) -> None:
        """Returns when the guest takes more; what a guest that has ended did not read is dropped silently."""
        try:
            self._writer.write(data)
            await self._writer.drain()
        except ConnectionError:
            return

    async def eof(self) -> None:
        """No more input: the command reads end of file."""
        try:
            self._control.write(EOF)
            self._writer.write_eof()
        except OSError:
            return


class Guest:
    """A running guest. Its output must be read (`output`), or the guest stops when the pipes are full."""

    def __init__(self, process: Process, streams: list[Stream], console: Console) -> None:
        """`streams` are those of `lines`, in their order: console, stdin, stdout, stderr, control, exec."""
        self._process = process
        self._streams = streams
        self._console = console
        self._moved = asyncio.Event()
        self._marked = asyncio.Event()
        self._output = {STDOUT: MarkedStream(), STDERR: MarkedStream()}
        self._queue: asyncio.Queue[tuple[int, bytes] | None] = asyncio.Queue()
        self._room = asyncio.Event()
        self._room.set()
        self._gone = False
        self._killed = False
        self._adopted = False
        self._spoke = False
        self.pid = process.pid
        self.stdin = GuestInput(streams[1][1], streams[4][1])
        self.commands = Commands(*streams[5])
        self.ready = asyncio.Event()
        # That its set-up is over, where it has one; whether it was the set-up that ended it.
        self.began = asyncio.Event()
        self.unprepared = False
        self._readers = [
            asyncio.create_task(self._read_console()),
            asyncio.create_task(self._read_output(STDOUT)),
            asyncio.create_task(self._read_output(STDERR)),
        ]
        self._ending = asyncio.create_task(self._end())

    @classmethod
    def adopted(cls, process: Process, streams: list[Stream], console: Console) -> "Guest":
        """A guest that an earlier agent started. What was on its way to that agent is lost; the rest goes on."""
        guest = cls(process, streams, console)
        guest._adopted = guest._spoke = True
        streams[4][1].write(AGAIN)
        return guest

    @property
    async def output(self) -> AsyncIterator[tuple[int, bytes]]:
        """(STDOUT or STDERR, bytes) as they come, until the guest has ended. For one reader."""
        while (item := await self._queue.get()) is not None:
            if self._queue.qsize() < _QUEUED:
                self._room.set()
            yield item
        self._queue.put_nowait(None)  # for whoever asks again

    async def wait(self) -> int:
        """The command's exit code, 128+N when signal N ended it (KILLED after `kill`), once QEMU is gone.

        HostError when the guest ended without saying: its kernel panicked, or QEMU failed; Stillborn.
        """
        ending = await asyncio.shield(self._ending)
        if isinstance(ending, HostError):
            raise ending
        return ending

    async def gone_within(self, seconds: float) -> bool:
        """Whether QEMU has ended, or does so in that time; its exit code may take a moment longer."""
        try:
            await asyncio.wait_for(self._process.wait(), seconds)
        except TimeoutError:
            return False
        return True

    def kill(self) -> None:
        """Ends the guest at once; what it had not written to its disk is lost."""
        self._killed = True
        self._process.kill()

    async def abandon(self) -> None:
        """Lets go of the guest, which goes on; what it writes from now on waits for the next agent."""
        self._ending.cancel()
        for reader in self._readers:
            reader.cancel()
        await asyncio.wait([self._ending, *self._readers])
        self._process.let_go()
        await self.commands.close()
        for _, writer in self._streams:
            writer.close()
        self._console.close()
        self._queue.put_nowait(None)

    async def shutdown(self, grace: int) -> bool:
        """TERM to the command, KILL after `grace` seconds; returns when the guest is gone.

        False when it did not go by itself and was killed, so that its last writes may be lost.
        """
        self._streams[4][1].write(shutdown_request(grace))
        done, _ = await asyncio.wait([self._ending], timeout=grace + _SHUTDOWN_SLACK)
        if not done:
            self.kill()
            await asyncio.wait([self._ending])
        return not self._killed

    async def _end(self) -> int | HostError:
        try:
            report = await self._follow_control()
            if isinstance(report, Exited):
                await self._drain()
        except Exception:
            self.kill()
            raise
        # A cancelled task gets no further: the guest goes on (see `abandon`).
        self._process.kill()
        await self._process.wait()
        # What is left is in the sockets' buffers, so it is bounded: take it, whether it is read or not.
        self._gone = True
        self._room.set()
        self._marked.set()
        await asyncio.gather(*self._readers)
        await self.commands.ended()
        self._queue.put_nowait(None)
        for _, writer in self._streams:
            writer.close()
        self._console.close()
        if isinstance(report, Exited):
            self.unprepared = not report.prepared
            return report.code
        if self._killed:
            return KILLED
        if isinstance(report, Failed):
            return HostError(f"the guest could not be set up: {report.what}")
        return self._died()

    def _died(self) -> HostError:
        said = self._process.complaint.decode(errors="replace").strip().splitlines()
        if said:
            return HostError(f"QEMU failed: {said[-1]}")
        what, hint = "the guest ended unexpectedly", f"its console says: {self._console.last_lines()}"
        return HostError(what, hint) if self._spoke else Stillborn(what, hint)

    async def _follow_control(self) -> Report | None:
        """The last report: how the command ended, or why it did not start; None when the guest died before."""
        reader = self._streams[4][0]
        patience = None if self._adopted else _BOOT_SECONDS
        for _ in range(_MOST_REPORTS):
            try:
                line = await asyncio.wait_for(reader.readuntil(b"\n"), patience)
                report = parse_report_untrusted(line[:-1])
            except (asyncio.IncompleteReadError, ConnectionError):
                return None
            except TimeoutError:
                return Failed(f"its kernel did not start within {_BOOT_SECONDS} s")
            except (asyncio.LimitOverrunError, Malformed):
                return Failed("its init was not ours: it sent what is not a report")
            if isinstance(report, Exited | Failed):
                return report
            patience = None
            self._spoke = True
            if isinstance(report, Began):
                self.began.set()
            if isinstance(report, Ready):
                for stream in self._output.values():
                    stream.expect(report.mark)
                self._marked.set()
                self.ready.set()
        return Failed("its init was not ours: it reports without end")

    async def _drain(self) -> None:
        """Waits until all that the command wrote has been read, or no more can come."""
        while not all(s.complete for s in self._output.values()) and not all(r.done() for r in self._readers[1:]):
            self._moved.clear()
            try:
                await asyncio.wait_for(self._moved.wait(), _QUIET_SECONDS if self._adopted else None)
            except TimeoutError:
                return  # the mark went to the agent before us

    async def _read_output(self, number: int) -> None:
        stream = self._output[number]
        await self._marked.wait()  # what init said first counts first, however the loop wakes us
        while data := await _chunk(self._streams[number + 1][0]):
            await self._pass_on(number, stream.feed_untrusted(data))
        await self._pass_on(number, stream.rest())

    async def _pass_on(self, number: int, data: bytes) -> None:
        if data:
            await self._room.wait()
            self._queue.put_nowait((number, data))
            if self._queue.qsize() >= _QUEUED and not self._gone:
                self._room.clear()
        self._moved.set()

    async def _read_console(self) -> None:
        while data := await _chunk(self._streams[0][0]):
            self._console.add(data)


async def _chunk(reader: asyncio.StreamReader) -> bytes:
    """What has come; empty at the end, also at one that came with a reset."""
    try:
        return await reader.read(_CHUNK)
    except ConnectionError:
        return b""
