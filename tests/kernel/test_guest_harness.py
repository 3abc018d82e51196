"""The harness's own test: a guest on a plain tap talks through the shuttle, with and without virtio
headers."""

import fcntl
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyroute2 import IPRoute
from tests.kernel.guest import LinuxGuest

from microagent.api.link import GATEWAY, GATEWAY_MAC, TAP
from microagent.demo.namespaces import Namespace

pytestmark = pytest.mark.kernel

_TAP_FLAGS = {"plain": 0x1002, "virtio": 0x5002}


@pytest.fixture(params=_TAP_FLAGS)
def tap(request: pytest.FixtureRequest) -> Iterator[tuple[Namespace, int]]:
    """A tap that is up, with the gateway's address, in a namespace of its own."""
    namespace = Namespace()

    def make() -> int:
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
        fcntl.ioctl(fd, 0x400454CA, struct.pack("=16sH22x", TAP.encode(), _TAP_FLAGS[request.param]))
        with IPRoute() as kernel:
            index = kernel.link_lookup(ifname=TAP)[0]
            kernel.link("set", index=index, address=GATEWAY_MAC)
            kernel.addr("add", index=index, address=str(GATEWAY.ip), prefixlen=30)
            kernel.link("set", index=index, state="up")
        return fd

    fd = namespace.run(make)
    yield namespace, fd
    os.close(fd)
    namespace.close()


def test_frames_pass_both_ways(tap: tuple[Namespace, int], tmp_path: Path) -> None:
    namespace, fd = tap
    payload = os.urandom(1 << 20)

    def listen() -> socket.socket:
        return socket.create_server((str(GATEWAY.ip), 7000))

    with namespace.run(listen) as server, LinuxGuest(fd, tmp_path) as guest:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(payload)

        thread = threading.Thread(target=serve)
        thread.start()
        assert guest.tcp(str(GATEWAY.ip), 7000).data == payload
        thread.join()
        assert guest.tcp(str(GATEWAY.ip), 7001).error == "ConnectionRefusedError"
        assert guest.udp(str(GATEWAY.ip), 7001, b"x").error == "ConnectionRefusedError"


def test_a_frame_can_be_injected_and_the_answer_seen(tap: tuple[Namespace, int], tmp_path: Path) -> None:
    _, fd = tap
    mac = bytes.fromhex("02000a2b0002")
    ask = mac + socket.inet_aton("10.43.0.2") + bytes(6) + GATEWAY.ip.packed
    with LinuxGuest(fd, tmp_path) as guest:
        guest.inject(b"\xff" * 6 + mac + b"\x08\x06" + bytes.fromhex("0001080006040001") + ask + bytes(18))
        answers = [frame for frame in wait_for_frames(guest) if frame[12:14] == b"\x08\x06"]
        assert any(frame[20:22] == b"\x00\x02" and frame[28:32] == GATEWAY.ip.packed for frame in answers)


def wait_for_frames(guest: LinuxGuest) -> list[bytes]:
    """What the guest has received once it has received an ARP answer; bounded."""
    for _ in range(100):
        if any(frame[20:22] == b"\x00\x02" for frame in guest.received):
            break
        time.sleep(0.05)
    return list(guest.received)


def test_programs_run_with_the_guests_own_resolver(tap: tuple[Namespace, int], tmp_path: Path) -> None:
    with LinuxGuest(tap[1], tmp_path) as guest:
        assert guest.run("cat", "/etc/resolv.conf").stdout.startswith(f"nameserver {GATEWAY.ip}")
        assert "10.43.0.2/30" in guest.run("ip", "-4", "addr").stdout
    assert str(GATEWAY.ip) not in Path("/etc/resolv.conf").read_text()
