"""Files of the state directory: written whole or not at all, and never through a link.

Every call takes a descriptor of the directory it works in, so a path component cannot be swapped under it.
"""

import os
import secrets
import shutil
import stat
from pathlib import Path

from microagent.errors import HostError, host_error

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def open_directory(name: str | Path, parent: int | None = None) -> int:
    """A descriptor of a directory that is ours alone; HostError for a link, another owner or a loose mode."""
    try:
        fd = os.open(name, _DIRECTORY, dir_fd=parent)
    except OSError as error:
        raise host_error(error, f"cannot open {name}") from error
    found = os.fstat(fd)
    if found.st_uid != os.geteuid() or found.st_mode & 0o022:
        os.close(fd)
        raise HostError(f"{name} can be written by others", f"chown root {name} && chmod go-w {name}")
    return fd


def ensure_directory(path: Path, mode: int) -> None:
    """Makes a directory and its parents where they are missing; those that exist are left as they are."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700)
        # mkdir(2) is subject to the umask, chmod(2) is not.
        path.chmod(mode)
    except FileExistsError:
        return
    except OSError as error:
        raise host_error(error, f"cannot make {path}") from error


def write_atomic(directory: int, name: str, data: bytes, mode: int = 0o600) -> None:
    """Replaces a file: temporary file, fsync, rename, fsync of the directory. HostError when the disk refuses."""
    temporary = f".{name}.{secrets.token_hex(4)}"
    try:
        fd = os.open(
            temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=directory
        )
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            os.unlink(temporary, dir_fd=directory)
            raise
        os.fsync(directory)
    except OSError as error:
        raise host_error(error, f"cannot write {name}") from error


def drop_unfinished(directory: int) -> None:
    """Removes what `write_atomic` left of writes that were cut off; for whoever alone writes there."""
    for name in listing(directory):
        if name.startswith("."):
            os.unlink(name, dir_fd=directory)


def read_file(directory: int, name: str) -> bytes:
    """The bytes of a regular file; OSError when it is not there or is a link."""
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    with os.fdopen(fd, "rb") as file:
        return file.read()


def remove_tree(directory: int, name: str) -> None:
    """Removes a directory and all in it, or whatever else has that name; a link's target stays."""
    if stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
        shutil.rmtree(name, dir_fd=directory)
    else:
        os.unlink(name, dir_fd=directory)


def listing(directory: int) -> list[str]:
    """The names in a directory, sorted."""
    with os.scandir(directory) as entries:
        return sorted(entry.name for entry in entries)


def open_append(directory: int, name: str) -> int:
    """A descriptor that can read and append, mode 0600; HostError when the disk refuses, or for a file of two names."""
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(name, flags, 0o600, dir_fd=directory)
    except OSError as error:
        raise host_error(error, f"cannot open {name}") from error
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
        os.close(fd)
        raise HostError(f"{name} is not a file of its own", "see what it is, and remove it")
    return fd
