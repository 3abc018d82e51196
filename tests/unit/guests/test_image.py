"""The image store with real tools and a rootfs of busybox."""

import asyncio
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from microagent.errors import ApiError, HostError
from microagent.guests.disk import make_overlay, measure_tree
from microagent.guests.image import ImageStore


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    root = tmp_path / "rootfs"
    (root / "bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin/busybox")
    (root / "bin/sh").symlink_to("busybox")
    (root / "bin/hard").hardlink_to(root / "bin/busybox")
    (root / "outside").symlink_to("/etc/passwd")
    (root / "mode").write_text("x")
    (root / "mode").chmod(0o4711)
    return root


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    builtin = tmp_path / "builtin"
    builtin.mkdir()
    return ImageStore(tmp_path / "images", builtin)


def blob(layout: Path, data: bytes) -> dict[str, Any]:
    digest = hashlib.sha256(data).hexdigest()
    (layout / "blobs/sha256" / digest).write_bytes(data)
    return {"digest": f"sha256:{digest}", "size": len(data)}


def make_layout(layout: Path, files: dict[str, bytes], tag: str = "", **config: object) -> Path:
    """An OCI layout of one layer, written by hand."""
    (layout / "blobs/sha256").mkdir(parents=True)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    layer = blob(layout, buffer.getvalue()) | {"mediaType": "application/vnd.oci.image.layer.v1.tar"}
    roots = {"type": "layers", "diff_ids": [layer["digest"]]}
    described = {"architecture": "amd64", "os": "linux", "rootfs": roots, "config": config}
    settings = blob(layout, json.dumps(described).encode()) | {"mediaType": "application/vnd.oci.image.config.v1+json"}
    manifest = blob(layout, json.dumps({"schemaVersion": 2, "config": settings, "layers": [layer]}).encode())
    manifest["mediaType"] = "application/vnd.oci.image.manifest.v1+json"
    if tag:
        manifest["annotations"] = {"org.opencontainers.image.ref.name": tag}
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [manifest]}))
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return layout


def inside(disk: Path, command: str) -> str:
    """What debugfs says of an ext4, which nobody mounts."""
    return subprocess.run(["debugfs", "-R", command, disk], check=True, capture_output=True, text=True).stdout


def check(disk: Path) -> None:
    subprocess.run(["e2fsck", "-fn", disk], check=True, capture_output=True)


@pytest.mark.asyncio
async def test_a_directory_becomes_a_sound_disk(store: ImageStore, rootfs: Path) -> None:
    image = await store.resolve(str(rootfs))
    check(image.rootfs)
    assert 'Fast link dest: "/etc/passwd"' in inside(image.rootfs, "stat /outside")
    assert "Mode:  04711" in inside(image.rootfs, "stat /mode")
    assert "Links: 2" in inside(image.rootfs, "stat /bin/hard")
    assert image.config.argv([]) == []
    assert image.rootfs.stat().st_mode & 0o077 == 0


@pytest.mark.asyncio
async def test_a_directory_is_made_once_until_it_changes(store: ImageStore, rootfs: Path) -> None:
    first = await store.resolve(str(rootfs))
    made = first.rootfs.stat().st_ino
    assert await store.resolve(str(rootfs)) == first
    assert first.rootfs.stat().st_ino == made
    times = (rootfs / "mode").stat()
    (rootfs / "mode").write_text("y")
    os.utime(rootfs / "mode", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert (await store.resolve(str(rootfs))).digest != first.digest


@pytest.mark.asyncio
async def test_two_starts_of_one_image_make_it_once(store: ImageStore, tmp_path: Path) -> None:
    layout = make_layout(tmp_path / "layout", {"hello": b"world" * 100_000})
    first, second = await asyncio.gather(*(store.resolve(str(layout)) for _ in range(2)))
    assert first == second
    assert sorted(path.name for path in (tmp_path / "images").iterdir()) == [first.digest[7:], "names.json"]


@pytest.mark.asyncio
@pytest.mark.parametrize("tag", ["", "v1"])
async def test_a_layout_is_unpacked_and_its_config_read(store: ImageStore, tmp_path: Path, tag: str) -> None:
    layout = make_layout(tmp_path / "layout", {"hello": b"world"}, tag, Cmd=["/hello"], Env=["A=b"], User="7:8")
    image = await store.resolve(f"{layout}:{tag}" if tag else str(layout))
    assert inside(image.rootfs, "cat /hello") == "world"
    assert (image.config.argv([]), image.config.env, image.config.user) == (["/hello"], {"A": "b"}, "7:8")
    assert image.digest == json.loads((layout / "index.json").read_text())["manifests"][0]["digest"]


@pytest.mark.asyncio
async def test_a_builtin_image_goes_by_its_name(store: ImageStore, tmp_path: Path) -> None:
    make_layout(tmp_path / "builtin/tiny", {"hello": b"world"})
    assert (await store.resolve("tiny")).ref == "tiny"
    with pytest.raises(ApiError, match=r"docker\.io/library/bigger:latest is not on this machine") as error:
        await store.resolve("bigger")
    hint = "microagent image pull bigger\nimages that are built in: tiny"
    assert (error.value.code, error.value.hint) == ("no_image", hint)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "ref", ["", ".", "..", "./base", "../x", "/nowhere", "/etc/passwd", "no such", "oci:/nowhere", "/nowhere.tar"]
)
async def test_what_is_not_there_is_said_with_a_hint(store: ImageStore, ref: str) -> None:
    with pytest.raises(ApiError) as error:
        await store.resolve(ref)
    assert error.value.hint


@pytest.mark.asyncio
async def test_an_empty_directory_is_no_image(store: ImageStore, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ApiError, match="is empty") as error:
        await store.resolve(str(tmp_path / "empty"))
    assert error.value.code == "invalid"


@pytest.mark.asyncio
async def test_a_blob_that_is_not_what_it_says_is_refused_and_leaves_nothing(store: ImageStore, tmp_path: Path) -> None:
    layout = make_layout(tmp_path / "layout", {"hello": b"world"})
    for path in (layout / "blobs/sha256").iterdir():
        path.write_bytes(path.read_bytes().replace(b"l", b"L"))
    with pytest.raises(ApiError, match="Digest did not match"):
        await store.resolve(str(layout))
    assert not list((tmp_path / "images").iterdir())


@pytest.mark.asyncio
async def test_an_overlay_is_sparse_sound_and_never_overwritten(tmp_path: Path) -> None:
    overlay = tmp_path / "overlay"
    await make_overlay(overlay, 2048)
    assert overlay.stat().st_size == 2048 << 20
    assert overlay.stat().st_blocks * 512 < 4 << 20
    check(overlay)
    with pytest.raises(HostError, match="File exists"):
        await make_overlay(overlay, 16)
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(HostError):
        await make_overlay(link, 16)
    assert not (tmp_path / "elsewhere").exists()


def test_a_trees_digest_sees_every_kind_of_change(rootfs: Path) -> None:
    digests = [measure_tree(rootfs).digest, measure_tree(rootfs).digest]
    (rootfs / "mode").chmod(0o700)
    digests.append(measure_tree(rootfs).digest)
    (rootfs / "outside").unlink()
    (rootfs / "outside").symlink_to("/etc/shadow")
    digests.append(measure_tree(rootfs).digest)
    (rootfs / "new").mkdir()
    digests.append(measure_tree(rootfs).digest)
    assert digests[0] == digests[1]
    assert len(set(digests)) == 4
