"""The unix sockets over which the agent speaks with a guest, and with its mediator: one file each, root's alone.

How this works. The listening socket is made here and its descriptor is given to the process that answers on it; that
process can open no path. Whoever answers goes on listening when the agent's connection ends, so that the next agent
finds it at the same place. A directory's descriptor stands for its path (`/proc/self/fd/N/NAME`): a socket's path may
have 107 bytes only (unix(7)), and nothing on the way can be swapped for a link.
"""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from microagent.errors import HostError

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def listen(directory: Path, name: str) -> socket.socket:
    """A listening socket at `directory`/`name`, in the place of whatever was there; HostError when it cannot be."""
    with _place(directory, name) as place:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with contextlib.suppress(FileNotFoundError):
                Path(place).unlink()
            sock.bind(place)
            sock.listen(8)
        except OSError as error:
            sock.close()
            raise HostError(f"cannot listen on {directory / name}: {error.strerror or error}") from error
        return sock


def connect(directory: Path, name: str) -> socket.socket:
    """A connection to who listens at `directory`/`name`; HostError when nobody does."""
    with _place(directory, name) as place:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect(place)
        except OSError as error:
            sock.close()
            raise HostError(f"nobody listens on {directory / name}: {error.strerror or error}") from error
        return sock


@contextlib.contextmanager
def _place(directory: Path, name: str) -> Iterator[str]:
    try:
        fd = os.open(directory, _DIRECTORY)
    except OSError as error:
        raise HostError(f"cannot open {directory}: {error.strerror}") from error
    try:
        yield f"/proc/self/fd/{fd}/{name}"
    finally:
        os.close(fd)
