"""HTTP/1.1 servers by several parsers, which write down what they read: `parsers.py PEM ADDRESS LOG KIND:PORT...`.

KIND is `plain` (the standard library's http.server, with a body read as simple programs read it), `deaf` (the same, but
the body of anything but POST and PUT is left unread, as http.server's own programs leave it), `h11` or `aiohttp`
(llhttp, or its own parser where AIOHTTP_NO_EXTENSIONS is set). A line of LOG is `PORT METHOD TARGET HOST`, in JSON.
Nothing of it is careful, on purpose: what one of them takes for a request, some server will.
"""

import asyncio
import json
import logging
import socketserver
import sys
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import h11
from aiohttp import web

ADDRESS, LOG = sys.argv[2], Path(sys.argv[3])
writing = threading.Lock()


def note(port: int, method: str, target: str, host: str | None) -> None:
    """A request has been read."""
    with writing, LOG.open("a") as log:
        log.write(json.dumps([port, method, target, host]) + "\n")


class Plain(BaseHTTPRequestHandler):
    """The usual methods; a body by Content-Length or in chunks, as int() reads numbers."""

    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        """Write it down, read what seems to be the body, say so."""
        note(self.connection.getsockname()[1], self.command, self.path, self.headers.get("Host"))
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            while size := int(self.rfile.readline().split(b";")[0], 16):
                self.rfile.read(size)
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
        else:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD = do_POST = do_PUT = do_OPTIONS = do_CONNECT = answer  # noqa: N815  (http.server's names)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Deaf(Plain):
    """Reads no body where none is expected: what comes is the next request."""

    def parse_request(self) -> bool:
        """A head."""
        good = super().parse_request()
        if good and self.command not in ("POST", "PUT"):
            del self.headers["Content-Length"], self.headers["Transfer-Encoding"]
        return good


class PlainServer(socketserver.ThreadingTCPServer):
    """One thread a connection; a client that goes away is no news."""

    allow_reuse_address = True
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Say nothing."""


async def plain(port: int, handler: type[Plain] = Plain) -> None:
    """http.server."""
    server = PlainServer((ADDRESS, port), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()


async def deaf(port: int) -> None:
    """http.server, the body of a GET left unread."""
    await plain(port, Deaf)


async def by_h11(port: int) -> None:
    """h11."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = h11.Connection(h11.SERVER)
        try:
            while True:
                event = connection.next_event()
                if event is h11.NEED_DATA:
                    connection.receive_data(await reader.read(65536))
                elif isinstance(event, h11.Request):
                    hosts = [value.decode("latin-1") for name, value in event.headers if name == b"host"]
                    note(port, event.method.decode(), event.target.decode("latin-1"), ", ".join(hosts))
                elif isinstance(event, h11.EndOfMessage):
                    writer.write(
                        connection.send(h11.Response(status_code=200, headers=[("Content-Length", "0")])) or b""
                    )
                    writer.write(connection.send(h11.EndOfMessage()) or b"")
                    connection.start_next_cycle()
                elif isinstance(event, h11.ConnectionClosed) or event is h11.PAUSED:
                    break
        except (h11.ProtocolError, OSError):
            pass
        writer.close()

    await asyncio.start_server(talk, ADDRESS, port)


async def by_aiohttp(port: int) -> None:
    """aiohttp."""

    async def answer(request: web.BaseRequest) -> web.Response:
        note(port, request.method, request.raw_path, request.headers.get("Host"))
        await request.read()
        return web.Response()

    runner = web.ServerRunner(web.Server(answer), handle_signals=False)
    await runner.setup()
    await web.TCPSite(runner, ADDRESS, port).start()


async def main() -> None:
    """Until the process is ended."""
    logging.disable()  # clients that go away in the middle are what this is for
    kinds = {"plain": plain, "deaf": deaf, "h11": by_h11, "aiohttp": by_aiohttp}
    for argument in sys.argv[4:]:
        kind, port = argument.split(":")
        await kinds[kind](int(port))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
