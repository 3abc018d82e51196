"""What passthrough carries is what was sent, in both directions, to the byte; and ends as it was ended.

Behind the ClientHello, which is what the mediator reads, the two ends here say what they like. BYTES in the environment
is how many bytes go each way (5 GB have been tried by hand).
"""

import hashlib
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.escapes.test_tls_names import client_hello
from tests.kernel.conftest import MakeWorkspace
from tests.kernel.workspace import Record, Workspace

from microagent.demo import world
from microagent.demo.internet import Internet
from microagent.demo.oracle import Destination, Oracle

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(1200)]

NAME = "h2.ok.test"
TLS = Destination("tcp", world.PROGRAMS, 443)
BYTES = int(os.environ.get("BYTES", "100_000_000"))
_BLOCK = os.urandom(1 << 20)
# What two hops of socket buffers, a pipe and a tap's queue may hold; far less than what would be held without a limit.
_HELD = 40_000_000
_PATIENCE = 60.0


@dataclass
class Ends:
    """The two far ends of one connection through the mediator, the ClientHello said and heard."""

    lab: Workspace
    guest: socket.socket
    server: socket.socket
    hello: int

    def closed(self) -> Record:
        """The record of its end."""
        return self.lab.wait_for("egress_close", host=NAME)


@pytest.fixture
def ends(internet: Internet, workspace: MakeWorkspace, oracle: Oracle) -> Iterator[Ends]:
    lab = workspace(passthrough=[NAME])
    assert lab.guest.dig("+short", NAME).strip() == world.PROGRAMS
    hello = client_hello(NAME)
    with ExitStack() as stack:
        listener = stack.enter_context(internet.far.run(lambda: socket.create_server((world.PROGRAMS, 443))))
        listener.settimeout(_PATIENCE)
        guest = stack.enter_context(lab.guest.call(lambda: socket.create_connection((world.PROGRAMS, 443))))
        guest.sendall(hello)
        server = stack.enter_context(listener.accept()[0])
        for end in (guest, server):
            end.settimeout(_PATIENCE)
        assert exactly(server, len(hello)) == hello
        yield Ends(lab, guest, server, len(hello))
    assert oracle.leaks({TLS}, {NAME}) == ()


def exactly(end: socket.socket, size: int) -> bytes:
    """So many bytes."""
    data = b""
    while len(data) < size and (piece := end.recv(size - len(data))):
        data += piece
    return data


def send(end: socket.socket, size: int, digest: "hashlib._Hash") -> None:
    """So many bytes, never twice the same megabyte, and the end of this direction."""
    sent = 0
    while sent < size:
        piece = (sent.to_bytes(8, "big") + _BLOCK[8:])[: size - sent]
        digest.update(piece)
        end.sendall(piece)
        sent += len(piece)
    end.shutdown(socket.SHUT_WR)


def receive(end: socket.socket, digest: "hashlib._Hash") -> int:
    """All that comes until the other side's end; how much it was."""
    came = 0
    while piece := end.recv(1 << 20):
        digest.update(piece)
        came += len(piece)
    return came


def carry(source: socket.socket, sink: socket.socket, size: int) -> None:
    """Send from one end to the other, and compare."""
    sent, heard = hashlib.sha256(), hashlib.sha256()
    sender = threading.Thread(target=send, args=(source, size, sent))
    sender.start()
    assert receive(sink, heard) == size
    sender.join()
    assert heard.digest() == sent.digest()


def test_both_directions_at_once_carry_what_was_sent(ends: Ends) -> None:
    out = threading.Thread(target=carry, args=(ends.guest, ends.server, BYTES))
    out.start()
    carry(ends.server, ends.guest, BYTES)
    out.join()
    closed = ends.closed()
    assert (closed["bytes_out"], closed["bytes_in"]) == (ends.hello + BYTES, BYTES)
    assert (closed["tls"], closed["why"]) == ("passthrough", "closed")


@pytest.mark.parametrize("first", ["guest", "server"])
def test_the_end_of_one_direction_leaves_the_other_open(ends: Ends, first: str) -> None:
    one, other = (ends.guest, ends.server) if first == "guest" else (ends.server, ends.guest)
    carry(one, other, 1_000_001)
    carry(other, one, 3_000_003)
    closed = ends.closed()
    sizes = {"guest": (1_000_001, 3_000_003), "server": (3_000_003, 1_000_001)}[first]
    assert (closed["bytes_out"] - ends.hello, closed["bytes_in"]) == sizes
    assert closed["why"] == "closed"


@pytest.mark.parametrize("who", ["guest", "server"])
def test_a_reset_is_a_reset_on_the_other_side(ends: Ends, who: str) -> None:
    one, other = (ends.guest, ends.server) if who == "guest" else (ends.server, ends.guest)
    one.sendall(b"the last word")
    assert exactly(other, 13) == b"the last word"
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    one.close()
    with pytest.raises(ConnectionResetError):
        other.recv(1)
    closed = ends.closed()
    assert closed["why"].startswith("reset")
    assert closed["bytes_out"] + closed["bytes_in"] == ends.hello + 13


@pytest.mark.parametrize("who", ["guest", "server"])
def test_an_urgent_byte_stays_in_its_place(ends: Ends, who: str) -> None:
    one, other = (ends.guest, ends.server) if who == "guest" else (ends.server, ends.guest)
    before = consumed(ends.lab)
    for _ in range(3):
        one.sendall(b"before")
        one.send(b"!", socket.MSG_OOB)
        one.sendall(b"behind")
        assert exactly(other, 13) == b"before!behind"
    one.send(b"!", socket.MSG_OOB)
    one.shutdown(socket.SHUT_WR)
    assert [exactly(other, 1), other.recv(1)] == [b"!", b""]
    time.sleep(1)
    assert consumed(ends.lab) - before < 0.5


def consumed(lab: Workspace) -> float:
    """Seconds of a processor that the mediator has had."""
    fields = Path(f"/proc/{lab.mediator.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def push(end: socket.socket, digest: "hashlib._Hash") -> int:
    """Send until nothing is taken for a second; how much was."""
    end.settimeout(1)
    held = 0
    with suppress(TimeoutError):
        while held < 2 * _HELD:
            taken = end.send(_BLOCK)
            digest.update(_BLOCK[:taken])
            held += taken
    end.settimeout(_PATIENCE)
    return held


@pytest.mark.parametrize("who", ["guest", "server"])
def test_one_that_does_not_read_holds_the_other_back(ends: Ends, who: str) -> None:
    one, other = (ends.guest, ends.server) if who == "guest" else (ends.server, ends.guest)
    sent = hashlib.sha256()
    held = push(one, sent)
    assert held < _HELD
    heard = hashlib.sha256()
    one.shutdown(socket.SHUT_WR)
    assert receive(other, heard) == held
    assert heard.digest() == sent.digest()
