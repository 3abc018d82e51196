"""Runs the programs that make disks."""

import asyncio
import subprocess
from pathlib import Path

from microagent.errors import SPACE, HostError

_PACKAGES = {"mke2fs": "e2fsprogs", "umoci": "umoci", "skopeo": "skopeo", "qemu-system-x86_64": "qemu-system-x86"}
_FULL = "no space left on device"


class ToolFailed(HostError):  # noqa: N818  (told apart from other errors, not raised for itself)
    """A program ended with an error; `said` is the end of what it wrote about it."""

    def __init__(self, what: str, hint: str, said: str) -> None:
        super().__init__(what, hint)
        self.said = said


async def run_tool(*command: str) -> None:
    """Runs a program to its end; HostError with what it said when it is missing or fails."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
    except FileNotFoundError as error:
        raise missing(command[0]) from error
    try:
        _, said = await process.communicate()
    except asyncio.CancelledError:
        process.kill()
        await process.wait()
        raise
    if process.returncode != 0:
        raise failed(command[0], said, process.returncode)


def missing(program: str) -> HostError:
    """The error for a program that is not installed."""
    return HostError(f"{program} is not installed", f"apt-get install {_PACKAGES.get(program, program)}")


def failed(program: str, said: bytes, code: int | None) -> ToolFailed:
    """The error for a program that ended with `code`, having said that."""
    lines = said.decode(errors="replace").strip().splitlines()[-3:]
    text = "; ".join(lines)
    hint = SPACE if _FULL in text.lower() else ""
    return ToolFailed(f"{program} failed: {text or f'exit code {code}'}", hint, text)


def remove_tree(path: Path) -> None:
    """Removes whatever is there, links not followed. Not by recursion: an image may nest deeper than Python does."""
    subprocess.run(["/bin/rm", "-rf", "--one-file-system", "--", path], check=False, capture_output=True)
