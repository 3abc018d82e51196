"""Each user has so many connections: who has them all gets no more, and one that ends makes room."""

import asyncio
import socket
from pathlib import Path

import pytest

from microagent.agent import door
from microagent.agent.undo import cancelled
from microagent.api.client import call

pytestmark = pytest.mark.asyncio

MOST = 3


class Greeter(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")


async def test_who_has_too_many_connections_gets_no_more(tmp_path: Path) -> None:
    place = tmp_path / "sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place))
        listener.listen()
        keeping = asyncio.create_task(door.keep_door(listener, Greeter, each=MOST))
        open_ones = [await asyncio.open_unix_connection(place) for _ in range(MOST)]
        for reader, _ in open_ones:
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        for _ in range(2):
            reader, writer = await asyncio.open_unix_connection(place)
            assert await reader.read() == b""
            writer.close()
        open_ones[0][1].close()
        await open_ones[0][1].wait_closed()
        assert await asyncio.to_thread(call, place, "GET", "/", None, {}) == {}
        for _, writer in open_ones[1:]:
            writer.close()
        await cancelled(keeping)
