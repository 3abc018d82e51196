"""The process that is the made-up internet: `python -m microagent.demo.servers DIRECTORY`, in its namespace.

Its standard input is its lifeline: each line asks for a report (one JSON object a line on standard output),
and the end of it, which also comes when the parent dies of SIGKILL, ends the process and removes DIRECTORY.
"""

import asyncio
import json
import logging
import shutil
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

from microagent.demo import world
from microagent.demo.canary import Canary
from microagent.demo.resolver import Resolver
from microagent.demo.web import Websites


@dataclass(slots=True)
class Report:
    """Everything that reached the servers so far, in order; the shapes are those of `internet.Evidence`."""

    queries: list[tuple[str, str, str]] = field(default_factory=list)
    requests: list[tuple[str, str, str, str, str]] = field(default_factory=list)
    canary: list[tuple[str, str, int, str, int, str]] = field(default_factory=list)
    banners: list[tuple[str, str]] = field(default_factory=list)

    def query(self, name: str, kind: str, transport: str) -> None:
        self.queries.append((name, kind, transport))

    def request(self, scheme: str, host: str, method: str, path: str, address: str) -> None:
        self.requests.append((scheme, host, method, path, address))

    def sighting(self, proto: str, dst: str, port: int, src: str, sport: int, data: bytes) -> None:
        self.canary.append((proto, dst, port, src, sport, data.hex()))


async def _banner(report: Report, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Speak first, as SSH does, then echo."""
    try:
        writer.write(world.BANNER)
        while data := await reader.read(65536):
            report.banners.append((world.SSH, data.hex()))
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        return
    finally:
        writer.close()


class _Echo(asyncio.DatagramProtocol):
    """Sends every datagram back."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        self._transport.sendto(data, addr)


async def _serve(directory: Path) -> None:
    report = Report()
    zone = json.loads((directory / "zone.json").read_text("utf-8"))
    await Resolver(zone, report.query).listen(world.RESOLVER)
    await Websites(directory, report.request).listen(world.SITES)
    await Canary(world.CANARY_PORT, report.sighting).listen()
    await asyncio.start_server(lambda r, w: _banner(report, r, w), world.SSH, 22)
    await asyncio.get_running_loop().create_datagram_endpoint(_Echo, (world.TIME, world.TIME_PORT))
    commands = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    _say({"ready": True})
    while await commands.readline():
        _say(asdict(report))


def _say(message: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Serve until standard input ends."""
    directory = Path(sys.argv[1])
    # Clients that go away in the middle are what is being shown; they are no error of the server's.
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)
    try:
        asyncio.run(_serve(directory))
    finally:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
