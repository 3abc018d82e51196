"""Becomes a program that can write to one directory and nowhere else. Run as a script: only the standard library.

How this works. `confined.py SETTINGS PROGRAM [ARG...]`, SETTINGS being JSON (see `Settings`). In a mount namespace of
its own the directory appears at PLACE, and everything else becomes read-only for good, since no right to mount is
kept, and loses its devices, which can be written to on a read-only file system too: the host's disks are among them.
So whatever an image's layers, or a registry's answers, make the program do, the kernel keeps it in there. Then
go the network if it is not needed, all capabilities but those named, and, where it is not root's work, root itself.
The program dies with the agent.
"""

import ctypes
import json
import os
import resource
import signal
import sys
from typing import TypedDict

# A directory that every Linux has, that anybody may pass through to, and in which nobody keeps an image.
PLACE = "/sys/kernel"
# The one device that programs cannot do without.
_NULL = os.devnull

CAPABILITIES = {"chown": 0, "dac_override": 1, "fowner": 3, "fsetid": 4, "mknod": 27, "setfcap": 31}
_LAST_CAPABILITY = 63

_CLONE_NEWNS, _CLONE_NEWNET = 0x00020000, 0x40000000
_MS_BIND, _MS_REC, _MS_PRIVATE = 4096, 16384, 1 << 18
_SYS_MOUNT_SETATTR = 442
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_RDONLY, _NOSUID, _NODEV = 1, 2, 4
_PR_SET_PDEATHSIG, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 1, 24, 38
_SYS_CAPSET = 126
_CAPABILITY_VERSION_3 = 0x20080522


class Settings(TypedDict):
    """`directory` is what PLACE shows; `file_bytes` the most that one file may hold."""

    directory: str
    uid: int
    gid: int
    groups: list[int]
    capabilities: list[str]
    network: bool
    file_bytes: int
    parent: int


def become(settings: Settings, program: list[str]) -> None:
    """Never returns; OSError when something of it cannot be."""
    libc = ctypes.CDLL(None, use_errno=True)

    def check(result: int, what: str) -> None:
        if result < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), what)

    def set_mount(path: str, recursive: int, added: int, removed: int) -> None:
        attributes = (ctypes.c_uint64 * 4)(added, removed, 0, 0)
        arguments = (_AT_FDCWD, path.encode(), recursive, attributes, ctypes.sizeof(attributes))
        check(libc.syscall(_SYS_MOUNT_SETATTR, *arguments), "mount_setattr")

    check(libc.unshare(_CLONE_NEWNS | (0 if settings["network"] else _CLONE_NEWNET)), "unshare")
    check(libc.mount(b"none", b"/", None, ctypes.c_ulong(_MS_REC | _MS_PRIVATE), None), "mount private")
    place, directory = PLACE.encode(), settings["directory"].encode()
    check(libc.mount(directory, place, None, ctypes.c_ulong(_MS_BIND), None), "mount --bind")
    check(libc.mount(_NULL.encode(), _NULL.encode(), None, ctypes.c_ulong(_MS_BIND), None), "mount --bind")
    set_mount("/", _AT_RECURSIVE, _RDONLY | _NOSUID | _NODEV, 0)
    set_mount(_NULL, 0, 0, _NODEV)
    set_mount(PLACE, 0, 0, _RDONLY)
    os.chdir(PLACE)

    kept = {CAPABILITIES[name] for name in settings["capabilities"]}
    for number in range(_LAST_CAPABILITY + 1):
        if number not in kept and libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0) < 0:
            break  # the kernel has no more
    os.setgroups(settings["groups"])
    os.setresgid(settings["gid"], settings["gid"], settings["gid"])
    os.setresuid(settings["uid"], settings["uid"], settings["uid"])
    mask = sum(1 << number for number in kept) if settings["uid"] == 0 else 0
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    # Effective, permitted, inheritable: the lower 32 of each, then the upper.
    sets = (ctypes.c_uint32 * 6)(mask, mask, 0, 0, 0, 0)
    check(libc.syscall(_SYS_CAPSET, header, sets), "capset")
    check(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")

    resource.setrlimit(resource.RLIMIT_FSIZE, (settings["file_bytes"],) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Too large a file is an error to the program, and not its end.
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    # After the last change of user, which would undo it (prctl(2)).
    check(libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "pdeathsig")
    if os.getppid() != settings["parent"]:
        sys.exit(1)
    os.execvp(program[0], program)  # noqa: S606  (no shell is wanted)


if __name__ == "__main__":
    try:
        become(json.loads(sys.argv[1]), sys.argv[2:])
    except FileNotFoundError:
        sys.exit(127)
    except OSError as error:
        sys.stderr.write(f"cannot be confined: {error}\n")
        sys.exit(126)
