"""The made-up internet's web servers: HTTP/1.1, plain and TLS, with one endpoint for each shape of traffic.

`/` a line of text · `/bytes/N` N deterministic bytes · `POST /sink` what came: length and SHA-256 ·
`/chunked` · `/websocket` every message back · `/sse` one event every tenth of a second · `/slow/N` N bytes, slowly ·
`/head` the request's head as it was received.
"""

import asyncio
import hashlib
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web

from microagent.demo.world import Site

_BLOCK = bytes(range(256)) * 256  # 64 KiB
_SSE_EVENTS = 20
_SLOW_PIECE = 1024

Record = Callable[[str, str, str, str, str], None]  # (scheme, host, method, path, address)


def body(length: int) -> bytes:
    """What `/bytes/N` sends: the numbers 0 to 255 over and over."""
    return (_BLOCK * (length // len(_BLOCK) + 1))[:length]


class Websites:
    """All sites of the world, each request remembered."""

    def __init__(self, certificates: Path, record: Record) -> None:
        """`certificates` holds `ADDRESS.pem` for every site."""
        self._certificates = certificates
        self._record = record

    async def listen(self, sites: tuple[Site, ...]) -> None:
        """Serve ports 80 and 443 of every site that is served, for as long as the loop runs."""
        application = web.Application(middlewares=[self._remember], client_max_size=0)
        application.add_routes(
            [
                web.get("/", _text),
                web.get("/bytes/{length:\\d+}", _bytes),
                web.get("/slow/{length:\\d+}", _slow),
                web.get("/chunked", _chunked),
                web.get("/websocket", _websocket),
                web.get("/sse", _events),
                web.get("/head", _head),
                web.post("/sink", _sink),
            ]
        )
        runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=0.1)
        await runner.setup()
        for site in (site for site in sites if site.served):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self._certificates / f"{site.address}.pem")
            context.set_alpn_protocols(["http/1.1"])
            await web.TCPSite(runner, site.address, 443, ssl_context=context).start()
            await web.TCPSite(runner, site.address, 80).start()

    @web.middleware
    async def _remember(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        sockname = request.transport.get_extra_info("sockname") if request.transport else ("?",)
        scheme = "https" if request.secure else "http"
        self._record(scheme, request.headers.get("Host", ""), request.method, request.raw_path, sockname[0])
        return await handler(request)


async def _text(request: web.Request) -> web.Response:
    return web.Response(text=f"hello from {request.headers.get('Host', '')}\n")


async def _bytes(request: web.Request) -> web.StreamResponse:
    remaining = int(request.match_info["length"])
    response = web.StreamResponse(headers={"Content-Length": str(remaining)})
    await response.prepare(request)
    while remaining > 0:
        piece = _BLOCK[:remaining]
        await response.write(piece)
        remaining -= len(piece)
    return response


async def _slow(request: web.Request) -> web.StreamResponse:
    remaining = int(request.match_info["length"])
    response = web.StreamResponse(headers={"Content-Length": str(remaining)})
    await response.prepare(request)
    while remaining > 0:
        piece = _BLOCK[: min(_SLOW_PIECE, remaining)]
        await response.write(piece)
        remaining -= len(piece)
        await asyncio.sleep(0.05)
    return response


async def _chunked(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    response.enable_chunked_encoding()
    await response.prepare(request)
    for number in range(10):
        await response.write(f"chunk {number}\n".encode())
    return response


async def _websocket(request: web.Request) -> web.WebSocketResponse:
    response = web.WebSocketResponse()
    await response.prepare(request)
    async for message in response:
        await response.send_str(message.data)
    return response


async def _events(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    response.enable_chunked_encoding()
    await response.prepare(request)
    for number in range(_SSE_EVENTS):
        await response.write(f"data: {number}\n\n".encode())
        await asyncio.sleep(0.1)
    return response


async def _head(request: web.Request) -> web.Response:
    fields = b"".join(name + b": " + value + b"\n" for name, value in request.raw_headers)
    return web.Response(body=f"{request.method} {request.raw_path}\n".encode() + fields)


async def _sink(request: web.Request) -> web.Response:
    digest, length = hashlib.sha256(), 0
    async for piece in request.content.iter_any():
        digest.update(piece)
        length += len(piece)
    return web.json_response({"length": length, "sha256": digest.hexdigest()})
