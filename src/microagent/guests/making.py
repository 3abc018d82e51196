"""Makes the disk of an image, step by step: read by skopeo, unpacked by umoci, written by mke2fs, put on the shelf.

Whoever's rights a step has, it can write to its bench alone (see `workshop`).
"""

import asyncio
import os
import stat
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from microagent.audit.render import size
from microagent.errors import HostError, Malformed
from microagent.guests import oci, skopeo
from microagent.guests.caller import ROOT, Caller, acting_as
from microagent.guests.disk import Tree, image_disk_command, measure_tree
from microagent.guests.local import Archive, Layout, Rootfs, chosen_of, contents_of
from microagent.guests.oci import ImageConfig
from microagent.guests.shelf import ROOTFS, Shelf, Stored
from microagent.guests.skopeo import TAG, write_shadow
from microagent.guests.workshop import FILES_HINT, PLACE, READING, SIZE_HINT, UNPACKING, Step, Workshop

_TREE = "rootfs"


class Maker:
    """Makes images for one shelf."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    async def make(self, shop: Workshop, source: Rootfs | Layout | Archive, caller: Caller, *, trusted: bool) -> Stored:
        """The image of what lies on the disk; a `trusted` layout is unpacked where it is."""
        if isinstance(source, Rootfs):
            bench = shop.bench("disk", caller)
            await self._write_disk(shop, bench, str(source.path), source.tree, caller)
            return self._put(shop, bench, caller, source.digest, ImageConfig())
        if isinstance(source, Layout) and trusted:
            return await self.make_from_layout(shop, source.path, caller, source.manifest, trusted=True)
        bench = shop.bench("fetch", caller)
        if isinstance(source, Layout):
            layout = await skopeo.import_layout(shop, bench, source.path, source.manifest, caller)
        else:
            layout = await skopeo.import_archive(shop, bench, source.local, caller)
        return await self.make_from_layout(shop, layout, caller)

    async def make_from_layout(
        self,
        shop: Workshop,
        layout: Path,
        reader: Caller,
        chosen: oci.Descriptor | None = None,
        digest: str = "",
        *,
        trusted: bool = False,
    ) -> Stored:
        """`digest` is what the registry calls it; skopeo may have had to convert the manifest."""

        def read() -> tuple[oci.Descriptor, ImageConfig, list[oci.Descriptor]]:
            # The reader may pass through its bench, but not through what is above it.
            parent = os.open(layout.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                with acting_as(reader):
                    seen = Path(f"/proc/self/fd/{parent}", layout.name)
                    manifest = chosen or chosen_of(seen, "")
                    return manifest, *contents_of(seen, manifest)
            finally:
                os.close(parent)

        try:
            manifest, config, blobs = await asyncio.to_thread(read)
        except Malformed as error:
            raise HostError(f"the image cannot be used: {error.what}") from error
        ready = self._shelf.find(digest or manifest.digest)
        if ready:
            return ready
        bench = shop.bench("disk", ROOT)
        if not trusted:
            layout = _taken(shop.bench("taken", ROOT), layout, blobs, reader)
        tree = await self._unpack(shop, bench, layout, manifest)
        measured = await asyncio.to_thread(measure_tree, tree)
        await self._write_disk(shop, bench, tree.name, measured, ROOT)
        return self._put(shop, bench, ROOT, digest or manifest.digest, config)

    async def _unpack(self, shop: Workshop, bench: Path, layout: Path, manifest: oci.Descriptor) -> Path:
        shadow = shop.path / "shadow"
        write_shadow(shadow, layout, manifest)
        command = ("umoci", "raw", "unpack", "--image", f"{shadow}:{TAG}", f"{PLACE}/{_TREE}")
        await shop.run(bench, Step("unpacking", watch=_TREE), *command, capabilities=UNPACKING)
        tree = bench / _TREE
        # A layer may say what its own root is; were it a link, the disk would be made of what it points at.
        if not stat.S_ISDIR(tree.lstat().st_mode):
            raise HostError("the image cannot be used: its root is no directory")
        return tree

    async def _write_disk(self, shop: Workshop, bench: Path, tree: str, measured: Tree, caller: Caller) -> None:
        if measured.size > shop.bounds.image_bytes:
            what = f"the image is {size(measured.size)}B, larger than {size(shop.bounds.image_bytes)}B"
            raise HostError(what, SIZE_HINT)
        if measured.inodes > shop.bounds.files:
            raise HostError(f"the image has {measured.inodes} files, more than {shop.bounds.files}", FILES_HINT)
        step = Step("building", measured.size, watch=ROOTFS)
        command = image_disk_command(tree, measured, ROOTFS)
        await shop.run(bench, step, *command, caller=caller, capabilities=READING)

    def _put(self, shop: Workshop, bench: Path, maker: Caller, digest: str, config: ImageConfig) -> Stored:
        """The bench was its maker's: what is taken from it is a file of theirs, not a link to another's."""
        draft = shop.bench("draft", ROOT)
        disk = draft / ROOTFS
        (bench / ROOTFS).rename(disk)
        _check_own(disk, maker)
        os.chown(disk, 0, 0)
        disk.chmod(0o600)
        ready = self._shelf.find(digest)
        now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
        return ready or self._shelf.put(draft, digest, config, now)


def _taken(place: Path, layout: Path, blobs: list[oci.Descriptor], maker: Caller) -> Path:
    """A layout of root's with the blobs of another's: root must follow no link, and open no device, of theirs.

    Each is a file of its maker's; what is in it, umoci holds against its digest. HostError when one is anything else.
    """
    inside = place / "blobs/sha256"
    inside.mkdir(parents=True)
    try:
        with ExitStack() as stack:
            at: int | None = None
            for part in (layout, "blobs", "sha256"):
                at = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
                stack.callback(os.close, at)
            for name in {blob.digest.partition(":")[2] for blob in blobs}:
                os.rename(name, inside / name, src_dir_fd=at)
                _check_own(inside / name, maker)
    except OSError as error:
        raise HostError(f"the image's layout was tampered with while it was made: {error.strerror}") from error
    return place


def _check_own(file: Path, maker: Caller) -> None:
    """In a directory of root's by now. HostError unless it is a file, of its maker's, and has no other name."""
    status = file.lstat()
    if not stat.S_ISREG(status.st_mode) or status.st_uid != maker.uid or status.st_nlink != 1:
        raise HostError("the image was tampered with while it was made")
