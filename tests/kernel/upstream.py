"""Resolvers of the host's for tests to be: on loopback, as systemd-resolved's stub is, saying what the test wants."""

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeAlias

import dns.flags
import dns.message
import dns.rrset

from microagent.demo.internet import Internet

STUB = "127.0.0.53"
SECOND = "127.0.0.54"

# What goes back, in order: bytes are sent as they are, a number is a pause in seconds, a message is packed.
Say: TypeAlias = bytes | float | dns.message.Message
Script: TypeAlias = Callable[[dns.message.Message, str], Iterable[Say]]


class Upstream:
    """One of them. `heard` are the questions as they came: (udp or tcp, message)."""

    def __init__(self, internet: Internet, address: str, script: Script) -> None:
        self.heard: list[tuple[str, bytes]] = []
        self.peers: list[tuple[str, int]] = []
        self._script = script
        self._udp, self._tcp = internet.host.run(lambda: _sockets(address))
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._datagrams, self._streams)]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Be silent; the port is closed."""
        for sock in (self._udp, self._tcp):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        for thread in self._threads:
            thread.join()

    def names(self) -> list[str]:
        """What was asked for, in order."""
        return [dns.message.from_wire(wire).question[0].name.to_text(omit_final_dot=True) for _, wire in self.heard]

    def _datagrams(self) -> None:
        with suppress(OSError):
            while True:
                wire, peer = self._udp.recvfrom(65535)
                if not wire:
                    return
                self.peers.append(peer)
                self._answer("udp", wire, lambda data, peer=peer: self._udp.sendto(data, peer))  # type: ignore[misc]

    def _streams(self) -> None:
        with suppress(OSError):
            while True:
                stream, _ = self._tcp.accept()
                with stream, suppress(OSError):
                    stream.settimeout(5)
                    (length,) = struct.unpack("!H", stream.recv(2, socket.MSG_WAITALL))
                    self._answer("tcp", stream.recv(length, socket.MSG_WAITALL), stream.sendall)

    def _answer(self, transport: str, wire: bytes, send: Callable[[bytes], object]) -> None:
        self.heard.append((transport, wire))
        for said in self._script(dns.message.from_wire(wire), transport):
            if isinstance(said, bytes):
                send(said)
            elif isinstance(said, dns.message.Message):
                data = said.to_wire(max_size=65535)
                send(data if transport == "udp" else struct.pack("!H", len(data)) + data)
            else:
                time.sleep(said)


@contextmanager
def upstream(internet: Internet, script: Script, address: str = STUB) -> Iterator[Upstream]:
    """An Upstream for a while."""
    made = Upstream(internet, address, script)
    try:
        yield made
    finally:
        made.close()


def reply(query: dns.message.Message, *records: str, authority: str = "", rcode: int = 0) -> dns.message.Message:
    """A response with these records: `www.ok.test. 60 IN A 203.0.113.10`."""
    made = dns.message.make_response(query, recursion_available=True)
    made.set_rcode(rcode)  # type: ignore[arg-type]
    for section, lines in ((made.answer, records), (made.authority, (authority,) if authority else ())):
        for line in lines:
            name, ttl, kind, rtype, value = line.split(" ", 4)
            section.append(dns.rrset.from_text(name, int(ttl), kind, rtype, value))
    return made


def _sockets(address: str) -> tuple[socket.socket, socket.socket]:
    (family, *_, at), *_ = socket.getaddrinfo(address, 53, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST)
    udp = socket.socket(family, socket.SOCK_DGRAM)
    udp.bind(at)
    tcp = socket.create_server(at, family=family)
    return udp, tcp
