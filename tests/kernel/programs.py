"""Server programs in the made-up internet, at `world.PROGRAMS`."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from microagent.demo import world
from microagent.demo.internet import Internet

SERVERS = Path(__file__).resolve().parents[1] / "servers"


@contextmanager
def program(internet: Internet, *command: str) -> Iterator[None]:
    """Runs a program among the servers from the moment it has said its first line."""
    process = subprocess.Popen(internet.far_argv(*command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process:
        try:
            assert process.stdout.readline(), "the server did not come up"
            yield
        finally:
            process.kill()


@contextmanager
def python_server(internet: Internet, name: str, *arguments: str) -> Iterator[None]:
    """`tests/servers/NAME PEM ADDRESS ARGUMENTS`."""
    pem = internet.directory / f"{world.PROGRAMS}.pem"
    with program(internet, sys.executable, str(SERVERS / name), str(pem), world.PROGRAMS, *arguments):
        yield


@contextmanager
def ready(internet: Internet, port: int, *command: str) -> Iterator[None]:
    """Runs a program among the servers from the moment that its port accepts connections."""
    null = subprocess.DEVNULL
    with subprocess.Popen(internet.far_argv(*command), stdin=null, stdout=null, stderr=null) as process:
        try:
            deadline = time.monotonic() + 10
            while not internet.far.run(lambda: _accepts(port)):
                assert process.poll() is None, command
                assert time.monotonic() < deadline, command
                time.sleep(0.05)
            yield
        finally:
            process.terminate()


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((world.PROGRAMS, port)) == 0
