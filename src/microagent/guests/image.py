"""Images: from what the user names to a read-only disk.

How this works. A reference is the name of a built-in image, the path of a rootfs directory, or the path of an
OCI layout (PATH or PATH:TAG). Each has a digest: an OCI manifest's own, or one over a tree's metadata
(`disk.measure_tree`). The store keeps one ext4 file per digest, made in a scratch directory and renamed, so that
what has a name is complete. Layers are unpacked by umoci, which knows whiteouts and hostile paths; images are the
user's own, as in Docker: who may talk to the agent may read what they name.
"""

import asyncio
import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from microagent.errors import ApiError, HostError, Malformed
from microagent.guests import oci
from microagent.guests.disk import Tree, make_image_disk, measure_tree
from microagent.guests.oci import ImageConfig
from microagent.guests.tools import run_tool

# An index may point at an index (one per platform); nothing sensible nests deeper.
_MAX_NESTING = 4


@dataclass(frozen=True, slots=True)
class Image:
    """An image ready to boot: `rootfs` is an ext4 file that must be opened read-only."""

    ref: str
    digest: str
    rootfs: Path
    config: ImageConfig


class ImageStore:
    """Images under `directory`; `builtin` is where those are that came with the kernel (guest_dir/images)."""

    def __init__(self, directory: Path, builtin: Path | None = None) -> None:
        self._directory = directory
        self._builtin = builtin
        self._locks: dict[str, asyncio.Lock] = {}

    async def resolve(self, ref: str) -> Image:
        """The image that `ref` names, made ready if need be; ApiError if it is not there, HostError if unreadable."""
        try:
            path, tag = await asyncio.to_thread(self._locate, ref)
            if (path / "oci-layout").exists():
                return await self._from_layout(ref, path, tag)
            return await self._from_directory(ref, path)
        except Malformed as error:
            raise HostError(f"the image {ref!r} cannot be read: {error.what}") from error
        except OSError as error:
            raise HostError(f"the image {ref!r} cannot be read: {error}") from error

    def _locate(self, ref: str) -> tuple[Path, str]:
        if "/" not in ref:
            if self._builtin and ref not in ("", ".", "..") and (self._builtin / ref).is_dir():
                return (self._builtin / ref).resolve(), ""
            known = sorted(p.name for p in self._builtin.iterdir()) if self._builtin and self._builtin.is_dir() else []
            hint = f"known images: {', '.join(known) or 'none'}; or give a path: ./{ref or 'DIR'}"
            raise ApiError("not_found", f"there is no image named {ref!r}", hint)
        if not ref.startswith("/"):
            raise ApiError(
                "invalid", f"the image path {ref!r} is not absolute", "the agent does not share your working directory"
            )
        if Path(ref).is_dir():
            return Path(ref), ""
        path, colon, tag = ref.rpartition(":")
        if colon and (Path(path) / "oci-layout").exists():
            return Path(path), tag
        hint = "give a rootfs directory or an OCI layout (made by: skopeo copy docker://IMAGE oci:DIR:TAG)"
        raise ApiError("not_found", f"there is no directory {ref}", hint)

    async def _from_directory(self, ref: str, path: Path) -> Image:
        tree = await asyncio.to_thread(measure_tree, path)
        if not tree.inodes:
            raise HostError(f"{path} is empty", "give a rootfs directory or an OCI layout")
        return await self._ready(ref, tree.digest, path, tree, ImageConfig())

    async def _from_layout(self, ref: str, layout: Path, tag: str) -> Image:
        chosen = oci.choose(oci.parse_document((layout / "index.json").read_bytes()), tag)
        for _ in range(_MAX_NESTING):
            if not chosen.is_index:
                break
            chosen = oci.choose(oci.parse_document(read_blob(layout, chosen)), "")
        else:
            raise Malformed("indexes within indexes")
        manifest = oci.parse_document(read_blob(layout, chosen))
        config = oci.parse_config(read_blob(layout, oci.descriptor(manifest.get("config"))))
        return await self._ready(ref, chosen.digest.partition(":")[2], layout, chosen, config)

    async def _ready(
        self, ref: str, digest: str, source: Path, what: Tree | oci.Descriptor, config: ImageConfig
    ) -> Image:
        disk = self._directory / f"{digest}.ext4"
        # Two starts of one image: the second waits, and finds it made.
        async with self._locks.setdefault(digest, asyncio.Lock()):
            if not disk.exists():
                await self._make(disk, source, what)
        return Image(ref, f"sha256:{digest}", disk, config)

    async def _make(self, disk: Path, source: Path, what: Tree | oci.Descriptor) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".new-", dir=self._directory))
        try:
            new = scratch / "disk"
            if isinstance(what, Tree):
                await make_image_disk(source, what, new)
            else:
                unpacked = await _unpack(source, what, scratch)
                await make_image_disk(unpacked, await asyncio.to_thread(measure_tree, unpacked), new)
            new.rename(disk)
        finally:
            await asyncio.to_thread(shutil.rmtree, scratch, ignore_errors=True)


def read_blob(layout: Path, descriptor: oci.Descriptor) -> bytes:
    """A small blob of a layout, checked against its digest; Malformed when it is not what the descriptor says."""
    if descriptor.size > oci.MAX_DOCUMENT:
        raise Malformed(f"{descriptor.digest} is {descriptor.size} bytes")
    with (layout / "blobs/sha256" / descriptor.digest.partition(":")[2]).open("rb") as file:
        data = file.read(descriptor.size + 1)
    if f"sha256:{hashlib.sha256(data).hexdigest()}" != descriptor.digest:
        raise Malformed(f"{descriptor.digest} does not hold what its name says")
    return data


async def _unpack(layout: Path, manifest: oci.Descriptor, scratch: Path) -> Path:
    """The root file system of a manifest. umoci wants a tag, so it gets a layout of its own with that one image."""
    shadow = scratch / "layout"
    shadow.mkdir()
    (shadow / "blobs").symlink_to(os.path.realpath(layout / "blobs"))
    shutil.copy(layout / "oci-layout", shadow)
    entry: dict[str, Any] = {**manifest.raw, "annotations": {"org.opencontainers.image.ref.name": "image"}}
    (shadow / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    rootfs = scratch / "rootfs"
    await run_tool("umoci", "raw", "unpack", "--image", f"{shadow}:image", str(rootfs))
    return rootfs
