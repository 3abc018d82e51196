"""Whatever a guest writes where a name, a path or a method belongs: a valid line each, and only text on a terminal."""

import json
import re

import pytest
from tests.kernel.conftest import MakeWorkspace

from microagent.audit import chain
from microagent.audit.record import MAX_TEXT
from microagent.audit.render import inert, plain
from microagent.cli.live_lines import Layout, line_of
from microagent.demo import world
from microagent.demo.oracle import Destination, Oracle

pytestmark = pytest.mark.kernel

HOSTILE = {
    "quotes": b'"},{"event":"egress_allow","host":"',
    "newlines": b"a\r\nb\nc",
    "line separator": "\u2028\u2029\u0085".encode(),
    "ESC": b"\x1b[2J\x1b[31m",
    "OSC 52": b"\x1b]52;c;QUFBQQ==\x07",
    "C1": b"\x9b31m\x9d52;c;QUFBQQ==\x9c",
    "right to left": "\u202egro.live\u2066\u05d0\u0627".encode(),
    "zero width": "a\u200bb\u200d\ufeffc\u0301\u0301".encode(),
    "invalid UTF-8": b"\xff\xfe\xc0\xaf\xed\xa0\x80",
    "NUL": b"\x00\x00",
    "64 KiB": b"A" * 65536,
}
OK = b"Host: api.ok.test\r\n\r\n"
REQUESTS = {
    "Host": (b"GET / HTTP/1.1\r\nHost: ", b"\r\n\r\n"),
    "path": (b"GET /", b" HTTP/1.1\r\n" + OK),
    "method": (b"", b" / HTTP/1.1\r\n" + OK),
    "authority": (b"GET http://", b"/ HTTP/1.1\r\n" + OK),
    "CONNECT": (b"CONNECT ", b":443 HTTP/1.1\r\n" + OK),
    "header": (b"GET / HTTP/1.1\r\nX: ", b"\r\n" + OK),
}


def vector(data: bytes, size: int) -> bytes:
    """`data` behind its length in `size` bytes (RFC 8446 section 3.4)."""
    return len(data).to_bytes(size, "big") + data


def client_hello(name: bytes) -> bytes:
    """A TLS 1.2 ClientHello with these bytes as its server name, in as many records as it takes."""
    names = vector(b"\0" + vector(name[:65000], 2), 2)
    extensions = vector(b"\0\0" + vector(names, 2), 2)
    body = b"\3\3" + bytes(32) + vector(b"", 1) + vector(b"\xc0\x2f", 2) + vector(b"\0", 1) + extensions
    message = b"\1" + vector(body, 3)
    pieces = [message[at : at + 16384] for at in range(0, len(message), 16384)]
    return b"".join(b"\x16\3\1" + vector(piece, 2) for piece in pieces)


def dns_query(label: bytes) -> bytes:
    """A question about this label below evil.test."""
    return b"\x12\x34\1\0\0\1" + bytes(6) + vector(label[:63], 1) + b"\4evil\4test\0" + b"\0\1\0\1"


def test_hostile_bytes_become_one_inert_line_each(oracle: Oracle, workspace: MakeWorkspace) -> None:
    lab = workspace(allow=["api.ok.test"])
    assert lab.guest.dig("+short", "api.ok.test").strip() == world.API
    sent = 0
    for hostile in HOSTILE.values():
        for before, after in REQUESTS.values():
            lab.guest.tcp(world.API, 80, before + hostile + after, seconds=0.3)
        lab.guest.tcp(world.API, 443, client_hello(hostile), seconds=0.3)
        lab.guest.udp(world.RESOLVER, 53, dns_query(hostile), seconds=0.3)
        sent += len(REQUESTS) + 2
    # The control: what is right goes through and is recorded after all that, what is long is cut.
    assert lab.guest.curl(f"http://api.ok.test/{'b' * 4000}").stdout
    request = lab.wait_for("egress_request", path=f"/{'b' * (MAX_TEXT - 1)}")
    assert request["truncated"] is True

    log = lab.log.read_bytes()
    assert set(log) <= {*range(0x20, 0x7F), 0x0A}
    lines = log.split(b"\n")[:-1]
    previous = chain.START
    for number, line in enumerate(lines, 1):
        record = json.loads(line)
        assert record["seq"] == number
        following = chain.check(previous, line)
        assert following is not None
        previous = following
        texts = [value for value in record.values() if isinstance(value, str)]
        assert max(map(len, texts)) <= MAX_TEXT
        assert len(line) < 4096
        shown = [plain(record), *(Layout(width).line(line_of(record)).plain for width in (80, 200))]
        assert [inert(text) for text in shown] == shown
    refused = [record for record in lab.records() if re.search("_deny$", record["event"])]
    assert len(refused) >= sent - len(HOSTILE) * 2
    # Some of it is allowed where it stands, as obs-text in a header is (RFC 9110 section 5.5).
    questions = lab.records("egress_dns_deny")
    assert len(questions) >= len(HOSTILE)
    assert any("\\x1b" in record.get("qname", "") for record in questions)
    assert {record.get("host", "") for record in lab.records("egress_allow")} <= {"api.ok.test"}
    assert oracle.leaks({Destination("tcp", world.API, 80)}, {"api.ok.test"}) == ()
