"""Where records are sent besides their file: a syslog socket, an OpenTelemetry collector.

A receiver takes lines or it does not; whoever sends them keeps the place, and comes again.
"""

import asyncio
import logging
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import aiohttp

from microagent.agent.config import Config
from microagent.audit.otlp import export_request
from microagent.audit.syslog import message

log = logging.getLogger(__name__)

_SYSLOG_SECONDS = 1.0
_OTLP_SECONDS = 10.0


class Receiver(Protocol):
    """`name` is short and stays the same: the position is kept under it."""

    name: str

    async def send(self, workspace: str, lines: Sequence[bytes]) -> int:
        """How many of the lines were taken, from the first; OSError when none can be now."""

    async def close(self) -> None:
        """End."""


class Syslog:
    """A datagram socket as /dev/log. A message is taken when it is in the socket's queue: syslog has no answers."""

    name = "syslog"

    def __init__(self, path: Path) -> None:
        self._path = str(path)
        self._sock: socket.socket | None = None

    async def send(self, workspace: str, lines: Sequence[bytes]) -> int:  # noqa: ARG002  (each line says whose it is)
        """See Receiver. A receiver that does not read holds up one thread for a second at a time."""
        return await asyncio.to_thread(self._send, lines)

    async def close(self) -> None:
        """See Receiver."""
        if self._sock:
            self._sock.close()
            self._sock = None

    def _send(self, lines: Sequence[bytes]) -> int:
        taken = 0
        try:
            if self._sock is None:
                self._sock = sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                sock.settimeout(_SYSLOG_SECONDS)
                sock.connect(self._path)
            for line in lines:
                self._sock.send(message(line, os.getpid()))
                taken += 1
        except OSError:
            if self._sock:
                self._sock.close()
            self._sock = None
            if not taken:
                raise
        return taken


class Otlp:
    """OTLP over HTTP, in JSON: lines are taken when the collector has answered with 200."""

    name = "otlp"

    def __init__(self, url: str) -> None:
        self._url = url
        self._session: aiohttp.ClientSession | None = None

    async def send(self, workspace: str, lines: Sequence[bytes]) -> int:
        """See Receiver."""
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_OTLP_SECONDS))
        body = export_request(workspace, lines)
        headers = {"Content-Type": "application/json"}
        try:
            async with self._session.post(self._url, data=body, headers=headers, allow_redirects=False) as answer:
                text = (await answer.content.read(4096)).decode("utf-8", "replace")
        except (aiohttp.ClientError, TimeoutError) as error:
            raise OSError(str(error) or "no answer in time") from error
        if answer.status == 400 and len(lines) == 1:
            # The protocol forbids to send it again. The file has it.
            log.error("record refused for good by otlp answer=%r line=%r", text, lines[0][:200])
            return 1
        if answer.status in (400, 413) and len(lines) > 1:
            return await self.send(workspace, lines[: len(lines) // 2])
        if answer.status != 200:
            raise OSError(f"HTTP status {answer.status}")
        if "rejectedLogRecords" in text:
            log.error("records refused by otlp answer=%r", text)
        return len(lines)

    async def close(self) -> None:
        """See Receiver."""
        if self._session:
            await self._session.close()


def receivers_of(config: Config) -> list[Receiver]:
    """What the configuration names; none by default."""
    found: list[Receiver] = []
    if config.syslog:
        found.append(Syslog(config.syslog))
    if config.otlp:
        found.append(Otlp(config.otlp))
    return found
