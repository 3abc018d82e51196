"""The made-up internet's DNS: one server that answers for the whole world, and remembers every question."""

import asyncio
import struct
from collections.abc import Callable
from typing import cast

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from microagent.demo.world import Zone

_TTL = 60
_CHAIN = 16  # as far as any resolver follows

Record = Callable[[str, str, str], None]  # (qname, qtype, "udp" | "tcp")


class Resolver:
    """Answers from a zone; a name it does not know is NXDOMAIN."""

    def __init__(self, zone: Zone, record: Record) -> None:
        self._zone = zone
        self._record = record

    async def listen(self, address: str) -> None:
        """Serve UDP and TCP on port 53 of `address` for as long as the loop runs."""
        loop = asyncio.get_running_loop()
        await loop.create_datagram_endpoint(lambda: _Datagrams(self), (address, 53))
        await asyncio.start_server(self._stream, address, 53)

    def answer(self, wire: bytes, transport: str) -> bytes | None:
        """The reply to `wire`; None for what is not a query."""
        try:
            query = dns.message.from_wire(wire)
        except dns.exception.DNSException:
            return None
        if query.flags & dns.flags.QR or len(query.question) != 1:
            return None
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True).lower()
        kind = dns.rdatatype.to_text(question.rdtype)
        self._record(name, kind, transport)
        reply = dns.message.make_response(query, recursion_available=True)
        self._fill(reply, name, kind)
        if transport == "tcp":
            return reply.to_wire(max_size=65535)
        limit = max(512, query.payload if query.edns >= 0 else 512)
        try:
            return reply.to_wire(max_size=limit)
        except dns.exception.TooBig:
            reply.answer.clear()
            reply.flags |= dns.flags.TC
            return reply.to_wire(max_size=65535)

    def _fill(self, reply: dns.message.Message, name: str, kind: str) -> None:
        for _ in range(_CHAIN):
            records = self._zone.get(name)
            if records is None:
                reply.set_rcode(dns.rcode.NXDOMAIN)
                return
            if kind in records:
                reply.answer.append(_rrset(name, kind, records[kind]))
                return
            if "CNAME" not in records:
                return
            reply.answer.append(_rrset(name, "CNAME", records["CNAME"]))
            name = records["CNAME"][0]

    async def _stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                (length,) = struct.unpack("!H", await reader.readexactly(2))
                reply = self.answer(await reader.readexactly(length), "tcp")
                if reply is None:
                    return
                writer.write(struct.pack("!H", len(reply)) + reply)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, peer: tuple[str, int]) -> None:
        reply = self._resolver.answer(data, "udp")
        if reply is not None and self._transport is not None:
            self._transport.sendto(reply, peer)


def _rrset(name: str, kind: str, values: list[str]) -> dns.rrset.RRset:
    absolute = [f"{value}." if kind == "CNAME" else value for value in values]
    texts = [f'"{value}"' if kind == "TXT" else value for value in absolute]
    return dns.rrset.from_text_list(f"{name}.", _TTL, dns.rdataclass.IN, dns.rdatatype.from_text(kind), texts)
