"""A denied name produces no packet, however the question is put."""

import struct
from collections.abc import Callable

import pytest
from tests.kernel.conftest import MakeWorkspace

from microagent.api.link import GATEWAY
from microagent.demo.oracle import Oracle

pytestmark = pytest.mark.kernel


def question(*labels: bytes, qtype: int = 1, qclass: int = 1, flags: int = 0x0100, count: int = 1) -> bytes:
    """A DNS query with exactly these labels."""
    name = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
    return struct.pack("!6H", 0x1234, flags, count, 0, 0, 0) + (name + struct.pack("!2H", qtype, qclass)) * count


A = (b"api", b"ok", b"test")
QUESTIONS: dict[str, Callable[[], bytes]] = {
    "dot in a label": lambda: question(b"api.ok", b"test"),
    "NUL in a label": lambda: question(b"evil\0", b"ok", b"test"),
    "space": lambda: question(b"a b", b"ok", b"test"),
    "not ASCII": lambda: question(b"\xff\xfe", b"ok", b"test"),
    "line feed": lambda: question(b"a\nb", b"ok", b"test"),
    "root": lambda: question(),
    "ANY": lambda: question(*A, qtype=255),
    "AXFR": lambda: question(*A, qtype=252),
    "NULL": lambda: question(*A, qtype=10),
    "HTTPS": lambda: question(*A, qtype=65),
    "class CHAOS": lambda: question(b"version", b"bind", qtype=16, qclass=3),
    "class ANY": lambda: question(*A, qclass=255),
    "two questions": lambda: question(*A, count=2),
    "no question": lambda: question(*A, count=0),
    "update": lambda: question(*A, flags=0x2800),
    "notify": lambda: question(*A, flags=0x2000),
    "a reply": lambda: question(*A, flags=0x8180),
    "a pointer to itself": lambda: struct.pack("!6H", 1, 0x0100, 1, 0, 0, 0) + b"\xc0\x0c\0\1\0\1",
    "a label of 64": lambda: question(b"a" * 63, b"ok", b"test").replace(b"\x3f", b"\x40", 1),
    "cut off": lambda: question(*A)[:-3],
    "nothing": lambda: b"",
    "not DNS": lambda: b"SSH-2.0-iodine\r\n",
    "reverse": lambda: question(b"1", b"0", b"99", b"10", b"in-addr", b"arpa", qtype=12),
}


@pytest.mark.parametrize("case", QUESTIONS)
def test_nothing_of_it_is_asked_of_anybody(oracle: Oracle, workspace: MakeWorkspace, case: str) -> None:
    lab = workspace(allow=[".ok.test"])
    query = QUESTIONS[case]()
    lab.guest.udp(str(GATEWAY.ip), 53, query, seconds=0.5)
    lab.guest.tcp(str(GATEWAY.ip), 53, struct.pack("!H", len(query)) + query, seconds=0.5)
    assert oracle.leaks(()) == ()
    assert "203.0.113.10" in lab.guest.dig("+short", "api.ok.test")
    assert oracle.leaks((), {"api.ok.test"}) == ()


def test_the_upper_case_of_a_question_comes_back(oracle: Oracle, workspace: MakeWorkspace) -> None:
    lab = workspace(allow=["api.ok.test"])
    assert "aPi.oK.tEsT." in lab.guest.dig("+noall", "+question", "+answer", "aPi.oK.tEsT")
    assert "\teVil" not in lab.guest.dig("+noall", "+answer", "eVil.tEst")
    assert lab.wait_for("egress_dns_deny")["qname"] == "evil.test"
    assert oracle.leaks((), {"api.ok.test"}) == ()
