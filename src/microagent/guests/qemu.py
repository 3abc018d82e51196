"""Runs a guest: one QEMU process, unprivileged, that is given descriptors and opens nothing of worth by itself.

How this works. The agent opens the disks and passes the descriptors (`-add-fd`); boot disk and tap come
as descriptors as well, and five socket pairs carry the console and the command's stdin, stdout, stderr and control
(virtio ports 1 to 4; what the last one says is in `control`). QEMU runs under a user of its own with
seccomp on and needs no other right than /dev/kvm's group. When the guest's init has reported the command's exit
and how many bytes it wrote, and all of those have been read, QEMU is killed: the disks were synced before.
"""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from microagent.errors import HostError, Malformed
from microagent.guests.accelerator import QEMU, Accelerator, find_accelerator, kvm_groups
from microagent.guests.console import Console
from microagent.guests.control import MAX_LINE, Exited, Failed, Ready, Report, parse_report_untrusted, shutdown_request
from microagent.guests.tools import missing

STDOUT = 1
STDERR = 2
KILLED = 128 + 9
# QEMU's own complaints are short; a pipe nobody reads would stop it.
_MAX_COMPLAINT = 8192
_CHUNK = 64 << 10
_PORTS = ("stdin", "stdout", "stderr", "control")
# Chunks a slow reader may leave waiting before the guest is made to wait.
_QUEUED = 16
# After its grace period init kills, syncs and reports, which takes well under this, also when emulated.
_SHUTDOWN_SLACK = 10


@dataclass(frozen=True, slots=True)
class GuestSpec:
    """What a guest is made of. `overlay` is a writable ext4 (`disk.make_overlay`), `bootdisk` a tar
    (`bootdisk.make_bootdisk`), `tap_fd` an open tap or None for a guest without a network, `directory` where the
    console log goes. QEMU runs as `uid` and `gid`; `accelerator` is found out when it is not given."""

    kernel: Path
    initramfs: Path
    rootfs: Path
    overlay: Path
    bootdisk: bytes
    tap_fd: int | None
    mac: str
    memory_mib: int
    cpus: int
    uid: int
    gid: int
    directory: Path
    accelerator: Accelerator | None = None


@dataclass(frozen=True, slots=True)
class Descriptors:
    """The numbers of the descriptors that QEMU inherits."""

    kernel: int
    initramfs: int
    rootfs: int
    overlay: int
    bootdisk: int
    console: int
    ports: tuple[int, ...]


def kernel_command_line(accelerator: Accelerator) -> str:
    """What the guest's kernel is told; vm_fixtures/init gets nothing this way."""
    words = ["console=ttyS0", "quiet", "panic=-1", "reboot=t"]
    # The whole guest is one untrusted thing: it needs no protection from itself.
    words += ["mitigations=off", "ipv6.disable_ipv6=1"]
    if not accelerator.kvm:
        words += [f"tsc_early_khz={accelerator.tsc_khz}", "tsc=reliable"]
    return " ".join(words)


def qemu_arguments(spec: GuestSpec, accelerator: Accelerator, fds: Descriptors) -> list[str]:
    """QEMU's command line, without the program."""
    kvm = accelerator.kvm
    arguments = ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
    arguments += ["-M", "microvm,acpi=on,rtc=on,pit=off,pic=off,isa-serial=on,x-option-roms=off,dump-guest-core=off"]
    arguments += ["-accel", "kvm" if kvm else "tcg", "-cpu", "host" if kvm else "max"]
    arguments += ["-m", str(spec.memory_mib), "-smp", str(spec.cpus)]
    arguments += ["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"]
    arguments += ["-kernel", f"/dev/fd/{fds.kernel}", "-initrd", f"/dev/fd/{fds.initramfs}"]
    arguments += ["-append", kernel_command_line(accelerator)]
    arguments += ["-chardev", f"socket,id=console,fd={fds.console}", "-serial", "chardev:console"]
    # First, so that the guest numbers its ports vport0p1 and on.
    arguments += ["-device", "virtio-serial-device,max_ports=5"]
    for number, (name, descriptor) in enumerate(zip(_PORTS, fds.ports, strict=True), start=1):
        arguments += ["-chardev", f"socket,id=port{number},fd={descriptor}"]
        arguments += ["-device", f"virtserialport,nr={number},chardev=port{number},name={name}"]
    # The guest numbers its disks in this order: vda, vdb, vdc.
    arguments += _disk("rootfs", fds.rootfs, 1, "read-only=on")
    arguments += _disk("overlay", fds.overlay, 2, "discard=unmap")
    arguments += _disk("bootdisk", fds.bootdisk, 3, "read-only=on")
    if spec.tap_fd is not None:
        arguments += ["-netdev", f"tap,id=net,fd={spec.tap_fd}"]
        arguments += ["-device", f"virtio-net-device,netdev=net,mac={spec.mac}"]
    return arguments


def _disk(name: str, descriptor: int, number: int, option: str) -> list[str]:
    file = f"driver=file,node-name={name}-file,filename=/dev/fdset/{number},{option}"
    raw = f"driver=raw,node-name={name},file={name}-file,{option}"
    return [
        *("-add-fd", f"fd={descriptor},set={number}"),
        *("-blockdev", file, "-blockdev", raw),
        *("-device", f"virtio-blk-device,drive={name}"),
    ]


async def start_guest(spec: GuestSpec) -> "Guest":
    """Starts QEMU; HostError when it cannot be. What happens inside the guest from then on, `Guest.wait` tells."""
    accelerator = spec.accelerator or await asyncio.to_thread(find_accelerator, spec.uid, spec.gid)
    with ExitStack() as stack:

        def opened(path: Path, flags: int) -> int:
            try:
                descriptor = os.open(path, flags | os.O_CLOEXEC)
            except OSError as error:
                raise HostError(f"{path} cannot be opened: {error.strerror}") from error
            stack.callback(os.close, descriptor)
            return descriptor

        pairs = [socket.socketpair() for _ in range(5)]
        ours, theirs = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        on_failure = stack.enter_context(ExitStack())
        for one in ours:
            on_failure.callback(one.close)
        for one in theirs:
            stack.callback(one.close)
        writable = os.memfd_create("bootdisk")
        stack.callback(os.close, writable)
        os.write(writable, spec.bootdisk)
        fds = Descriptors(
            kernel=opened(spec.kernel, os.O_RDONLY),
            initramfs=opened(spec.initramfs, os.O_RDONLY),
            rootfs=opened(spec.rootfs, os.O_RDONLY),
            overlay=opened(spec.overlay, os.O_RDWR | os.O_NOFOLLOW),
            bootdisk=opened(Path(f"/proc/self/fd/{writable}"), os.O_RDONLY),
            console=theirs[0].fileno(),
            ports=tuple(one.fileno() for one in theirs[1:]),
        )
        inherited = [fds.kernel, fds.initramfs, fds.rootfs, fds.overlay, fds.bootdisk, fds.console, *fds.ports]
        if spec.tap_fd is not None:
            inherited.append(spec.tap_fd)
        console = Console(spec.directory)
        on_failure.callback(console.close)
        process = await _spawn(spec, qemu_arguments(spec, accelerator, fds), inherited, kvm=accelerator.kvm)
        on_failure.pop_all()
    streams = [await asyncio.open_connection(sock=one, limit=_CHUNK) for one in ours]
    return Guest(process, streams, console)


async def _spawn(
    spec: GuestSpec, arguments: Sequence[str], inherited: Sequence[int], *, kvm: bool
) -> asyncio.subprocess.Process:
    try:
        return await asyncio.create_subprocess_exec(
            QEMU,
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            pass_fds=inherited,
            user=spec.uid,
            group=spec.gid,
            extra_groups=kvm_groups() if kvm else [],
            start_new_session=True,
            cwd="/",
            env={"PATH": os.environ.get("PATH", os.defpath)},
        )
    except FileNotFoundError as error:
        raise missing(QEMU) from error
    except OSError as error:
        raise HostError(f"{QEMU} cannot be started: {error.strerror}") from error


Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class GuestInput:
    """The command's stdin."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer

    async def write(self, data: bytes) -> None:
        """Returns when the guest takes more; what a guest that has ended did not read is dropped silently."""
        try:
            self._writer.write(data)
            await self._writer.drain()
        except ConnectionError:
            return

    async def eof(self) -> None:
        """No more input: the command reads end of file."""
        try:
            self._writer.write_eof()
        except OSError:
            return


class Guest:
    """A running guest. Its output must be read (`output`), or the guest stops when the pipes are full."""

    def __init__(self, process: asyncio.subprocess.Process, streams: list[Stream], console: Console) -> None:
        self._process = process
        self._streams = streams
        self._console = console
        self._complaint = b""
        self._moved = asyncio.Event()
        self._counts = {STDOUT: 0, STDERR: 0}
        self._queue: asyncio.Queue[tuple[int, bytes] | None] = asyncio.Queue()
        self._room = asyncio.Event()
        self._room.set()
        self._gone = False
        self._killed = False
        self.pid = process.pid
        self.stdin = GuestInput(streams[1][1])
        self.ready = asyncio.Event()
        self._readers = [
            asyncio.create_task(self._read_console()),
            asyncio.create_task(self._read_complaint()),
            asyncio.create_task(self._read_output(STDOUT)),
            asyncio.create_task(self._read_output(STDERR)),
        ]
        self._ending = asyncio.create_task(self._end())

    @property
    async def output(self) -> AsyncIterator[tuple[int, bytes]]:
        """(STDOUT or STDERR, bytes) as they come, until the guest has ended. For one reader."""
        while (item := await self._queue.get()) is not None:
            if self._queue.qsize() < _QUEUED:
                self._room.set()
            yield item
        self._queue.put_nowait(None)  # for whoever asks again

    async def wait(self) -> int:
        """The command's exit code, 128+N when signal N ended it (KILLED after `kill`), once QEMU is gone.

        HostError when the guest ended without saying: its kernel panicked, or QEMU failed.
        """
        ending = await asyncio.shield(self._ending)
        if isinstance(ending, HostError):
            raise ending
        return ending

    def kill(self) -> None:
        """Ends the guest at once; what it had not written to its disk is lost."""
        self._killed = True
        if self._process.returncode is None:
            self._process.kill()

    async def shutdown(self, grace: int) -> None:
        """TERM to the command, KILL after `grace` seconds; returns when the guest is gone, killed if it must be."""
        self._streams[4][1].write(shutdown_request(grace))
        done, _ = await asyncio.wait([self._ending], timeout=grace + _SHUTDOWN_SLACK)
        if not done:
            self.kill()
            await asyncio.wait([self._ending])

    async def _end(self) -> int | HostError:
        try:
            report = await self._follow_control()
            if isinstance(report, Exited):
                await self._drain(report)
        finally:
            if self._process.returncode is None:
                self._process.kill()
            await self._process.wait()
            # What is left is in the sockets' buffers, so it is bounded: take it, whether it is read or not.
            self._gone = True
            self._room.set()
            await asyncio.gather(*self._readers)
            self._queue.put_nowait(None)
            for _, writer in self._streams:
                writer.close()
            self._console.close()
        if isinstance(report, Exited):
            return report.code
        if self._killed:
            return KILLED
        if isinstance(report, Failed):
            return HostError(f"the guest could not be set up: {report.what}")
        return self._died()

    def _died(self) -> HostError:
        said = self._complaint.decode(errors="replace").strip().splitlines()
        if said:
            return HostError(f"QEMU failed: {said[-1]}")
        return HostError("the guest ended unexpectedly", f"its console says: {self._console.last_lines()}")

    async def _follow_control(self) -> Report | None:
        """The last report: how the command ended, or why it did not start; None when the guest died before."""
        reader = self._streams[4][0]
        while True:
            try:
                line = await reader.readuntil(b"\n")
                report = parse_report_untrusted(line[:-1])
            except asyncio.IncompleteReadError:
                return None
            except (asyncio.LimitOverrunError, Malformed, ConnectionError):
                return Failed("its init was not ours: it sent what is not a report")
            if isinstance(report, Exited | Failed):
                return report
            if isinstance(report, Ready):
                self.ready.set()

    async def _drain(self, report: Exited) -> None:
        """Waits until all that the command wrote has been read, or no more can come."""
        expected = {STDOUT: report.stdout, STDERR: report.stderr}
        while any(self._counts[n] < expected[n] for n in expected) and not all(r.done() for r in self._readers[2:]):
            self._moved.clear()
            await self._moved.wait()

    async def _read_output(self, number: int) -> None:
        while data := await _chunk(self._streams[number + 1][0]):
            await self._room.wait()
            self._queue.put_nowait((number, data))
            if self._queue.qsize() >= _QUEUED and not self._gone:
                self._room.clear()
            self._counts[number] += len(data)
            self._moved.set()
        self._moved.set()

    async def _read_console(self) -> None:
        while data := await _chunk(self._streams[0][0]):
            self._console.add(data)

    async def _read_complaint(self) -> None:
        assert self._process.stderr is not None
        while data := await _chunk(self._process.stderr):
            self._complaint = (self._complaint + data)[-_MAX_COMPLAINT:]


async def _chunk(reader: asyncio.StreamReader) -> bytes:
    """What has come; empty at the end, also at one that came with a reset."""
    try:
        return await reader.read(_CHUNK)
    except ConnectionError:
        return b""
