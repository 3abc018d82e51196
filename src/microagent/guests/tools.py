"""Runs the programs that make disks."""

import asyncio

from microagent.errors import HostError

_PACKAGES = {"mke2fs": "e2fsprogs", "umoci": "umoci", "qemu-system-x86_64": "qemu-system-x86"}


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
        last = said.decode(errors="replace").strip().splitlines()[-3:]
        raise HostError(f"{command[0]} failed: {'; '.join(last) or f'exit code {process.returncode}'}")


def missing(program: str) -> HostError:
    """The error for a program that is not installed."""
    return HostError(f"{program} is not installed", f"apt-get install {_PACKAGES.get(program, program)}")
