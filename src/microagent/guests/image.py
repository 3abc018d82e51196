"""Images: from what the user names to a read-only disk.

How this works. A reference (`api.reference`) names a built-in image, an image in a registry, or a file of the
caller's: a rootfs directory, an OCI layout, a docker archive. Each has a digest: its manifest's, or one over a tree's
metadata. Of each digest there is one ext4 file on the `shelf`, made in a `workshop` by programs that can write nowhere
else: `skopeo` fetches, umoci unpacks (it knows whiteouts and hostile paths), mke2fs writes the disk. Nothing of an
image is ever mounted or run on the host. Two who want one image at once: the second waits, and finds it made.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from weakref import WeakValueDictionary

from microagent.api.reference import Kind, Local, Reference, parse_image
from microagent.audit.render import size
from microagent.errors import ApiError, HostError, MicroagentError
from microagent.guests.caller import ROOT, Caller
from microagent.guests.local import Archive, Layout, Rootfs, inspect
from microagent.guests.making import Maker
from microagent.guests.oci import ImageConfig
from microagent.guests.shelf import Shelf, Stored
from microagent.guests.skopeo import PULLERS, Access, Pull
from microagent.guests.tools import remove_tree
from microagent.guests.turns import Turns
from microagent.guests.workshop import (
    DEFAULT_BOUNDS,
    SIZE_HINT,
    Bounds,
    Report,
    open_workshop,
    unheard,
)

# What a short digest has at least; `image ls` shows as many.
SHORT_DIGEST = 12


@dataclass(frozen=True, slots=True)
class Image:
    """An image ready to boot: `rootfs` is an ext4 file that must be opened read-only."""

    ref: str
    digest: str
    rootfs: Path
    config: ImageConfig


@dataclass(frozen=True, slots=True)
class Listed:
    """One line of a listing. A built-in image that was never used has no disk, and so no digest, size or date."""

    names: tuple[str, ...]
    digest: str | None
    size: int | None
    made: str | None
    builtin: bool


class ImageStore:
    """Images under `directory`; `builtin` is where those are that came with the kernel (guest_dir/images)."""

    def __init__(self, directory: Path, builtin: Path | None = None, bounds: Bounds = DEFAULT_BOUNDS) -> None:
        self._directory = directory
        self._builtin = builtin
        self._bounds = bounds
        self._shelf = Shelf(directory)
        self._maker = Maker(self._shelf)
        self._pullers = cycle(PULLERS)
        self._turns = Turns()
        # Gone with the last who holds or wants one.
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def sweep(self) -> None:
        """Removes what an agent that was killed has left half made."""
        self._shelf.sweep()

    def stored(self, ref: str, digest: str) -> Image:
        """The image that a workspace was made from; ApiError when it was taken away meanwhile."""
        found = self._shelf.find(digest)
        if found is None:
            what = f"the image {ref} ({digest}) is not on this machine any more"
            raise ApiError("not_found", what, "the workspace has to be made anew: microagent delete, create")
        return _image(ref, found)

    async def resolve(self, ref: str, caller: Caller = ROOT, *, make: bool = True, report: Report = unheard) -> Image:
        """The image that `ref` names, for a new workspace.

        What is a file is made ready if need be. What is in a registry is not pulled, and with `make` false nothing is
        made: ApiError `no_image` then. Other errors: ApiError if it is not there, HostError if it is unreadable.
        """
        known = self._builtin_of(ref)
        image = Local(Kind.ROOTFS_OR_LAYOUT, str(known)) if known else parse_image(ref)
        if isinstance(image, Reference):
            found = self._named(str(image))
            if found is None:
                raise self._no_image(ref, image)
            return _image(ref, found)
        if not image.path.startswith("/"):
            what = f"the image path {image.path!r} is not absolute"
            raise ApiError("invalid", what, "the agent does not share your working directory")
        found = await self._from_file(ref, image, ROOT if known else caller, bool(known), make, report)
        # Somebody may have removed it while the last of its making was tidied up.
        return self.stored(ref, found.digest)

    async def pull(self, ref: str, caller: Caller, access: Access, report: Report, *, renew: bool = True) -> Image:
        """What `resolve` does, and for images in registries the pull; with `renew` also where the name is known."""
        image = None if self._builtin_of(ref) else parse_image(ref)
        if not isinstance(image, Reference):
            return await self.resolve(ref, caller, report=report)
        found = None if renew else self._named(str(image))
        try:
            return _image(ref, found or await self._from_registry(image, access, report))
        except MicroagentError as error:
            # Perhaps a built-in one was meant.
            error.hint += f"\n{self._built_in()}" if "/" not in ref else ""
            raise

    def listing(self) -> list[Listed]:
        """All images, those with a name first."""
        names: dict[str, list[str]] = {}
        for name, (digest, _) in self._shelf.names().items():
            names.setdefault(digest, []).append(name)
        builtin = self._builtins()
        found = []
        for image in self._shelf.all():
            called = tuple(sorted(names.get(image.digest, ())))
            found.append(Listed(called, image.digest, image.size, image.made, bool(set(called) & set(builtin))))
        made = {name for one in found for name in one.names}
        found += [Listed((name,), None, None, None, True) for name in builtin if name not in made]
        return sorted(found, key=lambda one: (not one.names, one.names, one.made or ""))

    async def remove(self, ref: str, users_of: Callable[[str], list[str]]) -> tuple[str, bool]:
        """Takes a name away, and with its last name the image; its digest, and whether the image itself is gone.

        ApiError `conflict` when workspaces use it: `users_of` says who, by digest.
        """
        digest, name = self._meant(ref)
        others = [known for known, (other, _) in self._shelf.names().items() if other == digest and known != name]
        if name and others:
            self._shelf.forget(name)
            return digest, False
        users = users_of(digest)
        if users:
            what = f"the image {ref} is used by {', '.join(users)}"
            raise ApiError("conflict", what, f"microagent delete {users[0]}")
        # Nothing is awaited between the question and this, so nobody can have begun to use it.
        left = self._shelf.take(digest)
        for called in {*others, name} - {""}:
            self._shelf.forget(called)
        if left:
            await asyncio.to_thread(remove_tree, left)
        return digest, True

    def _meant(self, ref: str) -> tuple[str, str]:
        """Digest and name of what a person wants removed; the name is empty when they said the digest."""
        names = self._shelf.names()
        short = ref.removeprefix("sha256:")
        if len(short) >= SHORT_DIGEST and set(short) <= set("0123456789abcdef"):
            full = [digest for digest in self._shelf.digests() if digest.removeprefix("sha256:").startswith(short)]
            if len(full) == 1:
                return full[0], ""
        name = ref if ref in names else str(parse_image(ref))
        if name not in names and ref in self._builtins():
            raise ApiError("not_found", f"{ref} is built in, and no disk has been made of it", "microagent image ls")
        if name not in names:
            raise ApiError("not_found", f"there is no image {name} on this machine", "microagent image ls")
        return names[name][0], name

    def _named(self, name: str) -> Stored | None:
        digest, _ = self._shelf.names().get(name, ("", ""))
        return self._shelf.find(digest) if digest else None

    def _builtins(self) -> list[str]:
        return sorted(path.name for path in self._builtin.iterdir()) if self._builtin and self._builtin.is_dir() else []

    def _builtin_of(self, ref: str) -> Path | None:
        return (self._builtin / ref).resolve() if self._builtin and ref in self._builtins() else None

    def _no_image(self, ref: str, reference: Reference) -> ApiError:
        what = f"the image {reference} is not on this machine"
        builtin = f"\n{self._built_in()}" if "/" not in ref else ""
        return ApiError("no_image", what, f"microagent image pull {ref}{builtin}")

    def _built_in(self) -> str:
        return f"images that are built in: {', '.join(self._builtins()) or 'none (`make setup` makes base)'}"

    async def _from_file(
        self, ref: str, local: Local, caller: Caller, builtin: bool, make: bool, report: Report
    ) -> Stored:
        source = await self._turns.work(caller.uid, lambda: inspect(local, caller))
        name = ref if builtin else str(local)
        ready = self._ready(name, source)
        if ready is None and not make:
            raise ApiError("no_image", f"no disk has been made of {ref} yet", f"microagent image pull {ref}")
        if ready is None:
            async with self._alone(f"{name} {source.mark}", report):
                ready = self._ready(name, source)
                if ready is None:
                    async with open_workshop(self._directory, self._bounds, report) as shop:
                        ready = await self._maker.make(shop, source, caller, trusted=builtin)
        self._shelf.call(name, ready.digest, source.mark)
        return ready

    def _ready(self, name: str, source: Rootfs | Layout | Archive) -> Stored | None:
        digest, mark = self._shelf.names().get(name, ("", ""))
        return self._shelf.find(digest if mark == source.mark else source.digest)

    async def _from_registry(self, reference: Reference, access: Access, report: Report) -> Stored:
        async with open_workshop(self._directory, self._bounds, report) as shop:
            pull = Pull(shop, next(self._pullers), reference, access)
            report("resolving", 0, None)
            found = await pull.look_up()
            if found.size > self._bounds.image_bytes:
                what = f"{reference} is {size(found.size)}B, larger than {size(self._bounds.image_bytes)}B"
                raise HostError(what, SIZE_HINT)
            async with self._alone(found.digest, report):
                ready = self._shelf.find(found.digest)
                if ready is None:
                    layout = await pull.fetch(found)
                    ready = await self._maker.make_from_layout(shop, layout, pull.user, digest=found.digest)
        self._shelf.call(str(reference), ready.digest, "")
        return ready

    @asynccontextmanager
    async def _alone(self, key: str, report: Report) -> AsyncIterator[None]:
        """One at a time of each image."""
        lock = self._locks.setdefault(key, asyncio.Lock())
        if lock.locked():
            report("waiting", 0, None)
        async with lock:
            yield


def _image(ref: str, found: Stored) -> Image:
    return Image(ref, found.digest, found.rootfs, found.config)
