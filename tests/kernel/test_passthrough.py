"""What passthrough carries is what was sent, in both directions, to the byte; and ends as it was ended.

Behind the ClientHello and how the server begins, which the mediator looks at, the two ends here say what they like.
BYTES in the environment is how many bytes go each way (5 GB have been tried by hand).
"""

import hashlib
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.escapes.test_tls_names import client_hello
from tests.kernel.conftest import MakeWorkspace
from tests.kernel.workspace import Record, Workspace
from tests.unit.wire.hellos import hello, server_name

from microagent.api.limits import Limits
from microagent.demo import world
from microagent.demo.internet import Internet
from microagent.demo.oracle import Destination, Oracle

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(1200)]

NAME = "h2.ok.test"
TLS = Destination("tcp", world.PROGRAMS, 443)
BYTES = int(os.environ.get("BYTES", "100_000_000"))
_BLOCK = os.urandom(1 << 20)
_ANSWER = b"\x16\x03\x03\x00\x7a\x02\x00\x00\x76\x03\x03and so on"
# What two hops of socket buffers, a pipe and a tap's queue may hold; far less than what would be held without a limit.
_HELD = 40_000_000
_PATIENCE = 60.0


@dataclass
class Ends:
    """The two far ends of one connection through the mediator, the ClientHello said and heard; `answer`: answered."""

    lab: Workspace
    guest: socket.socket
    server: socket.socket
    hello: int
    answer: int = 0

    def closed(self) -> Record:
        """The record of its end."""
        return self.lab.wait_for("egress_close", host=NAME)


@contextmanager
def joined(internet: Internet, lab: Workspace, data: bytes, buffer: int = 0) -> Iterator[Ends]:
    """`data` said by the guest and heard by the server, who takes `buffer` bytes at a time if that is set."""
    assert lab.guest.dig("+short", NAME).strip() == world.PROGRAMS
    with ExitStack() as stack:
        listener = stack.enter_context(internet.far.run(lambda: socket.create_server((world.PROGRAMS, 443))))
        if buffer:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        listener.settimeout(_PATIENCE)
        guest = stack.enter_context(lab.guest.call(lambda: socket.create_connection((world.PROGRAMS, 443))))
        guest.sendall(data)
        server = stack.enter_context(listener.accept()[0])
        for end in (guest, server):
            end.settimeout(_PATIENCE)
        assert exactly(server, len(data)) == data
        yield Ends(lab, guest, server, len(data))


@pytest.fixture
def unanswered(internet: Internet, workspace: MakeWorkspace, oracle: Oracle) -> Iterator[Ends]:
    # A second of patience for who is half closed, and a hello that no socket takes at once.
    lab = workspace(passthrough=[NAME], limits=Limits(half_closed_seconds=1))
    with joined(internet, lab, hello((51, bytes(60000)), server_name((0, NAME.encode()))), 4096) as made:
        yield made
    assert oracle.leaks({TLS}, {NAME}) == ()


@pytest.fixture
def ends(internet: Internet, workspace: MakeWorkspace, oracle: Oracle) -> Iterator[Ends]:
    with joined(internet, workspace(passthrough=[NAME]), client_hello(NAME)) as made:
        made.server.sendall(_ANSWER)
        assert exactly(made.guest, len(_ANSWER)) == _ANSWER
        made.answer = len(_ANSWER)
        yield made
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
    assert (closed["bytes_out"], closed["bytes_in"]) == (ends.hello + BYTES, ends.answer + BYTES)
    assert (closed["tls"], closed["why"]) == ("passthrough", "closed")


@pytest.mark.parametrize("first", ["guest", "server"])
def test_the_end_of_one_direction_leaves_the_other_open(ends: Ends, first: str) -> None:
    one, other = (ends.guest, ends.server) if first == "guest" else (ends.server, ends.guest)
    carry(one, other, 1_000_001)
    carry(other, one, 3_000_003)
    closed = ends.closed()
    sizes = {"guest": (1_000_001, 3_000_003), "server": (3_000_003, 1_000_001)}[first]
    assert (closed["bytes_out"] - ends.hello, closed["bytes_in"] - ends.answer) == sizes
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
    assert closed["bytes_out"] + closed["bytes_in"] == ends.hello + ends.answer + 13


def test_who_leaves_before_the_answer_is_gone_on_the_other_side(unanswered: Ends) -> None:
    unanswered.guest.sendall(b"held back")
    unanswered.guest.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    unanswered.guest.close()
    with pytest.raises(ConnectionResetError):
        unanswered.server.recv(1)
    closed = unanswered.closed()
    assert closed["why"].startswith("reset")
    assert (closed["bytes_out"], closed["bytes_in"]) == (unanswered.hello, 0)


def test_a_server_that_hangs_up_instead_of_an_answer(unanswered: Ends) -> None:
    unanswered.server.close()
    assert unanswered.guest.recv(1) == b""
    unanswered.guest.close()
    closed = unanswered.closed()
    assert (closed["bytes_out"], closed["bytes_in"]) == (unanswered.hello, 0)


def test_a_half_closed_guest_has_its_answer_if_that_comes_in_time(unanswered: Ends) -> None:
    unanswered.guest.shutdown(socket.SHUT_WR)
    unanswered.server.sendall(_ANSWER)
    assert exactly(unanswered.guest, len(_ANSWER)) == _ANSWER
    assert unanswered.server.recv(1) == b""
    unanswered.server.close()
    assert unanswered.guest.recv(1) == b""
    assert unanswered.closed()["why"] == "closed"


def test_nobody_waits_for_ever_for_an_answer_to_a_guest_that_has_left(unanswered: Ends) -> None:
    unanswered.guest.shutdown(socket.SHUT_WR)
    with pytest.raises(ConnectionResetError):
        unanswered.server.recv(1)
    assert unanswered.closed()["why"] == "half-closed and idle"


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
