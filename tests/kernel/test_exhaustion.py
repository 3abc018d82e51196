"""A guest that takes all there is of something: it alone goes without, nobody is let out, and then all is well."""

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from tests.kernel.conftest import MakeWorkspace
from tests.kernel.workspace import UID, Workspace

from microagent.api.limits import Limits
from microagent.demo import world
from microagent.demo.internet import UPLINK, Internet
from microagent.demo.oracle import Destination, Oracle

pytestmark = pytest.mark.kernel

HELLO = "hello from api.ok.test\n"
API_HTTP, SUFFIX_HTTP = Destination("tcp", world.API, 80), Destination("tcp", world.SUFFIX, 80)
# What a client says that never comes to the point: a record of TLS, a request, one byte of something.
BEGINNINGS = (b"\x16\x03\x01\x02\x00\x01\x00", b"GET / HTTP/1.1\r\nHost: api", b"x")


@contextmanager
def held(lab: Workspace, count: int, send: tuple[bytes, ...]) -> Iterator[list[socket.socket]]:
    """So many connections of the guest's to the API, each with a beginning."""
    with ExitStack() as stack:

        def connect() -> list[socket.socket]:
            found = []
            for number in range(count):
                stream = stack.enter_context(socket.create_connection((world.API, 80), timeout=10))
                stream.sendall(send[number % len(send)])
                found.append(stream)
            return found

        yield lab.guest.call(connect)


def ended(stream: socket.socket) -> bool:
    """Whether the other side has ended it, within ten seconds."""
    try:
        while stream.recv(65536):
            pass
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False
    return True


def limit_descriptors(pid: int, count: int) -> None:
    """As the mediator's own user, since even root may lack the capability to do it to others."""
    user = ("setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups")
    subprocess.run([*user, "prlimit", f"--pid={pid}", f"--nofile={count}:"], check=True)


def served(lab: Workspace) -> bool:
    """Whether a page comes, perhaps only after a while."""
    for _ in range(100):
        if lab.guest.curl("http://api.ok.test/").stdout == HELLO:
            return True
        time.sleep(0.1)
    return False


def test_clients_that_never_come_to_the_point_are_turned_away(oracle: Oracle, workspace: MakeWorkspace) -> None:
    neighbour = workspace(name="neighbour", allow=["api.ok.test"])
    lab = workspace(allow=["api.ok.test"], limits=Limits(connections=30, sniff_seconds=3))
    assert lab.guest.curl("http://api.ok.test/").stdout == HELLO
    with held(lab, 30, BEGINNINGS) as slow:
        # One over the limit is reset at once, and not left to wait.
        assert [lab.guest.tcp(world.API, 80, BEGINNINGS[0]).error for _ in range(10)] == ["ConnectionResetError"] * 10
        lab.wait_for("egress_cap_exceeded", limit="connections", max=30)
        assert neighbour.guest.curl("http://api.ok.test/").stdout == HELLO
        # Nor does anybody of them stay longer than the name may take.
        assert all(map(ended, slow))
    assert served(lab)
    assert sum(record["count"] for record in lab.records("egress_cap_exceeded")) >= 10
    assert not lab.records("mediator_down", "gap")
    assert oracle.leaks({API_HTTP}, {"api.ok.test"}) == ()


def test_a_mediator_without_descriptors_opens_nothing_and_recovers(oracle: Oracle, workspace: MakeWorkspace) -> None:
    neighbour = workspace(name="neighbour", allow=["api.ok.test"])
    lab = workspace(allow=["api.ok.test"])
    assert lab.guest.curl("http://api.ok.test/").stdout == HELLO
    pid = lab.mediator.pid
    opened = max(int(fd.name) for fd in Path(f"/proc/{pid}/fd").iterdir()) + 1
    with held(lab, 1, BEGINNINGS[1:2]):
        limit_descriptors(pid, opened + 4)
        with held(lab, 20, BEGINNINGS[1:2]):
            # The kernel has taken them all; the mediator can take none of the last.
            assert lab.guest.curl("-m", "2", "http://api.ok.test/").stdout == ""
            assert neighbour.guest.curl("http://api.ok.test/").stdout == HELLO
            assert lab.guest.tcp(world.EVIL, 80, b"GET / HTTP/1.1\r\nHost: evil.test\r\n\r\n", seconds=1).data == b""
    # Its clients have gone: it goes on by itself, with no more descriptors than before.
    assert served(lab)
    assert lab.mediator.pid == pid
    assert not lab.records("mediator_down", "gap")
    assert oracle.leaks({API_HTTP}, {"api.ok.test"}) == ()


def test_without_ports_towards_one_server_the_others_are_reached(
    internet: Internet, oracle: Oracle, workspace: MakeWorkspace
) -> None:
    lab = workspace(allow=["api.ok.test", "sfx.test"])
    ports = Path("/proc/sys/net/ipv4/ip_local_port_range")
    internet.host.run(lambda: ports.write_text("40000 40007"))
    endless = (b"GET /slow/1000000 HTTP/1.1\r\nHost: api.ok.test\r\n\r\n",)
    try:
        lab.guest.dig("api.ok.test")
        with held(lab, 12, endless):
            record = lab.wait_for("egress_dial_error", dst=f"{world.API}:80")
            answer = lab.guest.curl("-i", "http://api.ok.test/").stdout
            assert answer.startswith("HTTP/1.1 502"), answer
            assert "dial_failed" in answer
            assert lab.guest.curl("http://sfx.test/").stdout == "hello from sfx.test\n", record
    finally:
        internet.host.run(lambda: ports.write_text("32768 60999"))
    assert served(lab)
    assert oracle.leaks({API_HTTP, SUFFIX_HTTP}, {"api.ok.test", "sfx.test"}) == ()


def test_an_uplink_that_goes_and_comes_back(internet: Internet, oracle: Oracle, workspace: MakeWorkspace) -> None:
    lab = workspace(allow=["api.ok.test"])
    assert lab.guest.curl("http://api.ok.test/").stdout == HELLO

    def ip(*words: str) -> None:
        subprocess.run(internet.host.argv("ip", *words), check=True, capture_output=True)

    ip("link", "set", UPLINK, "down")
    try:
        answer = lab.guest.curl("-i", "http://api.ok.test/").stdout
        assert answer.startswith("HTTP/1.1 502"), answer
        lab.wait_for("egress_dial_error", host="api.ok.test")
        assert lab.guest.tcp(world.EVIL, 443, b"SSH-2.0-x\r\n").error
    finally:
        ip("link", "set", UPLINK, "up")
        ip("route", "add", "default", "via", world.ROUTER)
    assert served(lab)
    assert not lab.records("mediator_down", "gap")
    assert oracle.leaks({API_HTTP}, {"api.ok.test"}) == ()
