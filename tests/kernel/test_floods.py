"""A guest that is refused, fast: counted exactly, and the log grows slowly; an allow is never counted with others."""

import socket
import threading
import time
from collections import Counter

import dns.message
import pytest
from tests.kernel.conftest import MakeWorkspace
from tests.kernel.workspace import Workspace

from microagent.api.limits import Limits
from microagent.api.link import GATEWAY
from microagent.demo import world
from microagent.demo.oracle import Destination, Oracle

pytestmark = pytest.mark.kernel

REFUSED = 1200
QUESTIONS = 700
LIMITS = Limits(dns_queries_per_second=100_000)


def refused_by_name(port: int) -> None:
    """One connection for a name that is on no list; returns when the 403 is there."""
    with socket.create_connection((world.EVIL, port), timeout=10) as stream:
        stream.sendall(b"GET / HTTP/1.1\r\nHost: evil.test\r\n\r\n")
        assert stream.recv(4096).startswith(b"HTTP/1.1 403")


def flood(lab: Workspace) -> None:
    def work(first: int) -> None:
        for number in range(first, REFUSED, 4):
            refused_by_name(2000 + number)

    threads = [threading.Thread(target=lab.guest.call, args=(lambda first=first: work(first),)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def ask(count: int) -> None:
    """Questions about names that are on no list; returns when all were answered."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(10)
        sock.connect((str(GATEWAY.ip), 53))
        for number in range(count):
            sock.send(dns.message.make_query(f"x{number}.evil.test", "A").to_wire())
            sock.recv(4096)


def told(lab: Workspace, *events: str) -> Counter[str]:
    counts: Counter[str] = Counter()
    for record in lab.records(*events):
        counts[record["event"]] += record.get("count", 1)
    return counts


def test_denials_are_counted_exactly_and_allows_one_by_one(oracle: Oracle, workspace: MakeWorkspace) -> None:
    lab = workspace(allow=["api.ok.test"], limits=LIMITS)
    began = time.monotonic()
    flood(lab)
    lab.guest.call(lambda: ask(QUESTIONS))
    took = time.monotonic() - began
    for _ in range(150):
        assert lab.guest.tcp(world.API, 80, b"GET / HTTP/1.1\r\nHost: api.ok.test\r\nConnection: close\r\n\r\n").data
    lab.room.call(lab.mediator.stop())
    assert told(lab, "egress_deny", "egress_dns_deny") == {"egress_deny": REFUSED, "egress_dns_deny": QUESTIONS}
    assert len(lab.records("egress_allow")) == len(lab.records("egress_request")) == 150
    # A hundred a second have records of their own, whatever is refused.
    single = [record for record in lab.records("egress_deny", "egress_dns_deny") if "count" not in record]
    assert len(single) <= 100 * (took + 2)
    reasons = {record["reason"] for record in lab.records("egress_deny", "egress_dns_deny")}
    assert reasons == {"name_not_listed"}
    assert oracle.leaks({Destination("tcp", world.API, 80)}, {"api.ok.test"}) == ()
