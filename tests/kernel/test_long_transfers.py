"""What is large or lasts long passes as it comes: nothing of it is kept, and no deadline of the beginning ends it."""

import socket
import ssl
from pathlib import Path

import pytest
from tests.kernel.conftest import MakeWorkspace
from tests.kernel.workspace import Workspace

from microagent.api.limits import Limits
from microagent.demo import world
from microagent.demo.internet import Internet
from microagent.demo.oracle import Destination, Oracle

pytestmark = pytest.mark.kernel

NAME = "api.ok.test"
TLS = Destination("tcp", world.API, 443)
SIZE = 100_000_000
# Far less than was sent, and more than a mediator's buffers: two sides of 256 KiB, OpenSSL's, Python's own.
_GROWTH = 24_000


def most_memory(lab: Workspace) -> int:
    """The largest size that the mediator has had so far, in KiB."""
    status = Path(f"/proc/{lab.mediator.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


def open_request(lab: Workspace, head: bytes) -> ssl.SSLSocket:
    """A TLS connection of the guest's, the head of a request said."""
    plain = lab.guest.call(lambda: socket.create_connection((world.API, 443), timeout=30))
    tls = ssl.create_default_context(cafile=str(lab.guest.trust)).wrap_socket(plain, server_hostname=NAME)
    tls.sendall(head)
    return tls


def test_an_upload_and_a_download_are_never_held(internet: Internet, oracle: Oracle, workspace: MakeWorkspace) -> None:
    lab = workspace(allow=[NAME])
    assert lab.guest.curl(f"https://{NAME}/bytes/1000000", "-o", "/dev/null").returncode == 0
    before = most_memory(lab)
    large = lab.directory / "large"
    with large.open("wb") as file:
        file.truncate(SIZE)
    up = lab.guest.curl("-X", "POST", "-T", str(large), f"https://{NAME}/sink")
    assert f'"length": {SIZE}' in up.stdout, up
    down = lab.guest.curl("-o", "/dev/null", "-w", "%{size_download}", f"https://{NAME}/bytes/{SIZE}")
    assert down.stdout == str(SIZE), down
    with open_request(lab, f"GET /bytes/{SIZE} HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n".encode()) as slow:
        got = len(slow.recv(1000))
        # One that does not read: others are served meanwhile, and what it does not take stays with the server.
        for _ in range(3):
            assert lab.guest.curl(f"https://{NAME}/").stdout == f"hello from {NAME}\n"
        assert most_memory(lab) - before < _GROWTH
        while piece := slow.recv(1 << 20):
            got += len(piece)
    assert got > SIZE
    assert most_memory(lab) - before < _GROWTH
    assert lab.wait_for("egress_request", path="/sink")["bytes_out"] > SIZE
    assert {r["bytes_in"] > SIZE for r in lab.records("egress_request") if r["path"] == f"/bytes/{SIZE}"} == {True}
    assert oracle.leaks({TLS}, {NAME}) == ()


def test_a_stream_outlives_the_deadlines_of_its_beginning(
    internet: Internet, oracle: Oracle, workspace: MakeWorkspace
) -> None:
    limits = Limits(sniff_seconds=2, dial_seconds=2, tls_handshake_seconds=2)
    lab = workspace(allow=[NAME], limits=limits)
    size = 100 * 1024  # for at least five seconds
    stream = lab.guest.curl(
        "-N", "-o", "/dev/null", "-w", "%{size_download} %{time_total}", f"https://{NAME}/slow/{size}"
    )
    came, seconds = stream.stdout.split()
    assert int(came) == size
    assert float(seconds) > 2 * limits.sniff_seconds
    assert oracle.leaks({TLS}, {NAME}) == ()
