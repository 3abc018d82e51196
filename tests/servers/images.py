"""Images that tests make themselves: layers written entry by entry, put together by umoci."""

import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

MTIME = 1_700_000_000


def file(
    name: str, content: bytes = b"", *, mode: int = 0o644, uid: int = 0, xattrs: Mapping[str, str] | None = None
) -> tuple[tarfile.TarInfo, bytes]:
    """A regular file; xattrs as GNU tar and Docker write them."""
    entry = _entry(name, tarfile.REGTYPE, mode)
    entry.size, entry.uid, entry.gid = len(content), uid, uid
    entry.pax_headers = {f"SCHILY.xattr.{key}": value for key, value in (xattrs or {}).items()}
    return entry, content


def directory(name: str, mode: int = 0o755) -> tuple[tarfile.TarInfo, bytes]:
    """A directory."""
    return _entry(name, tarfile.DIRTYPE, mode), b""


def link(name: str, target: str, *, hard: bool = False) -> tuple[tarfile.TarInfo, bytes]:
    """A link, symbolic unless `hard`."""
    entry = _entry(name, tarfile.LNKTYPE if hard else tarfile.SYMTYPE, 0o777)
    entry.linkname = target
    return entry, b""


def device(name: str, major: int, minor: int) -> tuple[tarfile.TarInfo, bytes]:
    """A block device."""
    entry = _entry(name, tarfile.BLKTYPE, 0o666)
    entry.devmajor, entry.devminor = major, minor
    return entry, b""


def _entry(name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.mtime = kind, mode, MTIME
    return entry


def write_layer(path: Path, entries: Iterable[tuple[tarfile.TarInfo, bytes]]) -> Path:
    """A layer: an uncompressed tar, as umoci takes it."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for entry, content in entries:
            archive.addfile(entry, io.BytesIO(content))
    return path


def build(layout: Path, tag: str, layers: Iterable[Path], *config: str) -> str:
    """Adds an image of layers to a layout; its manifest's digest. `config` are options of `umoci config`."""
    if not layout.exists():
        _umoci("init", "--layout", str(layout))
    image = f"{layout}:{tag}"
    _umoci("new", "--image", image)
    for layer in layers:
        _umoci("raw", "add-layer", "--image", image, str(layer))
    if config:
        _umoci("config", "--image", image, *config)
    index = json.loads((layout / "index.json").read_text())
    named = {one["annotations"]["org.opencontainers.image.ref.name"]: one["digest"] for one in index["manifests"]}
    return str(named[tag])


def build_index(layout: Path, tag: str, of: Mapping[str, str]) -> str:
    """An index of images that are in the layout already, tag by architecture; its digest."""
    index = json.loads((layout / "index.json").read_text())
    named = {one["annotations"]["org.opencontainers.image.ref.name"]: one for one in index["manifests"]}
    manifests = [
        {**{key: named[of[machine]][key] for key in ("mediaType", "digest", "size")}, "platform": _platform(machine)}
        for machine in of
    ]
    kind = "application/vnd.oci.image.index.v1+json"
    data = json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": manifests}).encode()
    digest = hashlib.sha256(data).hexdigest()
    (layout / "blobs/sha256" / digest).write_bytes(data)
    annotations = {"org.opencontainers.image.ref.name": tag}
    entry = {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(data), "annotations": annotations}
    (layout / "index.json").write_text(json.dumps({**index, "manifests": [*index["manifests"], entry]}))
    return f"sha256:{digest}"


def _platform(architecture: str) -> dict[str, str]:
    return {"os": "linux", "architecture": architecture}


def _umoci(*arguments: str) -> None:
    subprocess.run(["umoci", *arguments], check=True, capture_output=True)
