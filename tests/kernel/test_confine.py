"""What a mediator that has been taken over could still do: as itself, after all four stages, and before them."""

import ctypes
import errno
import fcntl
import json
import mmap
import os
import socket
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from microagent.mediator.confine import confine

pytestmark = pytest.mark.kernel

UID = 61234
_SYS_FCNTL = 72  # x86-64


def _open(domain: int, kind: int = socket.SOCK_DGRAM, protocol: int = 0) -> None:
    socket.socket(domain, kind, protocol).close()


def _connect_to(path: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
        stream.connect(path)


def _overwrite_by_position(log: int) -> None:
    fcntl.fcntl(log, fcntl.F_SETFL, 0)
    os.lseek(log, 0, os.SEEK_SET)
    os.write(log, b"f")


def _overwrite_by_a_long_word(log: int) -> None:
    # fcntl(2) reads the lower half of its command, seccomp's rules all of it.
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(_SYS_FCNTL, log, ctypes.c_long(1 << 32 | fcntl.F_SETFL), ctypes.c_long(0)) < 0:
        raise OSError(ctypes.get_errno(), "fcntl")
    os.lseek(log, 0, os.SEEK_SET)
    os.write(log, b"f")


def _overwrite_by_mapping(log: int) -> None:
    with mmap.mmap(log, 0) as mapped:
        mapped[:1] = b"f"


def _overwrite_by_name(log: int) -> None:
    with Path(f"/proc/self/fd/{log}").open("r+b", buffering=0) as again:
        again.write(b"f")


REWRITINGS: dict[str, Callable[[int], None]] = {
    "by position": _overwrite_by_position,
    "by a command of 64 bits": _overwrite_by_a_long_word,
    "by a mapping": _overwrite_by_mapping,
    "by its name": _overwrite_by_name,
}

ATTEMPTS: dict[str, Callable[[Path], object]] = {
    "an internet socket": lambda _: _open(socket.AF_INET),
    "an IPv6 socket": lambda _: _open(socket.AF_INET6),
    "a unix socket": lambda _: _open(socket.AF_UNIX),
    "a netlink socket": lambda _: _open(socket.AF_NETLINK, socket.SOCK_RAW),
    "a packet socket": lambda _: _open(socket.AF_PACKET, socket.SOCK_RAW),
    "a raw socket": lambda _: _open(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
    "the host's services": lambda place: _connect_to(str(place / "service")),
    "a file that all may read": lambda place: (place / "readable").read_bytes(),
    "a new file": lambda place: (place / "new").write_bytes(b""),
    "a program": lambda _: os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0),
    "another process": lambda _: os.kill(os.getppid(), 0),
    "another uid": lambda _: os.setuid(0),
}
LEFT = {"an internet socket", "an IPv6 socket"}


def attempts(place: Path) -> dict[str, int]:
    """For each attempt 0, or the error it ended with."""
    found = {}
    for name, attempt in ATTEMPTS.items():
        try:
            attempt(place)
            found[name] = 0
        except OSError as error:
            found[name] = error.errno or -1
    return found


def in_a_child(place: Path, *, confined: bool) -> dict[str, int]:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            if confined:
                confine(UID, 64)
            os.write(writing, json.dumps(attempts(place)).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        found: dict[str, int] = json.loads(answer.read())
    os.waitpid(pid, 0)
    return found


def test_only_the_internet_is_left_to_a_confined_process() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as directory, socket.socket(socket.AF_UNIX) as service:
        place = Path(directory)
        place.chmod(0o777)
        (place / "readable").write_bytes(b"x")
        service.bind(str(place / "service"))
        service.listen()
        (place / "service").chmod(0o777)
        assert in_a_child(place, confined=False) == dict.fromkeys(ATTEMPTS, 0)
        (place / "new").unlink()
        after = in_a_child(place, confined=True)
    assert {name for name, code in after.items() if code == 0} == LEFT
    assert set(after.values()) <= {0, errno.EPERM, errno.EACCES}


@pytest.mark.parametrize("how", REWRITINGS)
def test_a_confined_process_writes_its_log_at_the_end_and_nowhere_else(tmp_path: Path, how: str) -> None:
    log = tmp_path / "log"
    written = {}
    for confined in (False, True):
        log.write_bytes(b"the truth\n")
        descriptor = os.open(log, os.O_RDWR | os.O_APPEND)
        pid = os.fork()
        if pid == 0:
            try:
                if confined:
                    confine(UID, 64)
                with suppress(OSError):
                    REWRITINGS[how](descriptor)
                os.write(descriptor, b"more\n")
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        os.close(descriptor)
        written[confined] = log.read_bytes()
    assert written[True] == b"the truth\nmore\n"
    # The control: root without those bounds could.
    assert written[False].startswith(b"f")
