"""The canary: whatever is nobody else's, on any address and any port, arrives here and is written down.

How this works: the far namespace takes every address for its own (`local 0.0.0.0/0`), and nft's tproxy hands
what no server asked for to one TCP and one UDP socket. Their getsockname and IP_ORIGDSTADDR say whom the
packet was meant for.
"""

import asyncio
import socket
import struct
from collections.abc import Callable

_IP_TRANSPARENT = 19  # <linux/in.h>
_IP_RECVORIGDSTADDR = 20
_IPV6_TRANSPARENT = 75  # <linux/in6.h>
_IPV6_RECVORIGDSTADDR = 74
_KEEP = 4096  # bytes kept of one conversation: enough to recognise it, whatever a runaway sends
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\nConnection: close\r\n\r\ncanary\n"

Record = Callable[[str, str, int, str, int, bytes], None]  # (proto, dst, port, src, source port, bytes)


class Canary:
    """Listens on `port` for what tproxy brings; answers in HTTP, so that a leak looks like success."""

    def __init__(self, port: int, record: Record) -> None:
        self._port = port
        self._record = record

    async def listen(self) -> None:
        """Serve for as long as the loop runs."""
        loop = asyncio.get_running_loop()
        for family in (socket.AF_INET, socket.AF_INET6):
            stream = _transparent(family, socket.SOCK_STREAM, self._port)
            await asyncio.start_server(self._stream, sock=stream)
            datagrams = _transparent(family, socket.SOCK_DGRAM, self._port)
            loop.add_reader(datagrams, self._datagram, datagrams)

    async def _stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        here, there = writer.get_extra_info("sockname"), writer.get_extra_info("peername")
        # The connection alone is a leak, so it is written down before any byte comes.
        self._record("tcp", here[0], here[1], there[0], there[1], b"")
        kept = 0
        try:
            while data := await reader.read(65536):
                if kept == 0:
                    writer.write(_ANSWER)
                if kept < _KEEP:
                    self._record("tcp", here[0], here[1], there[0], there[1], data[: _KEEP - kept])
                kept += len(data)
        except ConnectionError:
            return
        finally:
            writer.close()

    def _datagram(self, receiver: socket.socket) -> None:
        data, ancillary, _, source = receiver.recvmsg(65536, 256)
        dst, port = "?", 0
        for _, kind, value in ancillary:
            if kind == _IP_RECVORIGDSTADDR:
                port, dst = (
                    struct.unpack_from("!H", value, 2)[0],
                    socket.inet_ntop(socket.AF_INET, value[4:8]),
                )
            elif kind == _IPV6_RECVORIGDSTADDR:
                port, dst = (
                    struct.unpack_from("!H", value, 2)[0],
                    socket.inet_ntop(socket.AF_INET6, value[8:24]),
                )
        self._record("udp", dst, port, source[0], source[1], data[:_KEEP])


def _transparent(family: socket.AddressFamily, kind: socket.SocketKind, port: int) -> socket.socket:
    listener = socket.socket(family, kind)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.setsockopt(socket.IPPROTO_IPV6, _IPV6_TRANSPARENT, 1)
        listener.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVORIGDSTADDR, 1)
        listener.bind(("::", port))
    else:
        listener.setsockopt(socket.IPPROTO_IP, _IP_TRANSPARENT, 1)
        listener.setsockopt(socket.IPPROTO_IP, _IP_RECVORIGDSTADDR, 1)
        listener.bind(("0.0.0.0", port))  # noqa: S104  (in a namespace that nothing but the test can reach)
    listener.setblocking(False)
    return listener
