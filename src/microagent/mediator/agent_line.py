"""The line to the agent: a listening socket that outlives the agent, and the connection of the agent of now.

How this works: the agent made the socket, and connects to it by its path. When it dies the mediator goes on deciding
and recording by what it was told last; the next agent connects, is told "ready" and what has been counted already
(`greeting`), and takes over. There is one agent, so a new connection ends an older one.
"""

import contextlib
import os
import socket
import struct
from collections.abc import Callable

from microagent.api.control import Assembler, Message, encode
from microagent.mediator.reactor import IN, Reactor

_UCRED = struct.Struct("=iII")
# An agent connects as soon as it has the answer to its order.
_FIRST_AGENT_SECONDS = 10.0
# What is read at once. The allocator maps what is larger than this anew each time, and most messages are short.
_CHUNK = 1 << 16


class AgentLine:
    """Tells `obey` each message; `fault` hears of surprises, which cost the connection and nothing else."""

    def __init__(
        self,
        reactor: Reactor,
        listener: socket.socket,
        obey: Callable[[Message], None],
        fault: Callable[[str, Exception], None],
        unwanted: Callable[[], None],
    ) -> None:
        """`unwanted` is called when the agent that asked for this mediator never came for it."""
        self._reactor = reactor
        self._listener = listener
        self._obey = obey
        self._fault = fault
        self._unwanted = unwanted
        self._wanted = False
        self._sock: socket.socket | None = None
        self._messages = Assembler()
        self._descriptors: list[int] = []
        self.greeting: Message = {"ready": True}

    @property
    def connected(self) -> bool:
        """Whether an agent is there."""
        return self._sock is not None

    def start(self) -> None:
        """Begin: from now on an agent that connects is told that all is ready."""
        self._listener.setblocking(False)
        self._reactor.later(_FIRST_AGENT_SECONDS, self._nobody_came)
        self._reactor.watch(self._listener.fileno(), IN, self._acceptable, self)

    def send(self, message: Message) -> None:
        """To the agent, if there is one."""
        if self._sock is None:
            return
        try:
            self._sock.send(encode(message))
        except OSError:
            self._hang_up()

    def abort(self, error: Exception) -> None:
        """The connection broke, or brought what no agent says."""
        if not isinstance(error, OSError):
            self._fault("control", error)
        self._hang_up()

    def _acceptable(self, _mask: int) -> None:
        try:
            sock, _ = self._listener.accept()
        except BlockingIOError:
            return
        _, uid, _ = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        # The file is root's alone; a mediator that is told something by anybody else would not be one any more.
        if uid != 0:
            sock.close()
            return
        self._hang_up()
        sock.setblocking(False)
        self._sock = sock
        self._wanted = True
        self._reactor.watch(sock.fileno(), IN, self._readable, self)
        self.send(self.greeting)

    def _readable(self, _mask: int) -> None:
        if self._sock is None:
            return
        try:
            data, descriptors, _, _ = socket.recv_fds(self._sock, _CHUNK, 1)
        except BlockingIOError:
            return
        self._descriptors += descriptors
        if not data:
            self._hang_up()
            return
        for message in self._messages.feed(data):
            self._obey(message)

    def take_descriptor(self) -> int:
        """The one that came with the message that is being obeyed. LookupError when none did."""
        return self._descriptors.pop(0)

    def _nobody_came(self) -> None:
        """The agent was killed after it asked and before it noted whom it got: no later agent knows of us."""
        if not self._wanted:
            self._unwanted()

    def _hang_up(self) -> None:
        if self._sock is not None:
            self._reactor.forget(self._sock.fileno())
            with contextlib.suppress(OSError):
                self._sock.close()
            self._sock = None
            self._messages = Assembler()
            while self._descriptors:
                os.close(self._descriptors.pop())
