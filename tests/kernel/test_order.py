"""The record comes first: killed at any moment, with the disk full or read-only, nothing leaves that is not on record.

`python -m tests.kernel.test_order 200` kills two hundred times.
"""

import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from pathlib import Path

import dns.message
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.kernel.conftest import MakeWorkspace
from tests.kernel.workspace import Workspace
from tests.waiting import wait_for

from microagent.api.link import GATEWAY
from microagent.audit import chain
from microagent.audit.chain import head
from microagent.audit.verify import LogFile, verify
from microagent.demo import world
from microagent.demo.internet import Internet

pytestmark = pytest.mark.kernel

wait_until = partial(wait_for, looks=200, apart=0.05)

KILLS = 25
# Nothing that could be the beginning of TLS or HTTP, so that it is decided at once.
CANARY = b"\0canary"
_FIRST_PORT = 2000
_PORTS = 60000 - _FIRST_PORT


class Load:
    """A guest that never stops: connections, datagrams and questions, each to a port or a name of its own."""

    def __init__(self, lab: Workspace, workers: int = 3) -> None:
        self._lab = lab
        self._over = threading.Event()
        self._number = 0
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=lab.guest.call, args=(self._work,)) for _ in range(workers)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while not self._over.is_set():
            with self._lock:
                self._number += 1
                number = self._number
            with suppress(OSError):
                port = _FIRST_PORT + number % _PORTS
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
                    datagrams.sendto(CANARY, (world.EVIL, port))
                    question = dns.message.make_query(f"canary{number}.evil.test", "A")
                    datagrams.sendto(question.to_wire(), (str(GATEWAY.ip), 53))
                with socket.create_connection((world.EVIL, port), timeout=0.2) as stream:
                    stream.settimeout(0.2)
                    stream.sendall(CANARY)
                    stream.recv(1)


def unrecorded(internet: Internet, lab: Workspace) -> tuple[set[str], int]:
    """What reached a server without a record that allows it; and how much did reach them."""
    recorded = {f"{r['event']} {r['dst']}" for r in lab.records("egress_allow", "egress_udp_allow")}
    recorded |= {f"dns {record['qname']}" for record in lab.records("egress_dns_allow")}
    events = {"tcp": "egress_allow", "udp": "egress_udp_allow"}
    evidence = internet.evidence()
    seen = {f"{events[s.proto]} {s.dst}:{s.port}" for s in evidence.canary}
    seen |= {f"dns {query.name}" for query in evidence.queries}
    return seen - recorded, len(seen)


def kill_at_random(internet: Internet, lab: Workspace, kills: int) -> int:
    """How much left, all of it on record; the log is one chain."""
    chance = random.Random(kills)
    with Load(lab):
        for _ in range(kills):
            time.sleep(chance.uniform(0.0, 0.25))
            os.kill(lab.mediator.pid, signal.SIGKILL)
            lab.spawn_mediator()
        time.sleep(0.3)
    lab.room.call(lab.mediator.stop())
    leaked, seen = unrecorded(internet, lab)
    assert leaked == set()
    assert len(lab.records("gap")) == kills
    link: str | None = chain.START
    for line in lab.log.read_bytes().splitlines():
        link = chain.check(link or "", line)
    assert link is not None
    return seen


def test_killed_at_random_under_load(internet: Internet, workspace: MakeWorkspace) -> None:
    assert kill_at_random(internet, workspace("guarded"), KILLS) > KILLS


# --- a disk that takes nothing more


class Disk:
    """A small disk, mounted for the log alone."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def fill(self) -> None:
        """Leave no room at all."""
        with (self.directory / "filler").open("wb", buffering=0) as filler, suppress(OSError):
            for size in (65536, 512, 1):
                with suppress(OSError):
                    while filler.write(bytes(size)):
                        pass

    def free(self) -> None:
        """Give it back."""
        (self.directory / "filler").unlink()


@contextmanager
def mounted(directory: Path, *options: str) -> Iterator[Disk]:
    directory.mkdir()
    subprocess.run(["mount", *options, str(directory)], check=True)
    try:
        yield Disk(directory)
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


def attempt(lab: Workspace, port: int) -> None:
    lab.guest.tcp(world.EVIL, port, CANARY, seconds=0.5)


def arrived(internet: Internet, port: int) -> bool:
    return any(sighting.port == port for sighting in internet.evidence().canary)


def tried_until(internet: Internet, lab: Workspace, first: int, *, arrives: bool) -> int:
    """Try new flows until one does arrive, or does not: the next port. The deadlines are the contract's."""
    deadline = time.monotonic() + (5 if arrives else 2) + 5  # and what a busy machine takes
    port = first
    while time.monotonic() < deadline:
        attempt(lab, port)
        port += 1
        if arrived(internet, port - 1) is arrives:
            return port
    raise AssertionError(f"after {port - first} flows, still the other way")


def stops_what_is_new(internet: Internet, lab: Workspace, spoil: Callable[[], None]) -> "subprocess.Popen[str]":
    """With a disk that takes nothing: what is recorded goes on, all else ends. A download that still runs."""
    attempt(lab, 3000)
    assert arrived(internet, 3000)
    download = lab.guest.start("curl", "-sS", "-o", "/dev/null", "http://api.ok.test/slow/1000000")
    lab.wait_for("egress_allow", host="api.ok.test")
    short = lab.guest.start(
        "curl", "-sS", "--cacert", str(lab.guest.trust), "-o", "/dev/null", "https://www.sfx.test/slow/40000"
    )
    lab.wait_for("egress_allow", host="www.sfx.test")
    wait_until(lambda: any(request.host == "www.sfx.test" for request in internet.evidence().requests))
    spoil()
    port = tried_until(internet, lab, 3001, arrives=False)
    for later in range(port, port + 5):
        attempt(lab, later)
        assert not arrived(internet, later)
    # Nobody waits for an answer that does not come.
    told = lab.guest.dig("sfx.test", "+timeout=1")
    assert ("203.0.113.11" in told, "status: SERVFAIL" in told, "audit_unwritable" in told) == (False, True, True), told
    assert lab.guest.udp(world.EVIL, 5000, CANARY, seconds=2).error == "ConnectionRefusedError"
    assert download.poll() is None
    # One that ends meanwhile has all of its answer, though its request cannot be recorded any more.
    with short:
        assert short.wait(timeout=20) == 0
    leaked, seen = unrecorded(internet, lab)
    assert leaked == set()
    assert seen >= 2
    return download


def test_a_full_disk_and_then_room_again(
    internet: Internet, workspace: MakeWorkspace, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        mounted(tmp_path / "small", "-t", "tmpfs", "-o", "size=256k,mode=700", "tmpfs") as disk,
        closing(workspace("guarded", log_directory=disk.directory)) as lab,
        stops_what_is_new(internet, lab, disk.fill) as download,
    ):
        disk.free()
        assert "mediator fault" in caplog.text
        assert "OSError in journal, at " in caplog.text
        tried_until(internet, lab, 4000, arrives=True)
        assert download.poll() is None
        download.kill()
        lab.wait_for("egress_close", host="api.ok.test")
        assert unrecorded(internet, lab)[0] == set()
        # A line that had no room for its end is told of, and the chain goes on after it.
        lines = lab.log.read_bytes().splitlines()
        found = verify([LogFile("egress.jsonl", lines)], (), Ed25519PrivateKey.generate().public_key(), "seals")
        assert [fault.what for fault in found.faults] == ["there are no seals, so nothing vouches for the chain"]
        torn = [line for line in lines if head(line) is None]
        assert len(torn) == len([record for record in lab.records("gap") if record.get("torn")])


def test_a_disk_that_became_read_only(internet: Internet, workspace: MakeWorkspace, tmp_path: Path) -> None:
    """As the kernel does it with a disk that fails (ext4's errors=remount-ro), by its own switch for tests."""
    image = tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(8 << 20)
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    with mounted(tmp_path / "failing", "-o", "loop,errors=remount-ro", str(image)) as disk:
        number = disk.directory.stat().st_dev
        device = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}").resolve().name

        def fail() -> None:
            Path(f"/sys/fs/ext4/{device}/trigger_fs_error").write_text("1")
            with pytest.raises(OSError, match="Read-only"):
                (disk.directory / "x").touch()

        with (
            closing(workspace("guarded", log_directory=disk.directory)) as lab,
            stops_what_is_new(internet, lab, fail) as download,
        ):
            download.kill()


if __name__ == "__main__":
    with ExitStack() as stack:
        made_up = stack.enter_context(Internet())
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/tmp")))
        seen = kill_at_random(made_up, stack.enter_context(Workspace(made_up, home, "guarded")), int(sys.argv[1]))
        sys.stdout.write(f"{sys.argv[1]} kills, {seen} canaries, each on record\n")
