"""An HTTP/2 server that writes down every byte: `h2_origin.py PEM ADDRESS LOG`.

LOG gets a JSON object a line: `{"bytes": hex}` for what each read brought, `{"request": [[name, value], ...]}` for
each request. `/` says hello, `/bytes/N` sends N bytes, anything else sends back what comes, as it comes.
"""

import asyncio
import json
import ssl
import sys
from contextlib import suppress
from typing import TextIO

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, Event, RequestReceived, StreamEnded, StreamReset, WindowUpdated
from h2.exceptions import ProtocolError


class Origin(asyncio.Protocol):
    """One connection."""

    def __init__(self, log: TextIO) -> None:
        self._log = log
        # A server that forgives: what the mediator lets through is written down, whatever it is.
        self._h2 = H2Connection(H2Configuration(client_side=False, validate_inbound_headers=False))
        self._unsent: dict[int, tuple[bytearray, bool]] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._h2.initiate_connection()
        self._flush()

    def data_received(self, data: bytes) -> None:
        self._note({"bytes": data.hex()})
        try:
            events = self._h2.receive_data(data)
        except ProtocolError as error:
            self._note({"error": str(error)})
            self._flush()
            self._transport.close()
            return
        for event in events:
            with suppress(ProtocolError):  # its stream has been reset by what came with it
                self._handle(event)
        self._flush()

    def _handle(self, event: Event) -> None:
        if isinstance(event, RequestReceived):
            self._request(event)
        elif isinstance(event, DataReceived):
            self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            self._send(event.stream_id, event.data, ends=False)
        elif isinstance(event, StreamEnded):
            self._send(event.stream_id, b"", ends=True)
        elif isinstance(event, StreamReset):
            self._unsent.pop(event.stream_id, None)
        elif isinstance(event, WindowUpdated):
            for stream in tuple(self._unsent):
                self._send(stream, b"", ends=False)

    def _request(self, event: RequestReceived) -> None:
        fields = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in event.headers]
        self._note({"request": fields})
        stream, said = event.stream_id, dict(fields)
        self._h2.send_headers(stream, [(":status", "200"), ("server", "made-up")])
        if said[":path"] == "/":
            self._send(stream, f"hello from {said[':authority']}\n".encode(), ends=False)
        elif said[":path"].startswith("/bytes/"):
            self._send(stream, bytes(int(said[":path"].rpartition("/")[2])), ends=False)
        else:
            self._send(stream, b"", ends=False)

    def _send(self, stream: int, data: bytes, *, ends: bool) -> None:
        waiting, ending = self._unsent.get(stream, (bytearray(), False))
        waiting += data
        ending |= ends
        while waiting:
            room = min(self._h2.local_flow_control_window(stream), 16384, len(waiting))
            if room <= 0:
                break
            self._h2.send_data(stream, bytes(waiting[:room]))
            del waiting[:room]
        if ending and not waiting:
            self._h2.end_stream(stream)
            self._unsent.pop(stream, None)
        else:
            self._unsent[stream] = (waiting, ending)

    def _flush(self) -> None:
        self._transport.write(self._h2.data_to_send())

    def _note(self, what: dict[str, object]) -> None:
        self._log.write(json.dumps(what) + "\n")
        self._log.flush()


async def serve(pem: str, address: str, path: str) -> None:
    """Until the process is ended."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    context.set_alpn_protocols(["h2"])
    with open(path, "a", encoding="utf-8") as log:  # noqa: ASYNC230, PTH123
        server = await asyncio.get_running_loop().create_server(lambda: Origin(log), address, 443, ssl=context)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:]))
