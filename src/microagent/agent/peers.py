"""Who may speak to the agent: root, and the group `microagent`, as the kernel vouches for them.

The socket's mode (0660, that group) is the first lock. This is the second, for a socket whose mode somebody loosened.
"""

import ctypes
import grp
import os
import pwd
import socket
import struct
from pathlib import Path

from microagent.api.names import GROUP
from microagent.errors import HostError
from microagent.guests.caller import Caller
from microagent.workspace.files import open_directory

_libc = ctypes.CDLL(None, use_errno=True)
_UCRED = struct.Struct("=iII")
_SO_PEERGROUPS = 59  # asm-generic/socket.h; the Python module has no name for it
_MAX_GROUPS = 65536  # NGROUPS_MAX


def group_id() -> int | None:
    """The gid of the group `microagent`, None when the machine has none (then only root may)."""
    try:
        return grp.getgrnam(GROUP).gr_gid
    except KeyError:
        return None


def may_speak(peer: socket.socket, group: int | None) -> bool:
    """Whether the process that connected was root or in the group."""
    _, uid, gid = _UCRED.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    if uid == 0:
        return True
    if group is None:
        return False
    return group in (gid, *_groups(peer))


def _groups(peer: socket.socket) -> tuple[int, ...]:
    # Not by the socket's own method, which takes no more than 1 KiB.
    groups, length = (ctypes.c_uint32 * _MAX_GROUPS)(), ctypes.c_uint32(_MAX_GROUPS * 4)
    if _libc.getsockopt(peer.fileno(), socket.SOL_SOCKET, _SO_PEERGROUPS, groups, ctypes.byref(length)) != 0:
        raise OSError(ctypes.get_errno(), "SO_PEERGROUPS failed")
    return tuple(groups[: length.value // 4])


def uid_of(peer: socket.socket) -> int:
    """The user at the other end."""
    _, uid, _ = _UCRED.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return int(uid)


def caller(peer: socket.socket) -> Caller:
    """The user at the other end, with whose rights the files that they name are read."""
    _, uid, gid = _UCRED.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return Caller(uid, gid, _groups(peer))


def who(peer: socket.socket) -> str:
    """The user at the other end, for records: `root`, or `uid 1000` when the machine has no name for it."""
    uid = uid_of(peer)
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def listen(path: Path, group: int | None) -> socket.socket:
    """The agent's listening socket, 0660; a dead agent's socket file is replaced.

    HostError where somebody else could put another one in its place.
    """
    os.close(open_directory(path.parent))
    path.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # bind(2) makes the file with the process's umask: nobody may connect before mode and group are right.
    umask = os.umask(0o177)
    try:
        sock.bind(str(path))
        os.chown(path, 0, -1 if group is None else group)
        path.chmod(0o660)
    except OSError as error:
        sock.close()
        raise HostError(f"cannot listen on {path}: {error.strerror or error}") from error
    finally:
        os.umask(umask)
    sock.listen(128)
    return sock
