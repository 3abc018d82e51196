"""An HTTP/2 server that does what servers must not, or rarely do: `h2_misbehaves.py PEM ADDRESS`.

The first request of a connection says by its path what: see `SCRIPTS`. Every other frame is answered by nothing.
"""

import asyncio
import ssl
import sys
from collections.abc import Callable

import hpack
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PushPromiseFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
Fields = list[tuple[str, str]]
OK: Fields = [(":status", "200"), ("content-type", "text/plain")]


def head(fields: Fields, *flags: str, stream: int = 1) -> Frame:
    """A HEADERS frame that needs no table."""
    block = hpack.Encoder().encode([hpack.NeverIndexedHeaderTuple(*field) for field in fields])
    return HeadersFrame(stream, block, flags=("END_HEADERS", *flags))


def hello(*flags: str, stream: int = 1) -> Frame:
    """The body that says hello."""
    return DataFrame(stream, b"hello\n", flags=flags)


def bomb() -> Frame:
    """One large entry in the table, and nothing but references to it."""
    encoder = hpack.Encoder()
    block = encoder.encode([(":status", "200"), ("x", "y" * 3000)])
    return HeadersFrame(1, block + b"\xbe" * 2000, flags=("END_HEADERS",))


WELL = [head(OK), hello("END_STREAM")]
SCRIPTS: dict[str, Callable[[], list[Frame]]] = {
    # These are fine, and rare.
    "/plain": lambda: WELL,
    "/interim": lambda: [head([(":status", "103"), ("link", "</a>")])] * 3 + WELL,
    "/trailers": lambda: [head(OK), hello(), head([("grpc-status", "0")], "END_STREAM")],
    "/goaway": lambda: [GoAwayFrame(0, last_stream_id=1), *WELL],
    "/unknown": lambda: [Altsvc(0, b'\0\0h3=":443"'), *WELL],
    # These end the stream: the guest reads a 502.
    "/switch": lambda: [head([(":status", "101")])],
    "/no-status": lambda: [head([("x", "y")])],
    "/data-first": lambda: [hello()],
    "/split": lambda: [head([(":status", "200"), ("x", "y\r\nz: a")])],
    "/endless-interim": lambda: [head([(":status", "103")])] * 20,
    # These end the connection.
    "/push": lambda: [PushPromiseFrame(1, 2, head(OK).data, flags=("END_HEADERS",)), *WELL],  # type: ignore[attr-defined]
    "/odd-stream": lambda: [head(OK, "END_STREAM", stream=7)],
    "/even-stream": lambda: [head(OK, "END_STREAM", stream=2)],
    "/window": lambda: [WindowUpdateFrame(0, 1)] * 5000,
    "/ping": lambda: [PingFrame(0, b"12345678")] * 5000,
    "/settings": lambda: [SettingsFrame(0, {4: 65535})] * 5000,
    "/continuation": lambda: [HeadersFrame(1, b"\x88"), *[ContinuationFrame(1, b"\x00\x01x\x01y")] * 5000],
    "/bomb": lambda: [bomb()],
    "/not-hpack": lambda: [HeadersFrame(1, b"\xff\xff\xff\xff\xff", flags=("END_HEADERS",))],
    "/reset": lambda: [RstStreamFrame(1, 2)],
}


class Altsvc(Frame):
    """A frame that leads elsewhere (RFC 7838)."""

    type = 10
    stream_association = "either"

    def __init__(self, stream: int, payload: bytes) -> None:
        super().__init__(stream)
        self.payload = payload

    def serialize_body(self) -> bytes:
        """See Frame."""
        return self.payload


async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One connection."""
    try:
        await reader.readexactly(len(PREFACE))
        writer.write(SettingsFrame(0).serialize())
        decoder = hpack.Decoder()
        while True:
            frame, length = Frame.parse_frame_header(memoryview(await reader.readexactly(9)))
            body = await reader.readexactly(length)
            if isinstance(frame, SettingsFrame) and "ACK" not in frame.flags:
                writer.write(SettingsFrame(0, flags=("ACK",)).serialize())
            if isinstance(frame, HeadersFrame):
                frame.parse_body(memoryview(body))
                path = dict(decoder.decode(frame.data, raw=True))[b":path"].decode()
                writer.write(b"".join(step.serialize() for step in SCRIPTS[path]()))
    except (OSError, asyncio.IncompleteReadError):
        writer.close()


async def main(pem: str, address: str) -> None:
    """Until the process is ended."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    context.set_alpn_protocols(["h2"])
    await asyncio.start_server(talk, address, 443, ssl=context)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
