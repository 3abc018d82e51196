"""Where images are made: a scratch directory, programs that can write to it alone, and bounds that are watched.

How this works. Each program runs confined (see `confined`) with a subdirectory of the scratch directory as PLACE. While
it runs, the file system's free space and the subdirectory's size are looked at; a program that goes over its bounds is
killed, and everything goes with the scratch directory. The same looks give the progress.
"""

import asyncio
import contextlib
import json
import os
import stat
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from microagent.audit.render import size as size_text
from microagent.errors import ApiError, HostError
from microagent.guests import confined
from microagent.guests.caller import ROOT, Caller
from microagent.guests.tools import failed, missing, remove_tree

PLACE = confined.PLACE
SCRATCH = ".new-"
# What unpacking needs of root: owners, modes, devices and file capabilities as the layers have them.
UNPACKING = ("chown", "dac_override", "fowner", "fsetid", "mknod", "setfcap")
READING = ("dac_override",)

_LOOK = 0.25  # seconds
# Files are rounded up to blocks, and skopeo adds an index and a manifest.
_PROMISE_SLACK = 4 << 20
# Sizing a tree of a million files takes seconds: it may take this part of the time at most.
_SIZING_SHARE = 5
# What the agent's own environment says about the way to the internet, which for a pull is the host's.
_PASSED_ON = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


@dataclass(frozen=True, slots=True)
class Bounds:
    """What making one image may take at most, and how long a registry may say nothing.

    It leaves `reserve_bytes` of the file system free, or one part in `reserve_parts` where that is less.
    """

    image_bytes: int = 64 << 30
    files: int = 4_000_000
    reserve_bytes: int = 1 << 30
    reserve_parts: int = 20
    stall_seconds: float = 120


DEFAULT_BOUNDS = Bounds()

SIZE_HINT = "agent.yaml says how large one may be, in `images: image_bytes`"
FILES_HINT = "agent.yaml says how many it may have, in `images: files`"
# What agent.yaml may say of them: the least lets a small image through, the most is what Linux can count.
RANGES: Mapping[str, tuple[int, int]] = {
    "image_bytes": (1 << 20, (1 << 63) - 1),
    "files": (100, 1 << 62),
    "reserve_bytes": (0, 1 << 62),
    "stall_seconds": (1, 86400),
}

# Phase, bytes done, bytes in all (None where that is not known).
Report = Callable[[str, int, int | None], None]


def unheard(phase: str, done: int, total: int | None) -> None:
    """A report that nobody wants."""


@dataclass(frozen=True, slots=True)
class Step:
    """What a program does, for progress and errors.

    `watch` is the file that grows, None for all of the directory. With `exact`, `total` is what may come and no more.
    """

    phase: str
    total: int | None = None
    watch: str | None = None
    network: bool = False
    exact: bool = False


class Workshop:
    """One scratch directory (`open_workshop`)."""

    def __init__(self, path: Path, bounds: Bounds, report: Report) -> None:
        self.path = path
        self.report = report
        self.bounds = bounds

    def bench(self, name: str, owner: Caller) -> Path:
        """A new subdirectory that `owner` may write to."""
        path = self.path / name
        path.mkdir(mode=0o700)
        os.chown(path, owner.uid, owner.gid)
        return path

    async def run(
        self, bench: Path, step: Step, *command: str, caller: Caller = ROOT, capabilities: tuple[str, ...] = ()
    ) -> bytes:
        """What the program writes to stdout. HostError when it fails (`ToolFailed`) or goes over the bounds."""
        settings: confined.Settings = {
            "directory": str(bench),
            "uid": caller.uid,
            "gid": caller.gid,
            "groups": list(caller.groups),
            "capabilities": list(capabilities) if caller.is_root else [],
            "network": step.network,
            "file_bytes": self.bounds.image_bytes,
            "parent": os.getpid(),
        }
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", confined.__file__, json.dumps(settings), *command),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=_environment(),
        )
        # However short it is: the first look may come after its end.
        self.report(step.phase, 0, step.total)
        watching = asyncio.create_task(self._watch(bench, step))
        talking = asyncio.create_task(process.communicate())
        try:
            await asyncio.wait([watching, talking], return_when=asyncio.FIRST_COMPLETED)
            if not talking.done():
                watching.result()  # raises: it never ends otherwise
            out, said = talking.result()
        finally:
            watching.cancel()
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
            await asyncio.wait([watching, talking])
        if process.returncode == 127:
            raise missing(command[0])
        if process.returncode != 0:
            raise failed(command[0], said, process.returncode)
        return out

    async def _watch(self, bench: Path, step: Step) -> None:
        """Reports how far it is; returns never, and raises when a bound is passed."""
        watched = bench / step.watch if step.watch else bench
        before = most = 0
        next_size = moved = time.monotonic()
        first = True
        while True:
            self._check_room(bench)
            now = time.monotonic()
            if now >= next_size:
                size, files = await asyncio.to_thread(size_of, watched)
                taken = time.monotonic() - now
                next_size = now + max(_LOOK, taken * _SIZING_SHARE)
                if first:
                    before, first = size, False
                self._check_size(size, files)
                _check_promise(step, size - before)
                if size > most:
                    most, moved = size, now
                self.report(step.phase, max(0, size - before), step.total)
            if step.network and now - moved > self.bounds.stall_seconds:
                what = f"nothing came from the registry for {self.bounds.stall_seconds:.0f} s"
                raise ApiError("busy", what, "try again later")
            await asyncio.sleep(_LOOK)

    def _check_room(self, bench: Path) -> None:
        room = os.statvfs(bench)
        reserve = min(self.bounds.reserve_bytes, room.f_blocks * room.f_frsize // self.bounds.reserve_parts)
        if room.f_bavail * room.f_frsize < reserve:
            what = f"the image does not fit: less than {size_text(reserve)}B of the disk would stay free"
            raise HostError(
                what, "free some space below state_dir (/var/lib/microagent by default): microagent image ls"
            )

    def _check_size(self, size: int, files: int) -> None:
        if size > self.bounds.image_bytes:
            raise HostError(f"the image is larger than {size_text(self.bounds.image_bytes)}B", SIZE_HINT)
        if files > self.bounds.files:
            raise HostError(f"the image has more than {self.bounds.files} files", FILES_HINT)


def _check_promise(step: Step, done: int) -> None:
    if step.exact and step.total is not None and done > step.total * 1.05 + _PROMISE_SLACK:
        what = f"more is sent than the {size_text(step.total)}B that the image's manifest says"
        raise ApiError("failed", what, "the registry, or somebody on the way, is not to be trusted")


@asynccontextmanager
async def open_workshop(directory: Path, bounds: Bounds, report: Report) -> AsyncIterator[Workshop]:
    """A workshop below `directory`, and nothing left of it afterwards."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=SCRATCH, dir=directory))
    try:
        yield Workshop(scratch, bounds, report)
    finally:
        await asyncio.shield(asyncio.to_thread(remove_tree, scratch))


def size_of(path: Path) -> tuple[int, int]:
    """Bytes on the disk and number of files below a path, links not followed, what vanishes meanwhile not counted."""
    size = files = 0
    for status in _statuses(path):
        files += 1
        size += status.st_blocks * 512
    return size, files


def _statuses(path: Path) -> Iterator[os.stat_result]:
    pending = [os.fspath(path)]
    while pending:
        one = pending.pop()
        with contextlib.suppress(OSError):
            status = os.lstat(one)
            yield status
            if stat.S_ISDIR(status.st_mode):
                with os.scandir(one) as entries:
                    pending.extend(entry.path for entry in entries)


def _environment() -> Mapping[str, str]:
    passed = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    # Programs look for settings and credentials in HOME: what they find there is what we put there.
    return {"PATH": os.environ.get("PATH", os.defpath), "HOME": PLACE, "TMPDIR": PLACE, "LC_ALL": "C", **passed}
