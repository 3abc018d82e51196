"""The list of requirements, and how each is tried.

A check that cannot be tried because an earlier one failed says so by failing in its own words: nothing is assumed.
"""

import grp
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from microagent.api.names import GROUP
from microagent.doctor.finding import Finding
from microagent.doctor.network import nft_bindings, steering, tap
from microagent.doctor.process import cgroups, confinement
from microagent.errors import MicroagentError
from microagent.guests.accelerator import probe_kvm
from microagent.workspace.store import FIRST_UID

DEFAULT_GUEST_DIR = Path("/var/cache/microagent/guest")

_PYTHON = (3, 11)
_GUEST_FILES = ("vmlinux", "initramfs")
# program -> (Debian package, what it is for, whether every workspace needs it)
_PROGRAMS = {
    "qemu-system-x86_64": ("qemu-system-x86", "runs guests", True),
    "mke2fs": ("e2fsprogs", "makes guests' disks", True),
    "umoci": ("umoci", "unpacks OCI images", False),
    "skopeo": ("skopeo", "pulls OCI images", False),
}
# Where Debian keeps programs that are not on every user's PATH.
_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


def examine(guest_dir: Path | None = None) -> list[Finding]:
    """Tries everything; the order is that of a start."""
    guest_dir = guest_dir or DEFAULT_GUEST_DIR
    findings = [_python(), _root()]
    findings += [_tried("nft bindings", nft_bindings), _tried("tap", tap), _tried("steering", steering)]
    findings += [_tried("confinement", confinement), _tried("cgroups", cgroups, required=False), _group()]
    findings += [_program(name) for name in _PROGRAMS]
    return [*findings, _guest_files(guest_dir), _kvm()]


def _python() -> Finding:
    ok = sys.version_info[:2] >= _PYTHON
    version = ".".join(map(str, sys.version_info[:3]))
    return Finding("python", ok, version, "" if ok else "install Python 3.11 or later")


def _root() -> Finding:
    ok = os.geteuid() == 0
    return Finding("root", ok, f"uid {os.geteuid()}", "" if ok else "run the agent, and doctor, with sudo")


def _group() -> Finding:
    """Not required: without it root alone may use the agent."""
    try:
        return Finding("group", True, f"{GROUP} has gid {grp.getgrnam(GROUP).gr_gid}", required=False)
    except KeyError:
        fix = f"groupadd --system {GROUP}, and start the agent anew"
        return Finding("group", False, f"no group {GROUP}: root alone may use the agent", fix, False)


def _tried(name: str, check: Callable[[], str], *, required: bool = True) -> Finding:
    """The check's own words, or those of what it met."""
    try:
        return Finding(name, True, check(), required=required)
    except MicroagentError as error:
        return Finding(name, False, error.what, error.hint or "run doctor as root", required)
    except (OSError, subprocess.TimeoutExpired) as error:
        hint = "run doctor as root, on a kernel with CONFIG_TUN and nf_tables"
        return Finding(name, False, getattr(error, "strerror", None) or str(error), hint, required)


def _program(name: str) -> Finding:
    package, purpose, required = _PROGRAMS[name]
    path = shutil.which(name, path=_PATH)
    if path:
        return Finding(name, True, path, required=required)
    return Finding(name, False, f"not found; {purpose}", f"apt-get install {package}", required)


def _guest_files(guest_dir: Path) -> Finding:
    missing = [name for name in _GUEST_FILES if not (guest_dir / name).is_file()]
    if missing:
        detail = f"no {' and no '.join(missing)} in {guest_dir}"
        return Finding("guest files", False, detail, f"vm_fixtures/build --out {guest_dir}")
    images = guest_dir / "images"
    names = sorted(path.name for path in images.iterdir()) if images.is_dir() else []
    return Finding("guest files", True, f"{guest_dir}, images: {', '.join(names) or 'none'}")


def _kvm() -> Finding:
    """Not required: without it guests are emulated, which is slower and holds just as tight."""
    try:
        if probe_kvm(FIRST_UID, FIRST_UID):
            return Finding("kvm", True, "a guest instruction ran", required=False)
    except OSError as error:
        return Finding("kvm", False, f"cannot be tried: {error.strerror}", "run doctor as root", required=False)
    fix = "enable virtualisation in the firmware, or nested virtualisation of this VM"
    return Finding("kvm", False, "no guest runs under it; guests are emulated (TCG)", fix, required=False)
