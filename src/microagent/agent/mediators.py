"""The agent's side of the mediators: the nursery that forks them, and the line to each one.

A mediator listens on a unix socket that was made for it, so that the next agent can take it over. Its line ends when
the mediator does, however it ended: that is how its death is noticed, at once.
"""

import asyncio
import contextlib
import logging
import os
import socket
import sys
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from microagent.api.control import Assembler, MediatorSettings, Message, encode, letter, receive, send
from microagent.api.lines import connect, listen
from microagent.errors import HostError
from microagent.guests.pace import Pace
from microagent.guests.process import Process
from microagent.host.sockets import MediatorSockets

log = logging.getLogger(__name__)

# By counter of steer.nft or host.ip_counters: (packets, bytes).
Figures: TypeAlias = Mapping[str, tuple[int, int]]


class Counters(Protocol):
    """What the kernel counts for a workspace; `host.network.Network` is one."""

    @property
    def reported(self) -> Figures:
        """All that a mediator was told so far."""

    def count_from(self, reported: Figures) -> None:
        """Go on from there."""

    def new_drops(self) -> Figures:
        """What came since it was last asked."""


_LINE = "mediator"
_READY_SECONDS = 10.0
# In looks, one a second, and not by the clock: this process too may have been stopped, and its mediators not. No work
# of a mediator's takes a hundredth of what it is given to answer, on a machine that does anything at all.
_ASKED_AFTER = 5
_KILLED_AFTER = 15
_PING = encode({"ping": True})
_STOP_SECONDS = 5.0
# Counters are read at most this often, however much is dropped.
_COUNT_SECONDS = 1.0
# What a mediator says is a few words, and an answer to one of ours. One that says more is not ours any more: it has
# to do with hostile bytes all its life, and the agent has not.
_LONGEST_ANSWER = 64 << 10
_UNREAD_ANSWERS = 16
_MESSAGES_PER_SECOND = 5000
_CHUNK = 16 << 10
# Of surprises that one mediator tells of, for the log: whoever has more has filled enough of it.
_MOST_FAULTS = 1000
_LONGEST_FAULT = 200


class Nursery:
    """The process that mediators are forked from."""

    def __init__(self, process: Process, line: socket.socket) -> None:
        self._process = process
        self._line = line
        self._lock = asyncio.Lock()

    @classmethod
    async def start(cls, upstream_ca: tuple[str, ...] = ()) -> "Nursery":
        """Start it; `upstream_ca` are PEM texts to trust besides the system's roots. HostError when it fails."""
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-P", "-m", "microagent.mediator.nursery"]
            process = Process.start(command, stdin=theirs.fileno(), env=_environment())
        nursery = cls(process, ours)
        try:
            await nursery._ask({"upstream_ca": list(upstream_ca)}, ())
        except (OSError, TypeError) as error:
            await nursery.close()
            raise HostError(f"the mediators' parent process did not start: {error}") from error
        return nursery

    async def spawn(
        self, settings: MediatorSettings, sockets: MediatorSockets, log_fd: int, place: Path, counters: Counters
    ) -> "Mediator":
        """Fork a mediator that answers in the directory `place`, and wait until it is ready to decide.

        HostError when it does not come up.
        """
        with listen(place, _LINE) as listener:
            # The settings hold a key. The nursery must not see it: all mediators after this one begin as its copy.
            told = letter(settings.to_message())
            try:
                descriptors = (told, listener.fileno(), log_fd, *(s.fileno() for s in sockets.all()))
                answer = await self._ask({"spawn": True}, descriptors)
            finally:
                os.close(told)
            if "pid" not in answer:
                raise HostError(f"the machine can start no mediator: {answer.get('error')}", "see `microagent doctor`")
            line = connect(place, _LINE)
        mediator = Mediator(int(answer["pid"]), line, counters)
        await mediator.start()
        with contextlib.suppress(ConnectionError):  # its end is noticed by its keeper
            await mediator._tell_counts()
        return mediator

    async def close(self) -> None:
        """End it; mediators that live notice nothing."""
        self._line.close()
        await self._process.wait()

    async def _ask(self, message: Message, descriptors: tuple[int, ...]) -> Message:
        def exchange() -> Message:
            send(self._line, message, descriptors)
            answer = receive(self._line)
            if answer is None:
                raise ConnectionError("the mediators' parent process is gone")
            return answer[0]

        async with self._lock:
            return await asyncio.to_thread(exchange)


class Mediator:
    """One mediator. `ended` is resolved with a word about why, when its process is gone."""

    def __init__(self, pid: int, line: socket.socket, counters: Counters) -> None:
        self.pid = pid
        try:
            self._process: Process | None = Process(pid)
        except ProcessLookupError:
            self._process = None  # it has ended already, as its line will tell
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._socket = line
        self._counters = counters
        self._greeting: Message = {}
        self._writer: asyncio.StreamWriter | None = None
        self._answers: asyncio.Queue[Message] = asyncio.Queue(_UNREAD_ANSWERS)
        self._counting: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._stopping = ""
        self._looks = 0  # since it was heard to be alive
        self._faults = 0

    @classmethod
    async def adopt(cls, pid: int, place: Path, counters: Counters) -> "Mediator":
        """Take over one that an earlier agent started; HostError when it does not answer in `place`."""
        mediator = cls(pid, connect(place, _LINE), counters)
        await mediator.start()
        try:
            told = {name: (int(p), int(size)) for name, (p, size) in mediator._greeting.get("totals", {}).items()}
        except (ValueError, TypeError, AttributeError) as error:
            mediator.kill()
            raise HostError("the mediator's counts are none") from error
        await asyncio.to_thread(counters.count_from, told)
        await mediator._tell_counts()
        return mediator

    async def start(self) -> None:
        """Wait until it is ready."""
        reader, self._writer = await asyncio.open_connection(sock=self._socket)
        self._keep(self._listen(reader))
        self._greeting = await self._answer(_READY_SECONDS)
        if "ready" not in self._greeting:
            raise HostError("the mediator did not start", "the agent's log has its last words")

    async def reconfigure(self, settings: MediatorSettings) -> str:
        """Apply new settings; returns the policy's digest once the mediator decides by it."""
        await self._send({"settings": settings.to_message()})
        return str((await self._answer(_READY_SECONDS)).get("reconfigured", ""))

    async def switch_log(self, log_fd: int) -> None:
        """Have it write into another file from now on; when this returns, the one before is as long as it will be.

        ConnectionError or HostError when it ended meanwhile.
        """
        assert self._writer is not None  # noqa: S101  (start made it)
        await self._writer.drain()

        def hand_over() -> None:
            with socket.socket(fileno=os.dup(self._socket.fileno())) as line:
                line.setblocking(False)
                send(line, {"log": True}, (log_fd,))

        hand_over()
        if "switched" not in await self._answer(_READY_SECONDS):
            raise HostError("the mediator ended while its log was rotated")

    def look(self) -> None:
        """To be called once a second: a mediator that hangs lets nothing through, and is killed."""
        self._looks += 1
        if self._looks == _ASKED_AFTER and self._writer:
            self._writer.write(_PING)
        elif self._looks == _KILLED_AFTER:
            log.warning("mediator does not answer pid=%d", self.pid)
            self.kill()

    async def record(self, event: str, fields: dict[str, Any]) -> None:
        """Have a fact of the agent's written into the log."""
        await self._send({"record": {"event": event, "fields": fields}})

    async def stop(self, why: str = "stopped") -> None:
        """Let it write what the kernel counted and its last record; kill it if that takes too long."""
        if self.ended.done():
            return
        self._stopping = why
        try:
            await self._tell_counts()
            await self._send({"stop": why})
            await asyncio.wait_for(asyncio.shield(self.ended), _STOP_SECONDS)
        except (TimeoutError, OSError):
            self.kill()
            await self.ended

    def kill(self) -> None:
        """End it without a word."""
        if self._process:
            self._process.kill()

    # --- the line

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        messages, pace = Assembler(_LONGEST_ANSWER), Pace(_MESSAGES_PER_SECOND)
        try:
            while data := await reader.read(_CHUNK):
                said = messages.feed(data)
                for message in said:
                    if "pong" in message:
                        self._looks = 0
                    elif "fault" in message:
                        self._note_fault(message["fault"])
                    elif "counts" not in message:
                        self._answers.put_nowait(message)
                    elif self._counting is None or self._counting.done():
                        self._counting = self._keep(self._count())
                await pace.after(len(said))
        except (OSError, asyncio.QueueFull) as error:
            log.warning("mediator does not speak as it should pid=%d reason=%r", self.pid, error)
        assert self._writer is not None  # noqa: S101  (start made it)
        self._writer.close()
        # One that closed its line and lives on is none that anybody answers for.
        self.kill()
        if self._process:
            with contextlib.suppress(TimeoutError):  # it hangs in the kernel, killed
                await asyncio.wait_for(self._process.wait(), _STOP_SECONDS)
            self._process.let_go()
        while not self._answers.empty():
            self._answers.get_nowait()
        self._answers.put_nowait({"gone": True})
        self.ended.set_result(self._stopping or "died")

    def _note_fault(self, what: object) -> None:
        self._faults += 1
        if self._faults <= _MOST_FAULTS:
            log.warning("mediator fault pid=%d what=%r", self.pid, str(what)[:_LONGEST_FAULT])

    async def _count(self) -> None:
        """Answer with what was dropped, not more than once in _COUNT_SECONDS; the mediator asks no more until then."""
        await asyncio.sleep(_COUNT_SECONDS)
        while not self.ended.done() and not self._stopping:
            try:
                await self._tell_counts()
                return
            except (HostError, OSError) as error:
                log.warning("counters not read pid=%d reason=%r", self.pid, str(error))
                await asyncio.sleep(_COUNT_SECONDS)

    async def _tell_counts(self) -> None:
        """The totals are for the next agent, to which this mediator will say them."""
        news = await asyncio.to_thread(self._counters.new_drops)
        await self._send({"counts": dict(news), "totals": dict(self._counters.reported)})

    async def _answer(self, seconds: float) -> Message:
        try:
            return await asyncio.wait_for(self._answers.get(), seconds)
        except TimeoutError:
            self.kill()
            raise HostError(f"the mediator (pid {self.pid}) does not answer") from None

    async def _send(self, message: Message) -> None:
        if self._writer is None or self.ended.done():
            raise ConnectionError("the mediator is gone")
        self._writer.write(encode(message))
        await self._writer.drain()

    def _keep(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _environment() -> dict[str, str]:
    """What Python needs, and nothing of the agent's own environment."""
    wanted = ("PATH", "PYTHONPATH", "VIRTUAL_ENV", "SSL_CERT_FILE", "SSL_CERT_DIR", "LANG")
    return {name: os.environ[name] for name in wanted if name in os.environ}
