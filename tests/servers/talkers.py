"""Servers of protocols that are not HTTP, as far as a client sees before it is let in: `talkers.py PEM ADDRESS`.

25 SMTP with STARTTLS · 3306 speaks first, as MySQL · 5432 answers an SSLRequest, then TLS, as PostgreSQL · 8443 TLS.
Once a conversation is set up, each sends back what comes.
"""

import asyncio
import ssl
import sys
from collections.abc import Awaitable, Callable

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

MYSQL = b"\x1a\x00\x00\x00\x0a8.0.0-made-up\x00\x01\x00\x00\x00salt"
SSL_REQUEST = b"\x00\x00\x00\x08\x04\xd2\x16\x2f"


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until the client ends."""
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()
    except OSError:
        writer.close()


async def mysql(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The greeting comes before anything is asked."""
    writer.write(MYSQL)
    await echo(reader, writer)


def postgres(context: ssl.SSLContext) -> Talk:
    """The client asks for TLS in eight bytes, and gets one byte."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readexactly(8) == SSL_REQUEST
        writer.write(b"S")
        await writer.start_tls(context)
        await echo(reader, writer)

    return talk


def smtp(context: ssl.SSLContext) -> Talk:
    """Enough of RFC 5321 and RFC 3207 for a client to say hello on both sides of STARTTLS."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 made-up ESMTP\r\n")
        while line := await reader.readline():
            match line.strip().upper().split(b" ")[0]:
                case b"EHLO":
                    writer.write(b"250-made-up\r\n250 STARTTLS\r\n")
                case b"STARTTLS":
                    writer.write(b"220 go on\r\n")
                    await writer.start_tls(context)
                case b"QUIT":
                    writer.write(b"221 bye\r\n")
                    break
        writer.close()

    return talk


async def main(pem: str, address: str) -> None:
    """Until the process is ended."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    await asyncio.start_server(smtp(context), address, 25)
    await asyncio.start_server(mysql, address, 3306)
    await asyncio.start_server(postgres(context), address, 5432)
    await asyncio.start_server(echo, address, 8443, ssl=context)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
