"""Images that are files on this machine, looked at with their caller's rights.

What is found has a *mark*: a text that changes when the content does. Who sees the same mark again may have what was
made from it, without a byte being read again.
"""

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from microagent.api.reference import Kind, Local
from microagent.errors import ApiError, HostError, Malformed
from microagent.guests import oci
from microagent.guests.caller import Caller, acting_as
from microagent.guests.disk import Tree, measure_tree
from microagent.guests.oci import Descriptor, ImageConfig
from microagent.guests.skopeo import MAX_NESTING

_HINT = "give a rootfs directory, an OCI layout or a docker archive (docker-archive:FILE)"


@dataclass(frozen=True, slots=True)
class Rootfs:
    """A directory that is a root file system. Its mark is over metadata, as every reader sees it."""

    path: Path
    tree: Tree
    mark: str
    digest: str


@dataclass(frozen=True, slots=True)
class Layout:
    """An OCI layout. Its mark is its manifest's digest, and whose the copy is that was made of it."""

    path: Path
    manifest: Descriptor
    mark: str
    digest: str


@dataclass(frozen=True, slots=True)
class Archive:
    """A docker archive. Its mark is the file's identity and times; its digest is not known before it is read."""

    local: Local
    mark: str
    digest: str = ""


def inspect(local: Local, caller: Caller) -> Rootfs | Layout | Archive:
    """What lies at a path. ApiError when there is nothing, nothing `caller` may read, or nonsense; HostError."""
    path = Path(local.path)
    try:
        with acting_as(caller):
            if local.kind is Kind.DOCKER_ARCHIVE:
                return _archive(local, caller)
            if local.kind is Kind.LAYOUT or (path / "oci-layout").exists():
                return _layout(path, local.tag, caller)
            if path.is_dir():
                return _rootfs(path, caller)
            before, colon, tag = local.path.rpartition(":")
            if colon and (Path(before) / "oci-layout").exists():
                return _layout(Path(before), tag, caller)
            if path.exists():
                raise ApiError("invalid", f"{local.path} is no directory", _HINT)
    except Malformed as error:
        raise ApiError("failed", f"the image {str(local)!r} cannot be read: {error.what}", error.hint) from error
    except PermissionError as error:
        what = f"you may not read {error.filename or local.path}"
        raise ApiError("forbidden", what, "the agent reads images with your rights: chmod it, or use sudo") from error
    except FileNotFoundError as error:
        raise ApiError("not_found", f"there is no {error.filename or local.path}", _HINT) from error
    except OSError as error:
        raise HostError(f"the image {str(local)!r} cannot be read: {error}") from error
    raise ApiError("not_found", f"there is no directory {local.path}", _HINT)


def _archive(local: Local, caller: Caller) -> Archive:
    with open(os.open(local.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:  # noqa: PTH123  (flags)
        status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode):
        raise ApiError("invalid", f"{local.path} is no file", _HINT)
    # Who reads it makes the image of it, so what one user made is not another's.
    facts = (caller.uid, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return Archive(local, repr(facts))


def _layout(path: Path, tag: str, caller: Caller) -> Layout:
    manifest = chosen_of(path, tag)
    # The copy is read by its own index, which its user could have changed: it may be whole, and another image.
    mark = manifest.digest if caller.is_root else f"{caller.uid} {manifest.digest}"
    return Layout(path, manifest, mark, manifest.digest)


def _rootfs(path: Path, caller: Caller) -> Rootfs:
    tree = measure_tree(path)
    if not tree.inodes:
        raise ApiError("invalid", f"{path} is empty", _HINT)
    mark = tree.digest if caller.is_root else hashlib.sha256(f"{caller.uid} {tree.digest}".encode()).hexdigest()
    return Rootfs(path, tree, mark, f"sha256:{mark}")


def chosen_of(layout: Path, tag: str) -> Descriptor:
    """The manifest that a layout has under `tag`, or, without one, its only one or the one for this machine."""
    chosen = oci.choose(oci.parse_document(_read(layout / "index.json", oci.MAX_DOCUMENT)), tag)
    for _ in range(MAX_NESTING):
        if not chosen.is_index:
            return chosen
        chosen = oci.choose(oci.parse_document(read_blob(layout, chosen)), "")
    raise Malformed("indexes within indexes")


def contents_of(layout: Path, manifest: Descriptor) -> tuple[ImageConfig, list[Descriptor]]:
    """How a layout's image wants to be run, and all the blobs that it consists of."""
    config, *layers = oci.parts(oci.parse_document(read_blob(layout, manifest)))
    return oci.parse_config(read_blob(layout, config)), [manifest, config, *layers]


def read_blob(layout: Path, descriptor: Descriptor) -> bytes:
    """A small blob of a layout, checked against its digest; Malformed when it is not what the descriptor says."""
    if descriptor.size > oci.MAX_DOCUMENT:
        raise Malformed(f"{descriptor.digest} is {descriptor.size} bytes")
    data = _read(layout / "blobs/sha256" / descriptor.digest.partition(":")[2], descriptor.size)
    if f"sha256:{hashlib.sha256(data).hexdigest()}" != descriptor.digest:
        raise Malformed(f"{descriptor.digest} does not hold what its name says")
    return data


def _read(path: Path, most: int) -> bytes:
    """A regular file's bytes, `most` and one more at the most; a pipe in its place would never end."""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:  # noqa: PTH123  (flags)
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise Malformed(f"{path.name} is no file")
        return file.read(most + 1)
