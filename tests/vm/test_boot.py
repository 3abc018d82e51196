"""A real guest under a real QEMU: how commands run in it, how they end, and what stays.

The rest of a workspace (steering, mediator, egress) is not here: these guests have no network, but for the one
that pings its gateway over a tap.
"""

import asyncio
import datetime
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from microagent.api.link import GATEWAY, GUEST, GUEST_MAC
from microagent.errors import HostError
from microagent.guests.accelerator import Accelerator, measure_tsc_khz
from microagent.guests.bootdisk import make_bootdisk
from microagent.guests.disk import make_overlay
from microagent.guests.guest import KILLED, STDERR, STDOUT, Stillborn
from microagent.guests.image import Image, ImageStore
from microagent.guests.qemu import Guest, GuestSpec, adopt_guest, start_guest

pytestmark = pytest.mark.vm

BUILD = Path(__file__).parents[2] / "vm_fixtures/build"
GUEST_DIR = Path("/var/cache/microagent/guest")
NOBODY = 65534
RESOLV_CONF = f"nameserver {GATEWAY.ip}\noptions timeout:1 attempts:1\n"


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> ImageStore:
    subprocess.run([BUILD, "--out", GUEST_DIR], check=True)
    return ImageStore(tmp_path_factory.mktemp("images"), GUEST_DIR / "images")


@pytest.fixture(scope="session")
def ca_pem() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "the workspace's own CA")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


@pytest.fixture
def busybox_root(tmp_path: Path) -> Path:
    """An image that is busybox and little else."""
    root = tmp_path / "busybox"
    (root / "bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin/busybox")
    for applet in ("sh", "cat", "echo", "env", "id", "ls", "pwd", "readlink"):
        (root / "bin" / applet).symlink_to("busybox")
    return root


@dataclass
class Outcome:
    """What came of a command: `chunks` as they came."""

    code: int
    chunks: list[tuple[int, bytes]]

    def text(self, stream: int = STDOUT) -> str:
        return b"".join(data for number, data in self.chunks if number == stream).decode()


@dataclass
class Workspace:
    """Boots guests in one directory with one overlay, and ends those that a test leaves."""

    directory: Path
    store: ImageStore
    guests: list[Guest] = field(default_factory=list)
    image: Image | None = None

    async def start(
        self,
        *command: str,
        ref: str = "base",
        env: Mapping[str, str] | None = None,
        workdir: str = "/",
        ca: bytes = b"",
        user: str = "",
        tap: int | None = None,
        accelerator: Accelerator | None = None,
    ) -> Guest:
        self.image = await self.store.resolve(ref)
        overlay = self.directory / "overlay.ext4"
        if not overlay.exists():
            await make_overlay(overlay, 1024)
        disk = make_bootdisk(
            list(command), env or {}, workdir, "boot-test", ca, RESOLV_CONF, self.image.config.env, user
        )
        spec = GuestSpec(
            kernel=GUEST_DIR / "vmlinux",
            initramfs=GUEST_DIR / "initramfs",
            rootfs=self.image.rootfs,
            overlay=overlay,
            bootdisk=disk,
            tap_fd=tap,
            mac=GUEST_MAC,
            memory_mib=256,
            cpus=1,
            uid=NOBODY,
            gid=NOBODY,
            directory=self.directory,
            sockets=self.directory,
            accelerator=accelerator,
        )
        while True:
            guest = await start_guest(spec)
            self.guests.append(guest)
            if accelerator or not await _stillborn(guest):
                return guest

    async def run(self, *command: str, stdin: bytes = b"", ref: str = "base", **settings: object) -> Outcome:
        guest = await self.start(*command, ref=ref, **settings)  # type: ignore[arg-type]
        await guest.stdin.write(stdin)
        await guest.stdin.eof()
        chunks = [item async for item in guest.output]
        return Outcome(await guest.wait(), chunks)


async def _stillborn(guest: Guest) -> bool:
    """Whether it ended before it began, as one may on a busy machine; the agent starts another then, and so do we."""
    ready, ended = asyncio.create_task(guest.ready.wait()), asyncio.create_task(guest.wait())
    await asyncio.wait([ready, ended], return_when=asyncio.FIRST_COMPLETED)
    ready.cancel()
    return ended.cancel() is False and isinstance(ended.exception(), Stillborn)


@pytest_asyncio.fixture
async def workspace(tmp_path: Path, store: ImageStore) -> AsyncIterator[Workspace]:
    directory = tmp_path / "workspace"
    directory.mkdir()
    workspace = Workspace(directory, store)
    yield workspace
    for guest in workspace.guests:
        guest.kill()
        async for _ in guest.output:
            pass
    # One that was adopted is no child of its guest's: somebody else reaps it, a moment later.
    for _ in range(100):
        left = [guest.pid for guest in workspace.guests if Path(f"/proc/{guest.pid}").exists()]
        if not left:
            return
        await asyncio.sleep(0.05)
    assert not left


@pytest.mark.asyncio
async def test_a_command_has_its_streams_its_surroundings_and_its_exit_code(workspace: Workspace) -> None:
    script = """
        echo to stdout; echo to stderr >&2; echo again > /dev/stdout
        pwd; hostname; cat /etc/resolv.conf; echo "$GREETING"; env | grep -c CERT
        test -z "$PWN" && exit 42
    """
    env = {"GREETING": 'it\'s a "test"\n$(reboot) \\', "not.a-shell-name": "1"}
    outcome = await workspace.run("sh", "-c", script, env=env, workdir="/made/by init")
    assert outcome.text(STDERR) == "to stderr\n"
    expected = f"to stdout\nagain\n/made/by init\nboot-test\n{RESOLV_CONF}{env['GREETING']}\n0\n"
    assert outcome.text() == expected
    assert outcome.code == 42


@pytest.mark.asyncio
async def test_stdin_arrives_whole_and_ends(workspace: Workspace) -> None:
    sent = os.urandom(3 << 20)
    guest = await workspace.start("cat")

    async def feed() -> None:
        for start in range(0, len(sent), 100_000):
            await guest.stdin.write(sent[start : start + 100_000])
        await guest.stdin.eof()

    feeding = asyncio.create_task(feed())
    received = b"".join([data async for stream, data in guest.output if stream == STDOUT])
    await feeding
    assert received == sent
    assert await guest.wait() == 0


@pytest.mark.asyncio
async def test_output_streams_as_it_comes(workspace: Workspace) -> None:
    guest = await workspace.start("sh", "-c", "echo ask; read answer; echo got $answer; kill -TERM $$")
    output = guest.output
    assert await anext(output) == (STDOUT, b"ask\n")
    await guest.stdin.write(b"this\n")
    assert await anext(output) == (STDOUT, b"got this\n")
    assert await guest.wait() == 128 + 15


@pytest.mark.asyncio
async def test_a_slow_reader_loses_nothing(workspace: Workspace) -> None:
    guest = await workspace.start("sh", "-c", "head -c 9000000 /dev/zero; echo -n end >&2")
    await guest.ready.wait()
    await asyncio.sleep(1)
    chunks = [item async for item in guest.output]
    assert sum(len(data) for stream, data in chunks if stream == STDOUT) == 9_000_000
    assert [data for stream, data in chunks if stream == STDERR] == [b"end"]
    assert await guest.wait() == 0


@pytest.mark.asyncio
async def test_what_is_not_there_is_127_as_in_a_shell(workspace: Workspace) -> None:
    outcome = await workspace.run("no-such-command", "argument")
    assert (outcome.code, outcome.text()) == (127, "")
    assert "no-such-command: command not found" in outcome.text(STDERR)


@pytest.mark.asyncio
async def test_an_idle_guest_shuts_down_when_asked(workspace: Workspace) -> None:
    guest = await workspace.start()
    await guest.ready.wait()
    assert await guest.shutdown(5)
    assert await guest.wait() == 0


@pytest.mark.asyncio
async def test_a_guest_goes_on_without_its_agent_and_is_found_again(workspace: Workspace) -> None:
    """The lines of the first agent end, as when it is killed; the second one has the streams, and the exit code."""
    guest = await workspace.start("sh", "-c", "echo before; read line; echo got $line; read end || exit 7")
    output = guest.output
    assert await anext(output) == (STDOUT, b"before\n")
    await guest.abandon()

    second = await adopt_guest(guest.pid, workspace.directory, workspace.directory)
    workspace.guests = [second]
    await second.stdin.write(b"me\n")
    output = second.output
    assert await anext(output) == (STDOUT, b"got me\n")
    await second.stdin.eof()
    assert await second.wait() == 7


@pytest.mark.asyncio
async def test_an_exit_code_waits_for_the_next_agent(workspace: Workspace) -> None:
    guest = await workspace.start("sh", "-c", "echo before; read line; sleep 1; exit 9")
    assert await anext(guest.output) == (STDOUT, b"before\n")
    await guest.stdin.write(b"go\n")
    await asyncio.sleep(0.5)
    await guest.abandon()
    await asyncio.sleep(2)
    second = await adopt_guest(guest.pid, workspace.directory, workspace.directory)
    workspace.guests = [second]
    assert await second.wait() == 9


@pytest.mark.asyncio
async def test_shutdown_is_term_then_kill(workspace: Workspace) -> None:
    guest = await workspace.start(
        "sh", "-c", "trap 'echo asked; sleep 600' TERM; echo ready; while :; do sleep 1; done"
    )
    output = guest.output
    assert await anext(output) == (STDOUT, b"ready\n")
    ending = asyncio.create_task(guest.shutdown(2))
    assert [data async for _, data in output] == [b"asked\n"]
    assert await ending
    assert await guest.wait() == KILLED


@pytest.mark.asyncio
async def test_kill_ends_it_at_once(workspace: Workspace) -> None:
    guest = await workspace.start("sleep", "600")
    guest.kill()
    assert await guest.wait() == KILLED


@pytest.mark.asyncio
async def test_changes_stay_in_the_overlay_and_out_of_the_image(workspace: Workspace) -> None:
    first = await workspace.run(
        "sh", "-c", "echo kept > /root/file; rm /etc/debian_version; sleep 600 & echo left behind"
    )
    assert (first.code, first.text()) == (0, "left behind\n")
    assert workspace.image
    image = workspace.image.rootfs
    before = image.stat().st_mtime_ns
    second = await workspace.run(
        "sh", "-c", "cat /root/file; test ! -e /etc/debian_version; echo $?; echo x > /dev/vda"
    )
    assert second.text() == "kept\n0\n"
    assert second.code != 0
    assert image.stat().st_mtime_ns == before


@pytest.mark.asyncio
async def test_the_ca_is_trusted_by_bundle_by_directory_and_by_environment(workspace: Workspace, ca_pem: bytes) -> None:
    (workspace.directory / "ca.pem").write_bytes(ca_pem)
    script = """
        set -e
        openssl verify -x509_strict /run/microagent/ca.pem
        env -u SSL_CERT_FILE openssl verify -no-CAfile /run/microagent/ca.pem
        openssl verify -no-CApath -CAfile /etc/ssl/certs/ca-certificates.crt /run/microagent/ca.pem
        grep -c 'microagent CA begin' /etc/ssl/certs/ca-certificates.crt
        cat /usr/local/share/ca-certificates/microagent.crt
        test "$(grep -c BEGIN "$REQUESTS_CA_BUNDLE")" -gt 100
        cmp "$NODE_EXTRA_CA_CERTS" /run/microagent/ca.pem
    """
    for _ in range(2):  # the second boot finds what the first one left
        outcome = await workspace.run("sh", "-c", script, ca=ca_pem)
        assert outcome.text() == "/run/microagent/ca.pem: OK\n" * 3 + "1\n" + ca_pem.decode()
        assert outcome.code == 0, outcome.text(STDERR)


@pytest.mark.asyncio
async def test_an_image_full_of_traps_boots_all_the_same(
    workspace: Workspace, busybox_root: Path, ca_pem: bytes
) -> None:
    etc = busybox_root / "etc"
    (etc / "ssl").mkdir(parents=True)
    (etc / "ssl/certs").symlink_to("../../../nowhere/certs")
    (etc / "resolv.conf").symlink_to("../run/systemd/resolve/stub-resolv.conf")
    (etc / "hosts").mkdir()
    (etc / "hostname").symlink_to("/proc/sysrq-trigger")
    (etc / "ssl/cert.pem").symlink_to("loop")
    (etc / "ssl/loop").symlink_to("cert.pem")
    for name in ("proc", "dev", "tmp"):
        (busybox_root / name).symlink_to("/nowhere")
    (busybox_root / "sys").write_text("not a directory")
    (busybox_root / "run").symlink_to("/bin")
    (busybox_root / "init").write_text("#!/bin/sh\necho the image's init ran; exit 1\n")
    (busybox_root / "init").chmod(0o755)
    outcome = await workspace.run(
        "/bin/busybox",
        "sh",
        "-c",
        "cat /etc/resolv.conf /etc/hosts; ls /run /proc/self/cwd/sys",
        ref=str(busybox_root),
        ca=ca_pem,
    )
    assert outcome.text(STDERR) == ""
    assert outcome.text().startswith(f"{RESOLV_CONF}127.0.0.1\tlocalhost\n{GUEST.ip}\tboot-test\n")
    assert outcome.code == 0


@pytest.mark.asyncio
async def test_the_user_of_an_image_runs_its_command(workspace: Workspace, busybox_root: Path) -> None:
    (busybox_root / "etc").mkdir()
    (busybox_root / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nworker:x:1234:77::/home/worker:/bin/sh\n")
    (busybox_root / "etc/group").write_text("root:x:0:\nstaff:x:77:\nmore:x:78:worker\n")
    ref = str(busybox_root)
    command = ("sh", "-c", "id -u; id -g; id -G; echo $HOME; echo fine > /dev/stderr; pwd > file; cat file")
    named = await workspace.run(*command, ref=ref, user="worker", workdir="/srv")
    assert named.text() == "1234\n77\n77 78\n/home/worker\n/srv\n"
    assert named.text(STDERR) == "fine\n"
    numeric = await workspace.run(*command, ref=ref, user="4711:78", workdir="/work")
    assert numeric.text() == "4711\n78\n78\n/\n/work\n"
    unknown = await workspace.run(*command, ref=ref, user="stranger")
    assert (unknown.code, unknown.text(STDERR)) == (126, 'microagent: the image has no user "stranger"\n')


@pytest.mark.asyncio
async def test_a_guest_that_dies_says_why(workspace: Workspace) -> None:
    outcome = asyncio.create_task(workspace.run("sh", "-c", "echo c > /proc/sysrq-trigger"))
    with pytest.raises(HostError) as error:
        await outcome
    assert error.value.what == "the guest ended unexpectedly"
    assert "Kernel Offset" in error.value.hint or "panic" in error.value.hint


@pytest.mark.asyncio
@pytest.mark.parametrize("factor", [0.5, 2])
async def test_a_guest_whose_timer_is_measured_wrongly_ends_before_it_begins(
    workspace: Workspace, factor: float
) -> None:
    """On a busy machine its processor may stand still meanwhile; here it is told a wrong clock to measure by."""
    wrong = Accelerator(kvm=False, tsc_khz=int(factor * measure_tsc_khz()))
    guest = await workspace.start("echo", "ran", accelerator=wrong)
    with pytest.raises(Stillborn):
        await guest.wait()
    # What it is told by itself is right, though its own kernel may still go wrong: `start` tries again then.
    right = await workspace.start("echo", "ran")
    assert await right.wait() == 0


@pytest.mark.asyncio
async def test_its_clock_runs_with_ours(workspace: Workspace) -> None:
    guest = await workspace.start("sh", "-c", "date +%s.%N; sleep 3; date +%s.%N")
    readings = [(float(data), time.time()) async for _, data in guest.output]
    (guest_first, host_first), (guest_last, host_last) = readings
    assert abs(guest_first - host_first) < 5  # certificates are valid in it
    # A wrong frequency is wrong by a factor; delivery is late by less.
    assert (host_last - host_first) / (guest_last - guest_first) == pytest.approx(1, abs=0.4)


@pytest.fixture
def tap() -> Iterator[int]:
    """A tap with the gateway's address, in a network namespace of its own."""
    name = f"boot-test-{os.getpid()}"
    ours, theirs = socket.socketpair()
    opening = f"""
import fcntl, os, socket, struct, subprocess
tap = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tap, 0x400454CA, struct.pack("16sH22x", b"tap0", 0x0002 | 0x1000 | 0x4000))  # TAP, NO_PI, VNET_HDR
subprocess.run(["ip", "addr", "add", "{GATEWAY}", "dev", "tap0"], check=True)
subprocess.run(["ip", "link", "set", "tap0", "up"], check=True)
socket.send_fds(socket.socket(fileno={theirs.fileno()}), [b"x"], [tap])
"""
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        subprocess.run(
            ["ip", "netns", "exec", name, sys.executable, "-c", opening], check=True, pass_fds=[theirs.fileno()]
        )
        _, (descriptor,), _, _ = socket.recv_fds(ours, 1, 1)
        yield descriptor
        os.close(descriptor)
    finally:
        ours.close()
        theirs.close()
        subprocess.run(["ip", "netns", "del", name], check=True)


@pytest.mark.kernel
@pytest.mark.asyncio
async def test_it_has_its_address_and_reaches_its_gateway(workspace: Workspace, tap: int) -> None:
    script = (
        f"ip -o -4 addr show eth0; ip route; cat /sys/class/net/eth0/address; ip -6 addr; ping -c 1 -W 10 {GATEWAY.ip}"
    )
    outcome = await workspace.run("sh", "-c", script, tap=tap)
    assert f"inet {GUEST} " in outcome.text()
    assert f"default via {GATEWAY.ip} dev eth0" in outcome.text()
    assert GUEST_MAC in outcome.text()
    assert "inet6" not in outcome.text()
    assert "1 received" in outcome.text()
    assert outcome.code == 0
