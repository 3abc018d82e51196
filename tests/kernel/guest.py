"""A Linux guest without a virtual machine: a network namespace on the far side of a workspace's tap.

How this works: QEMU reads frames from the tap's descriptor and shows them to its guest as a network card.
This does the same with a second tap, made with the same flags in a namespace of its own, and a thread that
copies frames both ways, virtio header and all, with the offloads that QEMU would switch on. So curl, dig and
sockets in the namespace are the guest, and any frame can be put on the wire with `inject`.
"""

import contextlib
import fcntl
import os
import selectors
import socket
import struct
import subprocess
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pyroute2 import IPRoute

from microagent.api.link import GATEWAY, GUEST, GUEST_MAC
from microagent.demo.namespaces import Namespace

T = TypeVar("T")

CARD = "eth0"

# linux/if_tun.h
_TUNSETIFF = 0x400454CA
_TUNGETIFF = 0x800454D2
_TUNSETOFFLOAD = 0x400454D0
_TUNGETVNETHDRSZ = 0x800454D7
_IFF_VNET_HDR = 0x4000
_KEPT_FLAGS = 0x0002 | 0x1000 | _IFF_VNET_HDR
_OFFLOADS = 0x01 | 0x02  # checksums and TCP over IPv4 segments, as a virtio card has them
_FRAME = 65536 + 256
_BATCH = 64


@dataclass(frozen=True, slots=True)
class Wire:
    """The guest's end of the wire: a descriptor that takes one frame a write, and what to put before each."""

    fd: int
    header: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """What a TCP conversation came to: `error` is "" or the exception's name, `data` all that was received."""

    error: str
    data: bytes = b""


class LinuxGuest:
    """The guest end of a workspace's tap; a context manager."""

    def __init__(self, tap: int, directory: Path, ca: bytes = b"") -> None:
        """`tap` is duplicated. `directory` gets the guest's resolv.conf and trust store, `ca` the workspace's CA."""
        self._wire = os.dup(tap)
        flags, self._header = _shape(self._wire)
        self.namespace = Namespace()
        self._card = self.namespace.run(lambda: _make_card(flags))
        for fd in (self._wire, self._card):
            os.set_blocking(fd, False)
        self.namespace.run(_configure)
        self.received: deque[bytes] = deque(maxlen=1000)  # frames from the workspace, without virtio header
        self.trust = directory / "guest-ca.pem"
        self.trust.write_bytes(ca)
        self._resolv_conf = directory / "guest-resolv.conf"
        self._resolv_conf.write_text(f"nameserver {GATEWAY.ip}\noptions timeout:1 attempts:1\n")
        self._stop, self._stopped = os.pipe()
        self._thread = threading.Thread(target=self._shuttle, name="guest", daemon=True)
        self._thread.start()

    @property
    def wire(self) -> Wire:
        """For a process that writes more than this one can."""
        return Wire(self._wire, b"\0" * self._header)

    def inject(self, frame: bytes, header: bytes = b"") -> None:
        """Put a raw Ethernet frame on the wire, as a guest with a raw socket would.

        `header` is what a driver of its own would say of the frame (struct virtio_net_hdr), by default nothing.
        """
        with contextlib.suppress(OSError):  # the tap is down, or refuses it: the frame is gone, as on any wire
            os.write(self._wire, header.ljust(self._header, b"\0") + frame)

    def run(self, *command: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run a program of the machine's in the guest, with the guest's resolv.conf."""
        script = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'
        inside = ("unshare", "--mount", "sh", "-c", script, str(self._resolv_conf), *command)
        argv = self.namespace.argv(*inside)
        return subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=60, check=False)

    def start(self, *command: str) -> "subprocess.Popen[str]":
        """As `run`, without waiting."""
        script = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'
        inside = ("unshare", "--mount", "sh", "-c", script, str(self._resolv_conf), *command)
        pipe = subprocess.PIPE
        return subprocess.Popen(self.namespace.argv(*inside), stdout=pipe, stderr=pipe, text=True)

    def curl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """curl that trusts the workspace's CA alone."""
        return self.run("curl", "-sS", "-m", "20", "--cacert", str(self.trust), *arguments)

    def dig(self, *arguments: str) -> str:
        """What dig prints; it asks the gateway unless told otherwise."""
        server = () if any(word.startswith("@") for word in arguments) else (f"@{GATEWAY.ip}",)
        return self.run("dig", "+tries=1", "+timeout=5", *server, *arguments).stdout

    def call(self, function: Callable[[], T]) -> T:
        """Run a function of the test's inside the guest."""
        return self.namespace.run(function)

    def tcp(self, address: str, port: int, send: bytes = b"", seconds: float = 5.0) -> Answer:
        """Connect, send, and read until the end or until `seconds` pass without a byte."""

        def talk() -> Answer:
            data = bytearray()
            try:
                with socket.create_connection((address, port), timeout=seconds) as stream:
                    if send:
                        stream.sendall(send)
                    while chunk := stream.recv(65536):
                        data += chunk
            except OSError as error:
                return Answer(type(error).__name__, bytes(data))
            return Answer("", bytes(data))

        return self.call(talk)

    def udp(self, address: str, port: int, send: bytes, seconds: float = 5.0) -> Answer:
        """Send one datagram and wait for an answer or an ICMP error."""

        def talk() -> Answer:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
                datagrams.settimeout(seconds)
                try:
                    datagrams.connect((address, port))
                    datagrams.send(send)
                    return Answer("", datagrams.recv(65536))
                except OSError as error:
                    return Answer(type(error).__name__)

        return self.call(talk)

    def close(self) -> None:
        """Pull the card; idempotent."""
        if self._card < 0:
            return
        os.close(self._stopped)
        self._thread.join()
        for fd in (self._card, self._wire, self._stop):
            os.close(fd)
        self._card = -1
        self.namespace.close()

    def __enter__(self) -> "LinuxGuest":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _shuttle(self) -> None:
        with selectors.DefaultSelector() as ready:
            ready.register(self._wire, selectors.EVENT_READ, self._card)
            ready.register(self._card, selectors.EVENT_READ, self._wire)
            ready.register(self._stop, selectors.EVENT_READ)
            while True:
                for key, _ in ready.select():
                    if key.data is None:
                        return
                    if not self._copy(key.fd, key.data):
                        ready.unregister(key.fd)

    def _copy(self, source: int, target: int) -> bool:
        """Up to a batch of frames; False when the source is no more."""
        for _ in range(_BATCH):
            try:
                frame = os.read(source, _FRAME)
            except BlockingIOError:
                return True
            except OSError:
                return False
            if source == self._wire:
                self.received.append(frame[self._header :])
            with contextlib.suppress(OSError):  # the other side is down, or its queue full: as on any wire
                os.write(target, frame)
        return True


def _shape(tap: int) -> tuple[int, int]:
    """(flags, length of the virtio header) of a tap; also switches on what QEMU would."""
    request = fcntl.ioctl(tap, _TUNGETIFF, bytes(40))
    flags = struct.unpack_from("=H", request, 16)[0] & _KEPT_FLAGS
    if not flags & _IFF_VNET_HDR:
        return flags, 0
    fcntl.ioctl(tap, _TUNSETOFFLOAD, _OFFLOADS)
    (length,) = struct.unpack("=i", fcntl.ioctl(tap, _TUNGETVNETHDRSZ, bytes(4)))
    return flags, length


def _make_card(flags: int) -> int:
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    fcntl.ioctl(fd, _TUNSETIFF, struct.pack("=16sH22x", CARD.encode(), flags))
    if flags & _IFF_VNET_HDR:
        fcntl.ioctl(fd, _TUNSETOFFLOAD, _OFFLOADS)
    return fd


def _configure() -> None:
    # The guest says nothing that the test did not make it say.
    Path("/proc/sys/net/ipv6/conf/all/disable_ipv6").write_text("1")
    with IPRoute() as kernel:
        index = kernel.link_lookup(ifname=CARD)[0]
        kernel.link("set", index=index, address=GUEST_MAC)
        kernel.addr("add", index=index, address=str(GUEST.ip), prefixlen=GUEST.network.prefixlen)
        kernel.link("set", index=index, state="up")
        kernel.route("add", dst="0.0.0.0/0", gateway=str(GATEWAY.ip))
