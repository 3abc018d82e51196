"""The images that are ready, on disk: `DIGEST/{rootfs.ext4,image.json}` each, and `names.json`, who is called what.

A directory appears and disappears by one rename, so that what has a digest for a name is complete. Names beginning
with a dot are work in progress; `sweep` takes away what an earlier agent left of it.
"""

import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from microagent.errors import HostError, host_error
from microagent.guests.oci import ImageConfig
from microagent.guests.tools import remove_tree

ROOTFS = "rootfs.ext4"
_ABOUT = "image.json"
_NAMES = "names.json"
_GONE = ".gone-"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Stored:
    """An image on the shelf: its digest ("sha256:" and 64 hex digits), how it wants to be run, when it was made."""

    digest: str
    rootfs: Path
    config: ImageConfig
    made: str

    @property
    def size(self) -> int:
        """Bytes it takes on the disk."""
        return self.rootfs.stat().st_blocks * 512


class Shelf:
    """Made and used by the one agent of a state directory, changed in its main thread: nobody sees half of a change."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def sweep(self) -> None:
        """Removes what is half made or half gone, and what no version of today would use. For an agent's start."""
        if not self._directory.is_dir():
            return
        for path in self._directory.iterdir():
            if path.name != _NAMES and not (len(path.name) == 64 and (path / _ABOUT).is_file()):
                remove_tree(path)

    def find(self, digest: str) -> Stored | None:
        """The image, if it is ready."""
        place = self._place(digest)
        try:
            about: dict[str, Any] = json.loads((place / _ABOUT).read_bytes())
            config: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in about["config"].items()}
            return Stored(digest, place / ROOTFS, ImageConfig(**config), str(about["made"]))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise HostError(f"{place / _ABOUT} is damaged: {error}", f"microagent image rm {digest}") from error

    def all(self) -> list[Stored]:
        """Every image, damaged ones left out."""
        found = []
        for digest in self.digests():
            try:
                image = self.find(digest)
            except HostError as error:
                log.error("image=%s reason=%r", digest, error.what)
                continue
            if image:
                found.append(image)
        return found

    def digests(self) -> list[str]:
        """Of every image, damaged or not."""
        if not self._directory.is_dir():
            return []
        names = sorted(path.name for path in self._directory.iterdir() if path.is_dir())
        return [f"sha256:{name}" for name in names if not name.startswith(".")]

    def put(self, draft: Path, digest: str, config: ImageConfig, made: str) -> Stored:
        """Takes a directory that holds ROOTFS in; HostError when the disk refuses."""
        about = {"v": 1, "digest": digest, "config": {**asdict(config), "env": dict(config.env)}, "made": made}
        try:
            _write(draft / _ABOUT, about)
            for path in (draft / ROOTFS, draft):
                with _opened(path) as fd:
                    os.fsync(fd)
            draft.chmod(0o700)
            os.chown(draft, 0, 0)
            draft.rename(self._place(digest))
            with _opened(self._directory) as fd:
                os.fsync(fd)
        except OSError as error:
            raise host_error(error, "the image cannot be stored") from error
        image = self.find(digest)
        if image is None:
            raise HostError(f"the image {digest} vanished while it was stored")
        return image

    def take(self, digest: str) -> Path | None:
        """Takes an image off the shelf: from now on it is not there. What is left to remove, None if there was none."""
        gone = self._directory / f"{_GONE}{digest.partition(':')[2]}"
        try:
            self._place(digest).rename(gone)
        except FileNotFoundError:
            return None
        return gone

    def names(self) -> dict[str, tuple[str, str]]:
        """Digest and mark (see `local`) by name. Of a file that cannot be read nothing is known; it is made anew."""
        try:
            names = json.loads((self._directory / _NAMES).read_bytes())
            return {str(name): (str(one["digest"]), str(one["mark"])) for name, one in names.items()}
        except FileNotFoundError:
            return {}
        except (ValueError, AttributeError, TypeError, KeyError) as error:
            log.error("file=%s reason=%r", self._directory / _NAMES, str(error))
            return {}

    def call(self, name: str, digest: str, mark: str) -> None:
        """From now on `name` is that image's."""
        names = self.names()
        if names.get(name) != (digest, mark):
            self._save({**names, name: (digest, mark)})

    def forget(self, name: str) -> None:
        """From now on `name` is no image's."""
        self._save({known: one for known, one in self.names().items() if known != name})

    def _save(self, names: Mapping[str, tuple[str, str]]) -> None:
        new = self._directory / f".{_NAMES}"
        try:
            _write(new, {name: {"digest": digest, "mark": mark} for name, (digest, mark) in names.items()})
            new.rename(self._directory / _NAMES)
        except OSError as error:
            raise host_error(error, "the images' names cannot be stored") from error

    def _place(self, digest: str) -> Path:
        return self._directory / digest.partition(":")[2]


def _write(path: Path, document: Mapping[str, Any]) -> None:
    # The directory may have been another user's a moment ago: nothing of theirs is followed or kept.
    path.unlink(missing_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        json.dump(document, file, indent=1)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)
