"""Disks for guests: ext4 files made by mke2fs, never mounted on the host."""

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from microagent.errors import HostError
from microagent.guests.tools import run_tool

_BLOCK = 4096
_INODE = 256
# A symlink shorter than this lies in its inode (ext4 "fast symlink").
_FAST_SYMLINK = 60
# Group descriptors, bitmaps, directory blocks that split: measured at 2 %; a sparse file costs only what is used.
_SLACK_RATIO = 1.10
_SLACK = 16 << 20
_TAKEN_TOGETHER = ("-q", "-F", "-t", "ext4", "-b", str(_BLOCK), "-I", str(_INODE), "-m", "0")


@dataclass(frozen=True, slots=True)
class Tree:
    """A directory tree, by its metadata: a digest that changes when any file does, and the room it needs."""

    digest: str
    size: int
    inodes: int


def measure_tree(root: Path) -> Tree:
    """Walks a tree without following links.

    The digest covers path, mode, owner, size, mtime, ctime and link target of every file, and no contents: a
    file cannot change without its ctime, and reading everything would take seconds at each start.
    """
    whole = hashlib.sha256()
    size = inodes = 0
    seen: set[tuple[int, int]] = set()
    pending = [os.fsencode(root)]
    while pending:
        directory = pending.pop()
        with os.scandir(directory) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
        for entry in found:
            status = entry.stat(follow_symlinks=False)
            target = os.readlink(entry.path) if stat.S_ISLNK(status.st_mode) else b""  # noqa: PTH115  (bytes)
            facts = (
                status.st_mode,
                status.st_uid,
                status.st_gid,
                status.st_size,
                status.st_mtime_ns,
                status.st_ctime_ns,
            )
            whole.update(repr((entry.path, facts, target)).encode())
            if stat.S_ISDIR(status.st_mode):
                pending.append(entry.path)
            elif status.st_nlink > 1:
                if (status.st_dev, status.st_ino) in seen:
                    continue
                seen.add((status.st_dev, status.st_ino))
            inodes += 1
            size += _INODE + _blocks(status, target) * _BLOCK
    return Tree(whole.hexdigest(), size, inodes)


def image_disk_command(tree: str, measured: Tree, disk: str) -> list[str]:
    """What writes an ext4 with a copy of the tree, for mounting read-only: no journal, no reserve, sized to it."""
    size = int(measured.size * _SLACK_RATIO) + _SLACK
    features = ("-O", "^has_journal,^resize_inode", "-E", "root_owner=0:0", "-N", str(measured.inodes + 64))
    return ["mke2fs", *_TAKEN_TOGETHER, *features, "-d", tree, disk, f"{size // _BLOCK}"]


async def make_overlay(path: Path, size_mib: int) -> None:
    """An empty writable ext4, sparse: it takes what the workspace writes, and `size_mib` at most.

    HostError when there is something at `path`, or when the disk is full.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise HostError(f"the overlay {path} cannot be made: {error.strerror}") from error
    try:
        os.ftruncate(descriptor, size_mib << 20)
    finally:
        os.close(descriptor)
    # The inode tables stay holes: the kernel is told that they are zero, and init mounts with noinit_itable.
    options = ("-O", "^resize_inode", "-J", "size=8", "-E", "root_owner=0:0,lazy_itable_init=1,lazy_journal_init=1")
    try:
        await run_tool("mke2fs", *_TAKEN_TOGETHER, *options, str(path))
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _blocks(status: os.stat_result, target: bytes) -> int:
    if stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode):
        return -(-status.st_size // _BLOCK)
    return 1 if len(target) >= _FAST_SYMLINK else 0
