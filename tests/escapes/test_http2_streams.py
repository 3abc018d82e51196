"""Every stream is decided: what hides in HTTP/2 reaches nobody, and what is written down at the server is on record.

The server forgives everything and writes down every byte. Each case is followed, on the same connection where that
still stands and on a new one in any case, by a request that must arrive: the control.
"""

import json
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import hpack
import pytest
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)
from tests.kernel.conftest import MakeWorkspace
from tests.kernel.programs import python_server
from tests.kernel.workspace import Workspace
from tests.waiting import wait_for

from microagent.demo import world
from microagent.demo.internet import Internet
from microagent.demo.oracle import Destination, Oracle

pytestmark = pytest.mark.kernel

NAME = "h2.ok.test"
TLS = Destination("tcp", world.PROGRAMS, 443)
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HELLO = PREFACE + SettingsFrame(0).serialize() + WindowUpdateFrame(0, 1 << 20).serialize()
Fields = list[tuple[str, str]]
GET: Fields = [(":method", "GET"), (":scheme", "https"), (":authority", NAME), (":path", "/")]


def block(fields: Fields) -> bytes:
    """HPACK without a table: what was refused before does not matter."""
    return hpack.Encoder().encode([hpack.NeverIndexedHeaderTuple(*field) for field in fields])


def head(stream: int, fields: Fields, *, ends: bool = True) -> bytes:
    flags = ("END_HEADERS", "END_STREAM") if ends else ("END_HEADERS",)
    return HeadersFrame(stream, block(fields), flags=flags).serialize()


POST: Fields = [(":method", "POST"), *GET[1:]]


def smuggled(**changes: str | None) -> bytes:
    """A request for /smuggled as the connection's first, with some pseudo-header fields changed."""
    fields = [(name, {"path": "/smuggled", **changes}.get(name[1:], value)) for name, value in GET]
    return head(1, [(name, value) for name, value in fields if value is not None])


def with_fields(*more: tuple[str, str]) -> bytes:
    return head(1, [*GET[:3], (":path", "/smuggled"), *more])


def frames(*made: Frame) -> bytes:
    return b"".join(frame.serialize() for frame in made)


HIDDEN = block([*GET[:3], (":path", "/smuggled")])
CASES: dict[str, bytes] = {
    "another authority": smuggled(authority="evil.test"),
    "another port": smuggled(authority=f"{NAME}:8443"),
    "no authority": smuggled(authority=None),
    "user-info": smuggled(authority=f"{NAME}@evil.test"),
    "host for another": with_fields(("host", "evil.test")),
    "two hosts": with_fields(("host", NAME), ("host", NAME)),
    "CONNECT": head(1, [(":method", "CONNECT"), (":authority", "evil.test:443")]),
    "CONNECT with a protocol": head(1, [(":method", "CONNECT"), *GET[1:3], (":path", "/smuggled"), (":protocol", "x")]),
    "plain scheme": smuggled(scheme="http"),
    "URL as path": smuggled(path="https://evil.test/smuggled"),
    "authority as path": smuggled(path="//evil.test/smuggled"),
    "request line in the path": smuggled(path="/smuggled HTTP/1.1\r\nhost: evil.test\r\n\r\n"),
    "request line in the method": smuggled(method="GET /smuggled HTTP/1.1\r\nx:"),
    "CR LF in a value": with_fields(("x", "y\r\nhost: evil.test")),
    "NUL in a value": with_fields(("x", "y\0z")),
    "colon in a name": with_fields(("x: y\r\nhost", "evil.test")),
    "upper case": with_fields(("Accept", "*/*")),
    "transfer-encoding": with_fields(("transfer-encoding", "chunked")),
    "upgrade": with_fields(("connection", "upgrade"), ("upgrade", "h2c")),
    "late pseudo-header": head(1, [("x", "y"), *GET[:3], (":path", "/smuggled")]),
    "two paths": head(1, [*GET, (":path", "/smuggled")]),
    "body shorter than promised": with_fields(("content-length", "5")),
    "second head": head(1, GET, ends=False) + head(1, [*GET[:3], (":path", "/smuggled")]),
    "request in trailers": head(1, GET, ends=False) + head(1, [("host", "evil.test"), (":path", "/smuggled")]),
    "even stream": frames(HeadersFrame(2, HIDDEN, flags=("END_HEADERS", "END_STREAM"))),
    "block never ended": frames(HeadersFrame(1, HIDDEN, flags=("END_STREAM",)), PingFrame(0, b"12345678")),
    "block of two streams": frames(
        HeadersFrame(1, HIDDEN[:9]), ContinuationFrame(3, HIDDEN[9:], flags=("END_HEADERS",))
    ),
    "stream of old": head(3, GET) + frames(HeadersFrame(1, HIDDEN, flags=("END_HEADERS", "END_STREAM"))),
    "data without a head": frames(DataFrame(1, b"/smuggled", flags=("END_STREAM",))),
    "unknown frame": b"\x00\x00\x09\xee\x00\x00\x00\x00\x01/smuggled",
    "not HTTP/2": b"",
}
FLOODS: dict[str, Callable[[int], bytes]] = {
    "rapid reset": lambda n: head(2 * n + 1, GET) + frames(RstStreamFrame(2 * n + 1, 8)),
    "ping": lambda n: frames(PingFrame(0, b"12345678")),
    "settings": lambda n: frames(SettingsFrame(0, {4: 65535})),
    "priority": lambda n: frames(PriorityFrame(2 * n + 1)),
    "continuation": lambda n: frames(ContinuationFrame(1, b"\x00\x01x\x01y") if n else HeadersFrame(1, block(GET))),
    "window updates": lambda n: frames(WindowUpdateFrame(0, 1)),
    "unknown frames": lambda n: b"\x00\x00\x01\xbb\x00\x00\x00\x00\x00x",
    "empty data": lambda n: (head(1, POST, ends=False) if not n else b"") + frames(DataFrame(1, b"")),
    # The server is made to do the resetting (CVE-2025-8671).
    "window too large": lambda n: head(2 * n + 1, POST, ends=False) + frames(WindowUpdateFrame(2 * n + 1, 0x7FFFFFFF)),
    "length too short": lambda n: head(2 * n + 1, [*POST, ("content-length", "5")]),
    "denied": lambda n: head(2 * n + 1, [*GET[:2], (":authority", "evil.test"), GET[3]]),
}
# One blow each.
BLOWS: dict[str, bytes] = {
    "HPACK bomb": frames(
        HeadersFrame(1, hpack.Encoder().encode([*GET, ("x", "y" * 3000)]) + b"\xbe" * 2000, flags=("END_HEADERS",))
    ),
    "a million fields": frames(HeadersFrame(1, block(GET)), *[ContinuationFrame(1, b"\x00\x01x\x01y" * 3000)] * 300),
    "a head of a megabyte": frames(
        HeadersFrame(1, block(GET)), *[ContinuationFrame(1, b"\x00\x01x\x7f\xff" + b"y" * 16000)] * 64
    ),
}


class Client:
    """A TLS connection of the guest's on which anything can be said."""

    def __init__(self, lab: Workspace) -> None:
        context = ssl.create_default_context(cafile=str(lab.guest.trust))
        context.set_alpn_protocols(["h2"])
        plain = lab.guest.call(lambda: socket.create_connection((world.PROGRAMS, 443), timeout=10))
        self.tls = context.wrap_socket(plain, server_hostname=NAME)
        assert self.tls.selected_alpn_protocol() == "h2"

    def say(self, data: bytes) -> None:
        with suppress(OSError):  # it may have been hung up on, which is what the case is about
            self.tls.sendall(data)

    def hear(self, seconds: float) -> bytes:
        """What comes until nothing comes for so long, or the end."""
        data = b""
        self.tls.settimeout(seconds)
        with suppress(OSError):
            while piece := self.tls.recv(65536):
                data += piece
        return data

    def close(self) -> None:
        self.tls.close()


class Lab:
    """A workspace, the server, and what the server wrote down."""

    def __init__(self, lab: Workspace, log: Path) -> None:
        self.workspace = lab
        self._log = log
        self.cases = 0

    def written(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._log.read_text().splitlines()]

    def requests(self) -> list[dict[str, str]]:
        return [dict(note["request"]) for note in self.written() if "request" in note]

    def untaken(self) -> int:
        """How many requests have come but those of `control`."""
        return len([request for request in self.requests() if request[":path"] != "/"])

    def received(self) -> bytes:
        return b"".join(bytes.fromhex(note["bytes"]) for note in self.written() if "bytes" in note)

    def calmed(self, client: Client, case: str) -> None:
        """The guest is told to calm down, and it is on record; a record belongs to each case."""
        assert client.hear(20)[-4:] == b"\x00\x00\x00\x0b", case  # GOAWAY, ENHANCE_YOUR_CALM
        client.close()
        self.cases += 1
        assert len(self.workspace.records("egress_cap_exceeded")) == self.cases, case

    def control(self) -> None:
        """A plain request arrives."""
        answer = self.workspace.guest.curl("--http2", f"https://{NAME}/", "-w", "%{http_version}")
        assert answer.stdout == f"hello from {NAME}\n2", answer.stderr


@pytest.fixture
def lab(internet: Internet, workspace: MakeWorkspace, tmp_path: Path) -> Iterator[Lab]:
    log = tmp_path / "h2.log"
    made = workspace(allow=[NAME])
    with python_server(internet, "h2_origin.py", str(log)):
        assert made.guest.dig("+short", NAME).strip() == world.PROGRAMS
        yield Lab(made, log)


def test_nothing_hides_in_a_stream(lab: Lab, oracle: Oracle) -> None:
    for case, payload in CASES.items():
        client = Client(lab.workspace)
        client.say((HELLO if payload else b"GET /smuggled HTTP/1.1\r\nHost: evil.test\r\n\r\n") + payload)
        client.say(head(2001, GET))
        client.hear(0.1)
        client.close()
        assert not [r for r in lab.requests() if r[":path"] != "/"], case
        assert b"smuggled" not in lab.received(), case
        assert b"evil" not in lab.received(), case
    lab.control()
    arrived = lab.requests()
    assert {request[":authority"] for request in arrived} == {NAME}
    deadline = time.monotonic() + 5
    while len(lab.workspace.records("egress_request")) < len(arrived) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(lab.workspace.records("egress_request")) == len(arrived)
    assert len(lab.workspace.records("egress_deny")) >= len(CASES) - 2  # an unknown frame is dropped without a word
    assert oracle.leaks({TLS}, {NAME}) == ()


def test_a_flood_is_ended_and_on_record(lab: Lab, oracle: Oracle) -> None:
    for case, flood in FLOODS.items():
        client = Client(lab.workspace)
        client.say(HELLO)
        for start in range(0, 4000, 500):
            client.say(b"".join(map(flood, range(start, start + 500))))
        lab.calmed(client, case)
    lab.control()
    assert oracle.leaks({TLS}, {NAME}) == ()


def test_a_head_that_is_too_much_is_ended_and_on_record(lab: Lab, oracle: Oracle) -> None:
    for case, blow in BLOWS.items():
        client = Client(lab.workspace)
        client.say(HELLO + blow)
        lab.calmed(client, case)
        assert not lab.requests(), case
    lab.control()
    assert oracle.leaks({TLS}, {NAME}) == ()


def test_a_guest_that_takes_nothing_holds_up_nobody_else(lab: Lab, oracle: Oracle) -> None:
    client = Client(lab.workspace)
    client.say(PREFACE + SettingsFrame(0, {4: 0}).serialize())
    for stream in range(1, 801, 2):
        client.say(head(stream, [*GET[:3], (":path", "/bytes/1000000")]))
    client.hear(1)
    wait_for(lambda: lab.untaken() > 0)
    lab.control()
    # No more of them than may be open at once have come to the server.
    assert lab.untaken() <= 256
    client.close()
    lab.workspace.wait_for(
        "egress_request", path="/bytes/1000000", bytes_out=len(head(1, [*GET[:3], (":path", "/bytes/1000000")]))
    )
    assert oracle.leaks({TLS}, {NAME}) == ()


def test_http2_without_tls_is_denied(lab: Lab, oracle: Oracle) -> None:
    answer = lab.workspace.guest.tcp(world.PROGRAMS, 80, HELLO + smuggled(), seconds=2)
    assert answer.data.startswith(b"HTTP/1.1 400")
    lab.workspace.wait_for("egress_deny", reason="request_malformed")
    lab.control()
    assert oracle.leaks({TLS}, {NAME}) == ()
