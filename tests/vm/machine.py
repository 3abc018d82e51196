"""A host of Debian's with systemd, in QEMU, on which microagent was installed by its own `make install`.

How this works. The root is made of Debian's packages once (`vm_fixtures/build --machine`). `make install` runs in it by
chroot and without a network: from the wheels that this machine's pip fetched. Kernel and drivers are those of guests;
in place of their init comes one that hands over to systemd. A unit there runs what the tests send over a virtio port.
QEMU emulates AMD's virtualisation as well, so the guests of such a host run under KVM, as fast as any of ours.
"""

import json
import shutil
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from microagent.guests.accelerator import QEMU, measure_tsc_khz

CHECKOUT: Final = Path(__file__).parents[2]
_NEEDED: Final = (
    "LICENSE",
    "Makefile",
    "README.md",
    "docs",
    "nft_templates",
    "packaging",
    "pyproject.toml",
    "src",
    "vm_fixtures",
)
_DISK: Final = 3 << 30
_MEMORY_MIB: Final = 2560  # a mediator may take 1536 of it
_BOOT_SECONDS: Final = 120.0
_COMMAND_SECONDS: Final = 180.0

# Run in a mount namespace of its own, with the root, the guest's files and apt's indexes (by which vm_fixtures/build
# knows that those are current).
_INSTALL: Final = """
set -eu
root=$1 guest=$2
mkdir -p "$root$guest"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount --bind "$guest" "$root$guest"
mount --bind /var/lib/apt/lists "$root/var/lib/apt/lists"
there() { env -i PATH=/usr/sbin:/usr/bin PIP_NO_INDEX=1 PIP_FIND_LINKS=/wheels chroot "$root" "$@"; }
# As hardened hosts have it for root.
(umask 077; there make --silent -C /src install APT=)
# /dev/kvm is udev's to give to this group, and there is no udev here.
there groupadd --system kvm
there depmod "$(basename "$root"/usr/lib/modules/*)"
there systemctl --quiet enable test-shell
there systemctl --quiet mask serial-getty@.service getty@.service
# A clock that is set would set them off.
rm -r "$root/etc/systemd/system/timers.target.wants"
"""
# Busybox' applets, as in vm_fixtures/init, whose modules these are.
_INIT: Final = """#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
export PATH=/bin
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
while read -r module; do insmod "/modules/$module"; done < /modules/order
mount -t ext4 -o noatime /dev/vda /root
for directory in dev sys proc; do mount --move "/$directory" "/root/$directory"; done
cd /root
/bin/busybox mount --move . /
exec chroot . /sbin/init
"""
_SHELL: Final = """#!/usr/bin/python3
import json, subprocess
with open("/dev/vport0p1", "r+b", buffering=0) as port:
    waiting = b""
    while True:
        waiting += port.read(65536) or b""
        while b"\\n" in waiting:
            line, _, waiting = waiting.partition(b"\\n")
            command = ["/bin/sh", "-euc", json.loads(line)]
            done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
            answer = json.dumps([done.returncode, done.stdout, done.stderr]).encode() + b"\\n"
            while answer:
                answer = answer[port.write(answer):]
"""
_SHELL_UNIT: Final = """[Unit]
Description=Runs what the tests send
[Service]
ExecStart=/srv/shell
KillMode=process
[Install]
WantedBy=multi-user.target
"""


def make_machine(out: Path, guest_dir: Path) -> None:
    """Makes `out`/disk and `out`/initramfs: microagent installed and its unit enabled, out of this checkout.

    There are the checkout's files in /src, and an image of busybox alone, /srv/tiny.tar.
    """
    root = out / "root"
    root.mkdir()
    machine = guest_dir / "machine"
    layer = max((machine / "blobs/sha256").iterdir(), key=lambda blob: blob.stat().st_size)
    subprocess.run(["tar", "-C", root, "-xf", layer, "--numeric-owner", "--xattrs"], check=True)
    _fetch_wheels(root / "wheels")
    (root / "src").mkdir()
    for name in _NEEDED:
        source = CHECKOUT / name
        if source.is_dir():
            shutil.copytree(source, root / "src" / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy(source, root / "src" / name)
    (root / "srv/shell").write_text(_SHELL)
    (root / "srv/shell").chmod(0o755)
    (root / "etc/systemd/system/test-shell.service").write_text(_SHELL_UNIT)
    _make_archive(root / "srv")
    shutil.copytree(machine / "kernel/lib/modules", root / "usr/lib/modules")
    subprocess.run(["unshare", "-m", "sh", "-c", _INSTALL, "sh", root, guest_dir], check=True)
    for name in ("vmlinux", "initramfs"):
        shutil.copy(guest_dir / name, f"{root}{guest_dir}")
    shutil.rmtree(root / "wheels")
    with (out / "disk").open("wb") as disk:
        disk.truncate(_DISK)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-d", root, out / "disk"], check=True)
    shutil.rmtree(root)
    (out / "init").write_text(_INIT)
    (out / "init").chmod(0o755)
    archive = subprocess.run(
        ["cpio", "--quiet", "-o", "-H", "newc"], input=b"init\n", cwd=out, capture_output=True, check=True
    ).stdout
    # Of two files with one name the later one stays (Linux: early-userspace/buffer-format.rst).
    (out / "initramfs").write_bytes((guest_dir / "initramfs").read_bytes() + archive)


def _make_archive(directory: Path) -> None:
    """tiny.tar: as Docker saves an image."""
    programs, layout = directory / "bin", directory / "layout"
    programs.mkdir()
    shutil.copy("/bin/busybox", programs)
    for name in ("sh", "nc", "nslookup", "sleep"):
        (programs / name).symlink_to("busybox")
    subprocess.run(["umoci", "init", "--layout", layout], check=True)
    subprocess.run(["umoci", "new", "--image", f"{layout}:tiny"], check=True)
    subprocess.run(["umoci", "insert", "--image", f"{layout}:tiny", programs, "/bin"], check=True)
    archive = f"docker-archive:{directory / 'tiny.tar'}:tiny:1"
    subprocess.run(["skopeo", "copy", "--quiet", "--insecure-policy", f"oci:{layout}:tiny", archive], check=True)
    shutil.rmtree(programs)
    shutil.rmtree(layout)


def _fetch_wheels(directory: Path) -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text("utf-8"))
    wanted = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    subprocess.run([sys.executable, "-m", "pip", "wheel", "-qq", "-w", directory, *wanted], check=True)


class Machine:
    """One that runs; `run` and `ask` are its root's shell."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._lines = line.makefile("rb")

    def ask(self, script: str) -> tuple[int, str, str]:
        """The exit code of a script for `sh -eu`, and what it wrote to standard output and standard error."""
        self._line.sendall(json.dumps(script).encode() + b"\n")
        code, output, errors = json.loads(self._lines.readline())
        return code, output, errors

    def run(self, script: str) -> str:
        """What a script that must succeed wrote to standard output."""
        code, output, errors = self.ask(script)
        assert code == 0, f"{script}\n{output}{errors}"
        return output

    def wait_for(self, script: str, seconds: int = 60) -> None:
        """Runs a script there again and again until it succeeds."""
        self.run(f"for try in $(seq {seconds * 5}); do if ({script}); then exit 0; fi; sleep 0.2; done; exit 1")


@contextmanager
def booted(made: Path, guest_dir: Path) -> Iterator[Machine]:
    """The machine in `made`, started anew from its disk, which stays as it is."""
    words = ["console=ttyS0", "quiet", "panic=-1", "reboot=t", "mitigations=off", "cryptomgr.notests"]
    words += [f"tsc_early_khz={measure_tsc_khz()}", "tsc=reliable"]
    arguments = ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
    arguments += ["-M", "microvm,acpi=on,rtc=on,pit=off,pic=off,isa-serial=on,x-option-roms=off"]
    arguments += ["-accel", "tcg,thread=multi", "-cpu", "max", "-m", str(_MEMORY_MIB), "-smp", "2"]
    arguments += ["-kernel", str(guest_dir / "vmlinux"), "-initrd", str(made / "initramfs"), "-append", " ".join(words)]
    arguments += ["-serial", f"file:{made / 'console'}"]
    ours, theirs = socket.socketpair()
    arguments += ["-chardev", f"socket,id=shell,fd={theirs.fileno()}", "-device", "virtio-serial-device"]
    arguments += ["-device", "virtserialport,nr=1,chardev=shell"]
    arguments += ["-drive", f"file={made / 'disk'},format=raw,if=none,id=disk,snapshot=on"]
    arguments += ["-device", "virtio-blk-device,drive=disk"]
    # When this process dies without a word, so does the machine.
    command = ["setpriv", "--pdeathsig", "KILL", QEMU, *arguments]
    with ours, theirs, subprocess.Popen(command, pass_fds=[theirs.fileno()]) as qemu:
        try:
            theirs.close()
            ours.settimeout(_BOOT_SECONDS)
            machine = Machine(ours)
            machine.run("true")
            ours.settimeout(_COMMAND_SECONDS)
            yield machine
        except (TimeoutError, ValueError):
            sys.stderr.write((made / "console").read_text(errors="replace")[-4000:])
            raise
        finally:
            qemu.kill()
