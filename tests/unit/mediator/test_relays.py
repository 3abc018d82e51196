"""Bytes arrive as they were sent, ends and breaks arrive as what they are. Over real sockets."""

import hashlib
import os
import select
import socket
import threading
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from microagent.audit.record import Event, Record
from microagent.decision.verdict import Action, Reason, Verdict
from microagent.flows.http1 import HttpConversation
from microagent.mediator.channel import PlainChannel
from microagent.mediator.reactor import IN, Reactor
from microagent.mediator.relay import ChannelRelay
from microagent.mediator.splice import PipePool, SpliceRelay

SIZE = 20_000_000


@dataclass
class Ends:
    """The far ends: what a guest and a server would hold."""

    guest: socket.socket
    server: socket.socket
    near_guest: socket.socket
    near_server: socket.socket


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        far = socket.create_connection(listener.getsockname(), timeout=20)
        near, _ = listener.accept()
    near.setblocking(False)
    return far, near


@pytest.fixture
def ends() -> Iterator[Ends]:
    with ExitStack() as stack:
        guest, near_guest = tcp_pair()
        server, near_server = tcp_pair()
        for sock in (guest, near_guest, server, near_server):
            stack.callback(sock.close)
        yield Ends(guest, server, near_guest, near_server)


def fail(where: str, error: Exception) -> None:
    raise AssertionError(where) from error


class Loop:
    """A reactor in a thread, until the relay has closed."""

    def __init__(self) -> None:
        self.reactor = Reactor(fail)
        self.closed: list[str] = []
        self._thread = threading.Thread(target=self.reactor.run)

    def over(self, why: str) -> None:
        self.closed.append(why)
        self.reactor.stop()

    def __enter__(self) -> "Loop":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join(timeout=20)
        assert not self._thread.is_alive()


def receive_all(sock: socket.socket) -> bytes:
    data = bytearray()
    while chunk := sock.recv(1 << 16):
        data += chunk
    return bytes(data)


def readable(sock: socket.socket) -> bool:
    return bool(select.select([sock], [], [], 0)[0])


def test_splice_keeps_every_byte_and_both_half_closes(ends: Ends) -> None:
    loop = Loop()
    relay = SpliceRelay(loop.reactor, PipePool(), ends.near_guest, ends.near_server, loop.over, 60.0, (0, 0))
    relay.start()
    upload, download = os.urandom(SIZE), os.urandom(SIZE)

    def serve() -> None:
        got.append(receive_all(ends.server))
        ends.server.sendall(download)
        ends.server.shutdown(socket.SHUT_WR)

    got: list[bytes] = []
    server = threading.Thread(target=serve)
    with loop:
        server.start()
        ends.guest.sendall(upload)
        ends.guest.shutdown(socket.SHUT_WR)
        back = receive_all(ends.guest)
        server.join()
    assert hashlib.sha256(got[0]).digest() == hashlib.sha256(upload).digest()
    assert hashlib.sha256(back).digest() == hashlib.sha256(download).digest()
    assert (relay.bytes_out, relay.bytes_in) == (SIZE, SIZE)
    assert loop.closed == ["closed"]


def test_a_guest_that_has_gone_both_ways_while_its_bytes_wait_wakes_nobody(ends: Ends) -> None:
    loop, turns = Loop(), 0
    relay = SpliceRelay(loop.reactor, PipePool(), ends.near_guest, ends.near_server, loop.over, 60.0, (0, 0))
    relay.start()
    turn = loop.reactor.turn

    def counted() -> None:
        nonlocal turns
        turns += 1
        turn()

    loop.reactor.turn = counted  # type: ignore[method-assign]
    sent = 0
    with loop:
        ends.server.shutdown(socket.SHUT_WR)
        assert ends.guest.recv(1) == b""
        while not relay._out.held:
            sent += ends.guest.send(bytes(1 << 16))
        ends.guest.shutdown(socket.SHUT_WR)
        before = turns
        time.sleep(0.5)
        assert turns - before < 50
        assert len(receive_all(ends.server)) == sent
    assert relay.bytes_out == sent
    assert loop.closed == ["closed"]


def test_splice_passes_a_reset_on(ends: Ends) -> None:
    loop = Loop()
    SpliceRelay(loop.reactor, PipePool(), ends.near_guest, ends.near_server, loop.over, 60.0, (0, 0)).start()
    with loop:
        ends.guest.sendall(b"hello")
        assert ends.server.recv(5) == b"hello"
        ends.server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        ends.server.close()
        with pytest.raises(ConnectionResetError):
            ends.guest.recv(1)
    assert loop.closed[0].startswith("reset")


def test_pipes_come_back_clean() -> None:
    pool = PipePool(keep=1)
    pipe = pool.take()
    os.write(pipe[1], b"left over")
    pool.give(pipe, empty=False)
    fresh = pool.take()
    with pytest.raises(BlockingIOError):
        os.read(fresh[0], 1)
    pool.give(fresh, empty=True)
    assert pool.take() == fresh
    for fd in fresh:
        os.close(fd)


REQUEST = b"GET / HTTP/1.1\r\nHost: api.ok.test\r\n\r\n"


def http_relay(loop: Loop, ends: Ends, records: list[Record], half_closed: float = 60) -> ChannelRelay:
    verdict = Verdict(Action.ALLOW, Reason.NAME_LISTED, host="api.ok.test")
    talk = HttpConversation(lambda: verdict, "api.ok.test", 80, "203.0.113.10:80", "flow1", lambda: "d1")
    guest, server = PlainChannel(ends.near_guest), PlainChannel(ends.near_server)

    def write(record: Record) -> bool:
        records.append(record)
        return True

    return ChannelRelay(loop.reactor, guest, server, talk, write, loop.over, half_closed)


def test_an_upload_and_a_download_pass_through_a_conversation(ends: Ends) -> None:
    loop, records = Loop(), list[Record]()
    http_relay(loop, ends, records).start()
    upload, download = os.urandom(SIZE), os.urandom(SIZE)
    request = b"POST /u HTTP/1.1\r\nHost: api.ok.test\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % SIZE
    response = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SIZE

    def serve() -> None:
        data = bytearray()
        while len(data) < len(request) + SIZE:
            data += ends.server.recv(1 << 16)
        got.append(bytes(data))
        ends.server.sendall(response + download)

    got: list[bytes] = []
    server = threading.Thread(target=serve)
    with loop:
        server.start()
        ends.guest.sendall(request + upload)
        back = receive_all(ends.guest)
        server.join()
        ends.guest.close()
    assert got[0] == request + upload
    assert back == response + download
    assert records[0].fields["bytes_out"] == len(request) + SIZE
    assert records[0].fields["bytes_in"] == len(response) + SIZE


def test_what_waits_in_crumbs_takes_no_more_room_than_what_waits_whole(ends: Ends) -> None:
    """A server that sends byte by byte to a guest that does not read."""
    loop = Loop()
    ends.near_guest.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    ends.guest.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    ends.server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    http_relay(loop, ends, []).start()
    ends.guest.sendall(REQUEST)
    while not readable(ends.server):
        loop.reactor.turn()
    whole, crumbs = 100_000, 20_000
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (whole + crumbs)
    ends.server.sendall(head + b"w" * whole)
    while readable(ends.near_server):
        loop.reactor.turn()
    tracemalloc.start()
    for _ in range(crumbs):
        ends.server.sendall(b"c")
        loop.reactor.turn()
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    with loop:
        back = b""
        while len(back) < len(head) + whole + crumbs:
            back += ends.guest.recv(1 << 16)
        ends.guest.close()
    assert back == head + b"w" * whole + b"c" * crumbs
    # All of the queue may have been copied once, into room for twice as much.
    assert grown < 3 * (whole + crumbs)


def test_a_refusal_reaches_a_guest_that_is_still_uploading(ends: Ends) -> None:
    loop, records = Loop(), list[Record]()
    http_relay(loop, ends, records).start()
    with loop:
        ends.guest.sendall(b"POST / HTTP/1.1\r\nHost: evil.test\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100000)
        ends.guest.shutdown(socket.SHUT_WR)
        answer = receive_all(ends.guest)
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert ends.server.recv(1) == b""
    assert records[0].fields["reason"] == "host_mismatch"


def test_a_request_that_is_cut_off_is_on_record(ends: Ends) -> None:
    loop, records = Loop(), list[Record]()
    relay = http_relay(loop, ends, records)
    relay.start()
    hear, cue = socket.socketpair()
    loop.reactor.watch(hear.fileno(), IN, lambda _: relay.close("policy_changed", reset=True), relay)
    with hear, cue, loop:
        ends.guest.sendall(REQUEST)
        assert ends.server.recv(100) == REQUEST
        cue.send(b"x")
        with pytest.raises(ConnectionResetError):
            receive_all(ends.guest)
    assert [(r.event, r.fields["path"], r.fields["status"]) for r in records] == [(Event.REQUEST, "/", 0)]


def test_a_guest_that_has_ended_does_not_wait_forever(ends: Ends) -> None:
    loop, records = Loop(), list[Record]()
    http_relay(loop, ends, records, half_closed=0.5).start()
    begun = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nx"
    with loop:
        ends.guest.sendall(REQUEST)
        ends.guest.shutdown(socket.SHUT_WR)
        assert ends.server.recv(100) == REQUEST
        ends.server.sendall(begun)
        with pytest.raises(ConnectionResetError):
            receive_all(ends.guest)
    assert [(r.event, r.fields["path"]) for r in records] == [(Event.REQUEST, "/")]
    assert loop.closed == ["half-closed and idle"]


def test_after_a_record_that_could_not_be_written_nothing_more_is_asked(ends: Ends) -> None:
    loop = Loop()
    relay = http_relay(loop, ends, [])
    relay._write = lambda _record: False
    relay.start()
    response = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    with loop:
        ends.guest.sendall(b"GET /1 HTTP/1.1\r\nHost: api.ok.test\r\n\r\n" * 2)
        first = ends.server.recv(100)
        ends.server.sendall(response)
        assert receive_all(ends.guest) == response
        ends.guest.close()
    assert first.count(b"GET") == 1
    assert ends.server.recv(100) == b""
    assert loop.closed
