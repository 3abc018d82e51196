"""How fast a guest can run here: KVM where a guest really runs under it, emulation (TCG) otherwise.

/dev/kvm may exist, open, and even create a machine, and still not execute an instruction, or hang trying. So we
ask QEMU itself, under the rights that guests will have, to boot a ROM of three instructions, with a time limit.

Under emulation the guest reads the host's own time-stamp counter. Its kernel would calibrate it against emulated
timers, which fails (it hangs) about every second time; told a wrong frequency, its clock is wrong by that factor.
So it is told the frequency, measured here.
"""

import contextlib
import ctypes
import mmap
import os
import stat
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from microagent.errors import HostError

QEMU = "qemu-system-x86_64"
_KVM = Path("/dev/kvm")
_PROBE_SECONDS = 5
_ROM_SIZE = 64 << 10
_RESET_VECTOR = 0xFFF0
_EXIT_PORT = 0xF4
_EXIT_VALUE = 0x10
# mov al, 0x10; out 0xf4, al; hlt
_CODE = bytes((0xB0, _EXIT_VALUE, 0xE6, _EXIT_PORT, 0xF4))
# What QEMU's isa-debug-exit makes of it.
_EXIT_CODE = _EXIT_VALUE << 1 | 1
# rdtsc; shl rdx, 32; or rax, rdx; ret
_READ_TSC = bytes.fromhex("0f3148c1e2204809d0c3")
# Readings are good to 0.1 µs, so this is good to some parts per million, as NTP expects of a clock.
_TSC_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Accelerator:
    """`tsc_khz`: the host's time-stamp counter in kHz, needed under emulation only (0 under KVM)."""

    kvm: bool
    tsc_khz: int


@lru_cache
def find_accelerator(uid: int, gid: int) -> Accelerator:
    """What a QEMU of that user can use, found out once; blocks for up to some seconds."""
    if probe_kvm(uid, gid):
        return Accelerator(kvm=True, tsc_khz=0)
    return Accelerator(kvm=False, tsc_khz=measure_tsc_khz())


def kvm_groups() -> list[int]:
    """The group that may open /dev/kvm, if it is one made for that; never root's."""
    try:
        status = _KVM.stat()
    except OSError:
        return []
    return [status.st_gid] if status.st_gid != 0 and status.st_mode & stat.S_IWGRP else []


def probe_kvm(uid: int, gid: int) -> bool:
    """Whether a guest's instruction really runs under KVM for that user."""
    return _KVM.exists() and runs_instructions("kvm", uid, gid)


def runs_instructions(accelerator: str, uid: int, gid: int) -> bool:
    """Whether QEMU executes three instructions with that accelerator ("kvm" or "tcg") in time."""
    command = [QEMU, "-M", "microvm,acpi=off", "-accel", accelerator, "-nodefaults", "-no-user-config"]
    command += ["-display", "none", "-m", "16", "-device", f"isa-debug-exit,iobase={_EXIT_PORT},iosize=1"]
    with _rom() as rom:
        try:
            done = subprocess.run(
                [*command, "-bios", f"/dev/fd/{rom}"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=_PROBE_SECONDS,
                pass_fds=(rom,),
                user=uid,
                group=gid,
                extra_groups=kvm_groups(),
                check=False,
            )
        except (subprocess.TimeoutExpired, OSError):
            return False
    return done.returncode == _EXIT_CODE


def measure_tsc_khz() -> int:
    """The frequency of this machine's time-stamp counter, against CLOCK_MONOTONIC; HostError off x86."""
    if os.uname().machine != "x86_64":
        raise HostError(f"guests run on x86_64, and this machine is {os.uname().machine}")
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(_READ_TSC)
    read_tsc = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(ctypes.c_char.from_buffer(page)))

    def reading() -> tuple[int, int]:
        """Nanoseconds and ticks of one moment: of several tries, the one that was interrupted least."""
        tries = []
        for _ in range(32):
            before, ticks, after = time.monotonic_ns(), read_tsc(), time.monotonic_ns()
            tries.append((after - before, (before + after) // 2, ticks))
        return min(tries)[1:]

    started, first = reading()
    time.sleep(_TSC_SECONDS)
    ended, last = reading()
    return round((last - first) / (ended - started) * 1e6)


@contextlib.contextmanager
def _rom() -> Iterator[int]:
    rom = bytearray(_ROM_SIZE)
    rom[_RESET_VECTOR : _RESET_VECTOR + len(_CODE)] = _CODE
    descriptor = os.memfd_create("rom")
    try:
        os.write(descriptor, rom)
        yield descriptor
    finally:
        os.close(descriptor)
