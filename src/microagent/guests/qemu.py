"""Runs a guest: one QEMU process, unprivileged, that is given descriptors and opens nothing of worth by itself.

How this works. The agent opens the disks and passes the descriptors (`-add-fd`); boot disk and tap come as descriptors
as well, and six listening sockets (see `lines`) carry the console, the command's stdin, stdout, stderr and control
(virtio ports 1 to 4; what the last one says is in `control`), and what else is run in it (port 5: see `exec`).
QEMU goes on when the agent is gone,
and `adopt_guest` finds it again. It runs under a user of its own with seccomp on and needs no other right than
/dev/kvm's group, in a network namespace that holds nothing: the tap's descriptor works from there, and a guest that
breaks out of QEMU has no other network. What happens then is `guest`'s.
"""

import asyncio
import os
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from microagent.api.lines import connect, listen
from microagent.errors import HostError
from microagent.guests.accelerator import QEMU, Accelerator, find_accelerator, kvm_groups
from microagent.guests.console import Console
from microagent.guests.guest import Guest, Stream
from microagent.guests.process import Process
from microagent.guests.tools import missing

__all__ = ["Guest", "GuestSpec", "adopt_guest", "start_guest"]

_CHUNK = 64 << 10
WORKSPACE_VARIABLE = "MICROAGENT_WORKSPACE"
_PORTS = ("stdin", "stdout", "stderr", "control", "exec")
LINES = ("console", *_PORTS)
_NOT_BUILT = "`make setup`, in a checkout, builds what every guest boots; see microagent doctor"


@dataclass(frozen=True, slots=True)
class GuestSpec:
    """What a guest is made of. `overlay` is a writable ext4 (`disk.make_overlay`), `bootdisk` a tar
    (`bootdisk.make_bootdisk`), `tap_fd` an open tap or None for a guest without a network, `directory` where the
    console log goes, `sockets` (root's alone) where an agent finds the guest again. QEMU runs as `uid` and `gid`;
    `accelerator` is found out when it is not given."""

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
    sockets: Path
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
    # A fifth of an emulated boot: the kernel's ciphers are Debian's, tested often enough.
    words += ["cryptomgr.notests"]
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
    arguments += ["-chardev", _listening("console", fds.console), "-serial", "chardev:console"]
    # First, so that the guest numbers its ports vport0p1 and on.
    arguments += ["-device", "virtio-serial-device,max_ports=6"]
    for number, (name, descriptor) in enumerate(zip(_PORTS, fds.ports, strict=True), start=1):
        arguments += ["-chardev", _listening(f"port{number}", descriptor)]
        arguments += ["-device", f"virtserialport,nr={number},chardev=port{number},name={name}"]
    # The guest numbers its disks in this order: vda, vdb, vdc.
    arguments += _disk("rootfs", fds.rootfs, 1, "read-only=on")
    arguments += _disk("overlay", fds.overlay, 2, "discard=unmap")
    arguments += _disk("bootdisk", fds.bootdisk, 3, "read-only=on")
    if spec.tap_fd is not None:
        arguments += ["-netdev", f"tap,id=net,fd={spec.tap_fd}"]
        arguments += ["-device", f"virtio-net-device,netdev=net,mac={spec.mac}"]
    return arguments


def _listening(ident: str, descriptor: int) -> str:
    return f"socket,id={ident},fd={descriptor},server=on,wait=off"


def _disk(name: str, descriptor: int, number: int, option: str) -> list[str]:
    file = f"driver=file,node-name={name}-file,filename=/dev/fdset/{number},{option}"
    raw = f"driver=raw,node-name={name},file={name}-file,{option}"
    return [
        *("-add-fd", f"fd={descriptor},set={number}"),
        *("-blockdev", file, "-blockdev", raw),
        *("-device", f"virtio-blk-device,drive={name}"),
    ]


async def start_guest(spec: GuestSpec) -> Guest:
    """Starts QEMU; HostError when it cannot be. What happens inside the guest from then on, `Guest.wait` tells."""
    accelerator = spec.accelerator
    if accelerator is None:
        accelerator = await asyncio.to_thread(find_accelerator, spec.uid, spec.gid)
    with ExitStack() as stack:

        def opened(path: Path, flags: int, hint: str = "") -> int:
            try:
                descriptor = os.open(path, flags | os.O_CLOEXEC)
            except OSError as error:
                raise HostError(f"{path} cannot be opened: {error.strerror}", hint) from error
            stack.callback(os.close, descriptor)
            return descriptor

        listeners = [stack.enter_context(listen(spec.sockets, name)) for name in LINES]
        on_failure = stack.enter_context(ExitStack())
        writable = os.memfd_create("bootdisk")
        stack.callback(os.close, writable)
        os.write(writable, spec.bootdisk)
        fds = Descriptors(
            kernel=opened(spec.kernel, os.O_RDONLY, _NOT_BUILT),
            initramfs=opened(spec.initramfs, os.O_RDONLY, _NOT_BUILT),
            rootfs=opened(spec.rootfs, os.O_RDONLY),
            overlay=opened(spec.overlay, os.O_RDWR | os.O_NOFOLLOW),
            bootdisk=opened(Path(f"/proc/self/fd/{writable}"), os.O_RDONLY),
            console=listeners[0].fileno(),
            ports=tuple(one.fileno() for one in listeners[1:]),
        )
        inherited = [fds.kernel, fds.initramfs, fds.rootfs, fds.overlay, fds.bootdisk, fds.console, *fds.ports]
        if spec.tap_fd is not None:
            inherited.append(spec.tap_fd)
        console = Console(spec.directory)
        on_failure.callback(console.close)
        process = _spawn(spec, qemu_arguments(spec, accelerator, fds), inherited, kvm=accelerator.kvm)
        on_failure.callback(process.kill)
        streams = await _connect(spec.sockets)
        on_failure.pop_all()
    return Guest(process, streams, console)


async def adopt_guest(pid: int, directory: Path, sockets: Path) -> Guest:
    """Takes over a guest that an earlier agent started; HostError or ProcessLookupError when it is not to be had.

    That the process is what it should be, the caller has made sure of.
    """
    process = Process(pid)
    streams = await _connect(sockets)
    return Guest.adopted(process, streams, Console(directory, resume=True))


async def _connect(sockets: Path) -> list[Stream]:
    """The control port comes last: when the guest can write to it, it can use all."""
    with ExitStack() as on_failure:
        streams = {}
        for name in sorted(LINES, key="control".__eq__):
            streams[name] = await asyncio.open_connection(sock=connect(sockets, name), limit=_CHUNK)
            on_failure.callback(streams[name][1].close)
        on_failure.pop_all()
        return [streams[name] for name in LINES]


def _spawn(spec: GuestSpec, arguments: Sequence[str], inherited: Sequence[int], *, kvm: bool) -> Process:
    if shutil.which(QEMU) is None:
        raise missing(QEMU)
    groups = [f"--groups={','.join(map(str, kvm_groups()))}"] if kvm and kvm_groups() else ["--clear-groups"]
    # One becomes the other, with the same pid; root's rights are gone when QEMU begins.
    become = ["unshare", "--net", "setpriv", f"--reuid={spec.uid}", f"--regid={spec.gid}", *groups, "--no-new-privs"]
    try:
        return Process.start(
            [*become, QEMU, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=inherited,
            start_new_session=True,
            cwd="/",
            # The variable is how a guest is found that was started by an agent which could not note it any more.
            env={"PATH": os.environ.get("PATH", os.defpath), WORKSPACE_VARIABLE: str(spec.sockets)},
        )
    except OSError as error:
        raise HostError(f"{QEMU} cannot be started: {error.strerror}") from error
