"""HTTP/1.1 over TLS that offers HTTP/3 (Alt-Svc, RFC 7838), and HTTP/3: h3_advertises.py PEM ADDRESS, port 443

Either says by what it was asked.
"""

import asyncio
import contextlib
import ssl
import sys
from pathlib import Path
from typing import Any

from qh3.asyncio.protocol import QuicConnectionProtocol
from qh3.asyncio.server import serve
from qh3.h3.connection import H3_ALPN, H3Connection
from qh3.h3.events import HeadersReceived
from qh3.quic.configuration import QuicConfiguration
from qh3.quic.events import ProtocolNegotiated

_ANSWER = (
    b"HTTP/1.1 200 OK\r\n"
    b"Content-Type: text/plain\r\nContent-Length: 10\r\n"
    b'Alt-Svc: h3=":443"; ma=86400\r\n\r\n'
    b"over TCP.\n"
)


class Http3(QuicConnectionProtocol):
    """One QUIC connection."""

    _http: H3Connection | None = None

    def quic_event_received(self, event: Any) -> None:
        """Every request has the same answer."""
        if isinstance(event, ProtocolNegotiated):
            self._http = H3Connection(self._quic)
        http = self._http
        if http is None:
            return
        for found in http.handle_event(event):
            if isinstance(found, HeadersReceived):
                http.send_headers(found.stream_id, [(b":status", b"200"), (b"content-type", b"text/plain")])
                http.send_data(found.stream_id, b"over QUIC.\n", end_stream=True)
                self.transmit()


async def over_tcp(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Requests without a body, until the client ends."""
    with contextlib.suppress(asyncio.IncompleteReadError, OSError):
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(_ANSWER)
            await writer.drain()
    writer.close()


async def main(pem: str, address: str) -> None:
    """Both, until it is killed."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(pem)
    tls.set_alpn_protocols(["http/1.1"])
    quic = QuicConfiguration(alpn_protocols=H3_ALPN, is_client=False, max_datagram_frame_size=65536)
    key, begin, chain = Path(pem).read_text("ascii").partition("-----BEGIN CERTIFICATE-----")
    quic.load_cert_chain(begin + chain, key)
    await asyncio.start_server(over_tcp, address, 443, ssl=tls)
    await serve(address, 443, configuration=quic, create_protocol=Http3)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


asyncio.run(main(*sys.argv[1:3]))
