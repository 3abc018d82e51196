"""What agent.yaml's limits do to a guest that goes over them, and what they leave alone."""

import socket
import time
from contextlib import suppress

import dns.message
import dns.rcode
import pytest
from tests.escapes.test_tls_names import client_hello
from tests.kernel.conftest import MakeWorkspace

from microagent.api.limits import Limits
from microagent.api.link import GATEWAY
from microagent.demo import world
from microagent.demo.internet import Internet
from microagent.demo.oracle import Destination, Oracle

pytestmark = pytest.mark.kernel

API_HTTP = Destination("tcp", world.API, 80)


def test_questions_over_the_limit_are_refused_and_counted(oracle: Oracle, workspace: MakeWorkspace) -> None:
    lab = workspace(allow=["api.ok.test"], limits=Limits(dns_queries_per_second=20))
    assert "status: NOERROR" in lab.guest.dig("api.ok.test")

    def flood() -> list[int]:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(5)
            sock.connect((str(GATEWAY.ip), 53))
            for _ in range(60):
                sock.send(dns.message.make_query("api.ok.test", "A").to_wire())
            return [dns.message.from_wire(sock.recv(4096)).rcode() for _ in range(60)]

    codes = lab.guest.call(flood)
    refused = codes.count(dns.rcode.REFUSED)
    assert refused + codes.count(dns.rcode.NOERROR) == 60
    assert 0 < refused <= 41  # of sixty, and one before them in the same second perhaps
    lab.wait_for("egress_cap_exceeded", limit="dns_queries_per_second", max=20)
    time.sleep(1.1)
    assert sum(record["count"] for record in lab.records("egress_cap_exceeded")) == refused
    assert "status: NOERROR" in lab.guest.dig("api.ok.test")
    assert oracle.leaks((), {"api.ok.test"}) == ()


def test_what_is_over_a_limit_is_counted_to_the_last(oracle: Oracle, workspace: MakeWorkspace) -> None:
    """A mediator that is stopped within the second has counts that no record says yet."""
    lab = workspace(allow=["api.ok.test"], limits=Limits(dns_queries_per_second=20, connections=1))
    assert "status: NOERROR" in lab.guest.dig("api.ok.test")

    def flood() -> tuple[int, list[str]]:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, socket.create_connection((world.API, 80), 5):
            sock.settimeout(5)
            sock.connect((str(GATEWAY.ip), 53))
            for _ in range(60):
                sock.send(dns.message.make_query("api.ok.test", "A").to_wire())
            codes = [dns.message.from_wire(sock.recv(4096)).rcode() for _ in range(60)]
            return codes.count(dns.rcode.REFUSED), [refused() for _ in range(5)]

    def refused() -> str:
        try:
            with socket.create_connection((world.API, 80), 5) as other:
                return other.recv(1).decode()
        except OSError as error:
            return type(error).__name__

    questions, connections = lab.guest.call(flood)
    lab.room.call(lab.mediator.stop())
    assert (questions > 0, connections) == (True, ["ConnectionResetError"] * 5)
    told = {"dns_queries_per_second": 0, "connections": 0}
    for record in lab.records("egress_cap_exceeded"):
        told[record["limit"]] += record["count"]
    assert told == {"dns_queries_per_second": questions, "connections": 5}
    assert oracle.leaks({API_HTTP}, {"api.ok.test"}) == ()


def test_a_connection_that_idles_or_moves_too_much_is_ended(oracle: Oracle, workspace: MakeWorkspace) -> None:
    lab = workspace(allow=["api.ok.test"], limits=Limits(tcp_idle_seconds=2, connection_bytes=20_000))
    assert lab.guest.curl("http://api.ok.test/").stdout == "hello from api.ok.test\n"
    with lab.guest.start("curl", "-sS", "-o", "/dev/null", "http://api.ok.test/slow/1000000") as greedy:
        lab.wait_for("egress_cap_exceeded", limit="connection_bytes", max=20_000)
        assert greedy.wait(timeout=10) != 0
    idle = lab.guest.tcp(world.API, 80, b"GET / HTTP/1.1\r\nHost: api.ok.test\r\n\r\n", seconds=8)
    assert b"hello from api.ok.test" in idle.data
    lab.wait_for("egress_cap_exceeded", limit="tcp_idle_seconds", max=2)
    assert oracle.leaks({API_HTTP}, {"api.ok.test"}) == ()


@pytest.mark.parametrize(("mode", "allow"), [("strict", [".sfx.test"]), ("guarded", [])])
def test_a_tunnel_through_names_is_slowed_down(
    internet: Internet, oracle: Oracle, workspace: MakeWorkspace, mode: str, allow: list[str]
) -> None:
    lab = workspace(mode, allow=allow, limits=Limits(dns_new_names_per_minute=20, dns_queries_per_second=1000))
    assert "status: NOERROR" in lab.guest.dig("www.sfx.test")

    def tunnel() -> list[int]:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(5)
            sock.connect((str(GATEWAY.ip), 53))
            codes: list[int] = []
            for number in range(60):
                sock.send(dns.message.make_query(f"secret{number}.sfx.test", "A").to_wire())
                codes.append(dns.message.from_wire(sock.recv(4096)).rcode())
            return codes

    refused = lab.guest.call(tunnel).count(dns.rcode.REFUSED)
    assert 38 <= refused <= 41  # of sixty; the bucket fills by one in three seconds
    record = lab.wait_for("egress_dns_deny", reason="new_names_exceeded")
    assert record["qname"].endswith(".sfx.test")
    arrived = {query.name for query in internet.evidence().queries if query.name.startswith("secret")}
    assert len(arrived) == 60 - refused
    # A client that asks for what it asked for before, and for other domains, notices nothing.
    assert "status: NOERROR" in lab.guest.dig("www.sfx.test")
    if mode == "guarded":
        assert "status: NOERROR" in lab.guest.dig("api.ok.test")
    assert oracle.leaks((), {".sfx.test", "api.ok.test"}) == ()


@pytest.mark.parametrize("over", ["requests", "hellos"])
@pytest.mark.parametrize(("mode", "allow"), [("strict", [".sfx.test"]), ("guarded", [])])
def test_names_in_requests_and_hellos_are_no_tunnel_either(
    internet: Internet, oracle: Oracle, workspace: MakeWorkspace, mode: str, allow: list[str], over: str
) -> None:
    """A guest need not ask for a name to have it looked up: the mediator does, for the address to dial."""
    lab = workspace(mode, allow=allow, limits=Limits(dns_new_names_per_minute=20))
    port, known = (80, "http://www.sfx.test/") if over == "requests" else (443, "https://www.sfx.test/")
    assert lab.guest.curl(known).returncode == 0
    names = [f"secret{number}.sfx.test" for number in range(60)]
    if over == "requests":
        say = [f"GET / HTTP/1.1\r\nHost: {name}\r\n\r\n".encode() for name in names]
    else:
        say = [client_hello(name) for name in names]

    def tunnel() -> None:
        for data in say:
            with suppress(OSError), socket.create_connection((world.SUFFIX, port), timeout=5) as stream:
                stream.sendall(data)
                stream.recv(1)

    lab.guest.call(tunnel)
    record = lab.wait_for("egress_deny", reason="new_names_exceeded")
    assert record["host"].endswith(".sfx.test")
    arrived = {query.name for query in internet.evidence().queries if query.name.startswith("secret")}
    assert 15 < len(arrived) < 30  # the bucket fills by one in three seconds
    asked = {record["qname"] for record in lab.records("egress_dns_allow") if record["qname"].startswith("secret")}
    assert arrived == asked
    assert lab.guest.curl(known).returncode == 0
    assert oracle.leaks({Destination("tcp", world.SUFFIX, port)}, {".sfx.test"}) == ()
