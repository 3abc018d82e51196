"""Images as they are made: what is kept of layers, who may read what, and what hostile ones cannot do.

No registry here (see test_registry): layouts, archives and directories, with the real skopeo, umoci and mke2fs.
"""

import asyncio
import contextlib
import ctypes
import gzip
import hashlib
import json
import os
import select
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.servers.images import build, device, directory, file, link, write_layer

from microagent.api.reference import Kind, Local
from microagent.errors import ApiError, HostError
from microagent.guests.caller import ROOT, Caller, acting_as
from microagent.guests.image import ImageStore
from microagent.guests.local import inspect
from microagent.guests.workshop import UNPACKING, Bounds, Step, open_workshop, unheard

pytestmark = [pytest.mark.kernel, pytest.mark.asyncio]

SOMEBODY = Caller(12345, 12345, (12345,))
_SMALL = Bounds(image_bytes=24 << 20, files=500, reserve_bytes=0)
# cap_net_raw+ep, revision 2 (capability.h), in the form of Docker's layers: bytes that are UTF-8 here.
_CAPABILITY = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that other users may pass through, which pytest's own are not."""
    with tempfile.TemporaryDirectory(prefix="images-", dir="/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def store(place: Path) -> ImageStore:
    return ImageStore(place / "images")


def run(*command: str) -> str:
    """A program of the test's own, to its end."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def inside(disk: Path, command: str) -> str:
    """What debugfs says of an ext4, which nobody mounts."""
    return run("debugfs", "-R", command, str(disk))


async def until(happened: Callable[[], bool]) -> None:
    """Waits for what the file system will show."""
    while not happened():  # noqa: ASYNC110  (another process does it)
        await asyncio.sleep(0.01)


async def control(store: ImageStore, place: Path) -> None:
    """A harmless layer in the same place is unpacked, so that what was refused was refused for what it was."""
    build(place / "layout", "control", [write_layer(place / "control.tar", [file("fine", b"fine")])])
    assert inside((await store.resolve(f"oci:{place}/layout:control")).rootfs, "cat /fine") == "fine"


def left(place: Path) -> list[str]:
    """What is in the images' directory besides whole images."""
    return (
        [p.name for p in (place / "images").iterdir() if p.name.startswith(".")] if (place / "images").exists() else []
    )


async def test_layers_are_laid_over_each_other_and_nothing_of_a_file_is_lost(store: ImageStore, place: Path) -> None:
    lower = write_layer(
        place / "lower.tar",
        [
            directory("bin"),
            file("bin/tool", b"tool", mode=0o4755),
            file("bin/net", b"net", xattrs={"security.capability": _CAPABILITY, "user.note": "kept"}),
            file("gone", b"gone"),
            directory("emptied"),
            file("emptied/old", b"old"),
            directory("shared", 0o1777),
            file("shared/one", b"one", uid=1234),
        ],
    )
    upper = write_layer(
        place / "upper.tar",
        [
            file(".wh.gone"),
            directory("emptied"),
            file("emptied/.wh..wh..opq"),
            file("emptied/new", b"new"),
            link("bin/same", "bin/tool", hard=True),
            link("bin/elsewhere", "/etc/passwd"),
        ],
    )
    digest = build(place / "layout", "v1", [lower, upper], "--config.cmd", "/bin/tool")
    image = await store.resolve(f"oci:{place}/layout:v1")
    assert image.digest == digest
    disk = image.rootfs
    run("e2fsck", "-fn", str(disk))
    assert "Mode:  04755" in inside(disk, "stat /bin/tool")
    assert "Links: 2" in inside(disk, "stat /bin/same")
    assert 'Fast link dest: "/etc/passwd"' in inside(disk, "stat /bin/elsewhere")
    attributes = inside(disk, "ea_list /bin/net")
    assert "security.capability (20) = 01 00 00 02 00 20" in attributes
    assert 'user.note (4) = "kept"' in attributes
    assert "User:  1234" in inside(disk, "stat /shared/one")
    assert "Mode:  01777" in inside(disk, "stat /shared")
    assert inside(disk, "cat /emptied/new") == "new"
    for gone in ("/gone", "/emptied/old", "/.wh.gone", "/emptied/.wh..wh..opq"):
        assert inside(disk, f"cat {gone}") == ""
    assert image.config.cmd == ("/bin/tool",)


async def test_a_docker_archive_is_read_once_until_it_changes(store: ImageStore, place: Path) -> None:
    build(place / "layout", "v1", [write_layer(place / "l.tar", [file("hello", b"world")])], "--config.user", "7:8")
    archive = place / "saved.tar"
    run("skopeo", "copy", f"oci:{place}/layout:v1", f"docker-archive:{archive}:registry.example.org/hello:v1")
    first = await store.resolve(str(archive))
    assert (inside(first.rootfs, "cat /hello"), first.config.user) == ("world", "7:8")
    made = first.rootfs.stat().st_ino
    assert (await store.resolve(f"docker-archive:{archive}", make=False)).rootfs.stat().st_ino == made
    named = await store.resolve(f"docker-archive:{archive}:registry.example.org/hello:v1")
    assert named.digest == first.digest
    os.utime(archive)
    with pytest.raises(ApiError) as error:
        await store.resolve(str(archive), make=False)
    assert error.value.code == "no_image"
    assert (await store.resolve(str(archive))).rootfs.stat().st_ino == made


async def test_an_archive_that_is_none_says_so(store: ImageStore, place: Path) -> None:
    (place / "not.tar").write_bytes(b"hello")
    with pytest.raises(ApiError, match=r"not\.tar cannot be read"):
        await store.resolve(str(place / "not.tar"))
    os.mkfifo(place / "pipe.tar")
    with pytest.raises(ApiError, match="is no file"):
        await store.resolve(str(place / "pipe.tar"))
    assert left(place) == []


async def test_a_file_is_read_with_its_callers_rights(store: ImageStore, place: Path) -> None:
    """Directory, layout and archive, each with the control that its owner may; what root has made is no way around."""
    build(place / "layout", "v1", [write_layer(place / "l.tar", [file("hello", b"world")])])
    run("skopeo", "copy", f"oci:{place}/layout:v1", f"docker-archive:{place}/saved.tar:a:v1")
    (place / "rootfs").mkdir()
    (place / "rootfs/secret").write_text("root's")
    for name in ("rootfs", "layout", "saved.tar"):
        path = place / name
        run("chmod", "-R", "a+rX", str(path))
        path.chmod(0o700)
        await store.resolve(str(path), ROOT)
        with pytest.raises(ApiError) as error:
            await store.resolve(str(path), SOMEBODY)
        assert error.value.code == "forbidden"
        shutil.chown(path, SOMEBODY.uid, SOMEBODY.gid)
    # Below a directory of its own lies a file that it may not read: no image, rather than one without it.
    (place / "rootfs/secret").chmod(0o600)
    with pytest.raises(HostError, match="Permission denied"):
        await store.resolve(str(place / "rootfs"), SOMEBODY)
    shutil.chown(place / "rootfs/secret", SOMEBODY.uid)
    for name in ("rootfs", "layout", "saved.tar"):
        assert (await store.resolve(str(place / name), SOMEBODY)).rootfs.stat().st_uid == 0
    assert left(place) == []


async def test_what_one_user_made_of_a_directory_or_archive_is_not_anothers(store: ImageStore, place: Path) -> None:
    """The maker's process could have been tampered with by its own user."""
    build(place / "layout", "v1", [write_layer(place / "l.tar", [file("hello", b"world")])])
    (place / "rootfs").mkdir()
    (place / "rootfs/hello").write_text("world")
    for name, shared in (("rootfs", False), ("layout", True)):
        run("chmod", "-R", "a+rX", str(place / name))
        digests = {(await store.resolve(str(place / name), caller)).digest for caller in (ROOT, SOMEBODY)}
        assert len(digests) == (1 if shared else 2)


async def test_what_one_user_made_of_a_layout_is_not_anothers(
    store: ImageStore, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy that skopeo makes with its caller's rights is its caller's to change: by its process's directory."""
    for name in ("layout", "evil"):
        build(place / name, "v1", [write_layer(place / f"{name}.tar", [file("whose", name.encode())])])
        run("chmod", "-R", "a+rX", str(place / name))
    swap = place / "bin" / "skopeo"
    swap.parent.mkdir(mode=0o755)
    swap.write_text(f'#!/bin/sh\n{shutil.which("skopeo")} "$@" && rm -r layout && cp -r {place}/evil layout\n')
    swap.chmod(0o755)
    with monkeypatch.context() as tampering:
        tampering.setenv("PATH", f"{swap.parent}:{os.environ['PATH']}")
        theirs = await store.resolve(f"oci:{place}/layout:v1", SOMEBODY)
    assert inside(theirs.rootfs, "cat /whose") == "evil"
    for caller in (ROOT, Caller(SOMEBODY.uid + 1, SOMEBODY.gid)):
        image = await store.resolve(f"oci:{place}/layout:v1", caller)
        assert inside(image.rootfs, "cat /whose") == "layout"


async def test_where_a_link_leads_is_for_its_reader_to_find_out(store: ImageStore, place: Path) -> None:
    """Root would tell of directories that the caller may not look into."""
    build(place / "layout", "v1", [write_layer(place / "l.tar", [file("hello", b"world")])])
    (place / "layout/blobs").rename(place / "blobs")
    private = place / "private"
    private.mkdir(mode=0o700)
    (private / "where").symlink_to("/nowhere/secret")
    (place / "layout/blobs").symlink_to(private / "where")
    run("chmod", "-R", "a+rX", str(place / "layout"), str(place / "blobs"))
    with pytest.raises(ApiError, match="permission denied"):
        await store.resolve(f"oci:{place}/layout:v1", SOMEBODY)
    (place / "layout/blobs").unlink()
    (place / "layout/blobs").symlink_to("../blobs")
    image = await store.resolve(f"oci:{place}/layout:v1", SOMEBODY)
    assert inside(image.rootfs, "cat /hello") == "world"


async def test_a_link_that_is_changed_meanwhile_tells_nothing_of_what_is_where(place: Path) -> None:
    """Between a look with its caller's rights and one with root's."""
    private = place / "private"
    private.mkdir(mode=0o700)
    (private / "file").write_text("secret")
    link, over = place / "link", threading.Event()

    def change() -> None:
        while not over.is_set():
            for target in (place / "nothing", private / "file"):
                (place / "next").symlink_to(target)
                (place / "next").rename(link)

    changing = threading.Thread(target=change, daemon=True)
    changing.start()
    told: Counter[str] = Counter()
    until = time.monotonic() + 2
    while time.monotonic() < until:
        with pytest.raises(ApiError) as error:
            inspect(Local(Kind.ROOTFS_OR_LAYOUT, str(link)), SOMEBODY)
        told[error.value.code] += 1
    over.set()
    changing.join()
    assert told.keys() == {"forbidden", "not_found"}, told


async def test_a_link_in_the_place_of_a_layer_is_not_followed_by_root(
    store: ImageStore, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """umoci reads what skopeo's user could change meanwhile: a link to a device, or to what only root may read."""
    layer = write_layer(place / "l.tar", [file("hello", b"world")])
    build(place / "layout", "v1", [layer])
    run("chmod", "-R", "a+rX", str(place / "layout"))
    secret = place / "secret"
    secret.write_bytes(layer.read_bytes())
    secret.chmod(0o600)
    swap = place / "bin" / "skopeo"
    swap.parent.mkdir(mode=0o755)
    for target in (secret, Path("/dev/null"), None):
        layers = "grep -La -e schemaVersion -e rootfs layout/blobs/sha256/*"
        tamper = f"for layer in $({layers}); do ln -sf {target} $layer; done" if target else "true"
        swap.write_text(f'#!/bin/sh\n{shutil.which("skopeo")} "$@" && {tamper}\n')
        swap.chmod(0o755)
        with monkeypatch.context() as tampering:
            tampering.setenv("PATH", f"{swap.parent}:{os.environ['PATH']}")
            if target:
                with pytest.raises(HostError, match="tampered"):
                    await store.resolve(f"oci:{place}/layout:v1", SOMEBODY)
            else:  # the control
                image = await store.resolve(f"oci:{place}/layout:v1", SOMEBODY)
                assert inside(image.rootfs, "cat /hello") == "world"
    assert left(place) == []


async def test_rights_are_given_back(place: Path) -> None:
    (place / "secret").write_text("root's")
    (place / "secret").chmod(0o600)
    with acting_as(SOMEBODY), pytest.raises(PermissionError):
        (place / "secret").read_text()
    assert (place / "secret").read_text() == "root's"
    with pytest.raises(ZeroDivisionError), acting_as(SOMEBODY):
        _ = 1 // 0
    assert (place / "secret").read_text() == "root's"
    assert os.getgroups() == list(os.getgroups())


@pytest.fixture
def canary() -> Iterator[Path]:
    """A directory outside, which nothing may appear in."""
    with tempfile.TemporaryDirectory(prefix="canary-", dir="/tmp") as name:
        yield Path(name)
        assert list(Path(name).iterdir()) == []


async def test_layers_that_lead_outside_stay_inside(store: ImageStore, place: Path, canary: Path) -> None:
    up = "../" * 12
    traps = [
        file(f"{up}{canary}/dots", b"evil"),
        file(f"{canary}/absolute", b"evil"),
        link("way", str(canary)),
        file("way/through", b"evil"),
        link("up", f"{up}tmp"),
        file(f"up/{canary.name}/relative", b"evil"),
        link("loop", "loop"),
    ]
    second = [file("way/later", b"evil"), file("fine", b"fine")]
    layers = [write_layer(place / "1.tar", traps), write_layer(place / "2.tar", second)]
    build(place / "layout", "v1", layers)
    # Refused as a whole is as good.
    with contextlib.suppress(HostError):
        image = await store.resolve(f"oci:{place}/layout:v1")
        assert inside(image.rootfs, "cat /fine") == "fine"
    await control(store, place)
    assert left(place) == []


@pytest.mark.parametrize("name", [".", "./", "/", "a/.."])
async def test_a_root_that_is_a_link_is_no_way_to_the_hosts_files(store: ImageStore, place: Path, name: str) -> None:
    """What CVE-2021-29136 was; umoci refuses it or keeps the directory, and so do we."""
    (place / "outside").mkdir()
    (place / "outside/secret").write_text("the host's")
    trap = write_layer(place / "1.tar", [link(name, str(place / "outside")), file("fine", b"fine")])
    build(place / "layout", "v1", [trap])
    with contextlib.suppress(HostError):
        image = await store.resolve(f"oci:{place}/layout:v1")
        assert inside(image.rootfs, "cat /secret") == ""
    assert [path.name for path in (place / "outside").iterdir()] == ["secret"]
    await control(store, place)
    assert left(place) == []


async def test_a_hard_link_to_a_file_of_the_hosts_gets_nothing(store: ImageStore, place: Path) -> None:
    secret = place / "host-secret"
    secret.write_text("the host's")
    trap = write_layer(place / "1.tar", [link("out", "../" * 12 + str(secret), hard=True), file("fine", b"fine")])
    build(place / "layout", "v1", [trap])
    with pytest.raises(HostError, match="umoci failed"):
        await store.resolve(f"oci:{place}/layout:v1")
    assert secret.stat().st_nlink == 1
    await control(store, place)


async def test_devices_are_the_guests_and_open_nothing_here(store: ImageStore, place: Path) -> None:
    build(place / "layout", "v1", [write_layer(place / "1.tar", [device("disk", 8, 0), file("fine", b"fine")])])
    image = await store.resolve(f"oci:{place}/layout:v1")
    assert "Type: block special" in inside(image.rootfs, "stat /disk")
    assert inside(image.rootfs, "cat /fine") == "fine"


async def test_what_tools_can_write_to_is_their_bench_alone(store: ImageStore, place: Path, canary: Path) -> None:
    """Whatever a layer could make umoci do: the kernel refuses it. The control writes on its bench."""
    script = f"""
echo fine > bench-file
for try in 'echo evil > {canary}/file' 'mount -o remount,rw /' 'mknod {canary}/null c 1 3' \
    'echo evil > /dev/zero' 'mount --bind / /mnt' 'kill -0 {os.getpid()}' 'echo x > /proc/sys/kernel/hostname'; do
  sh -c "$try" 2> /dev/null && echo "did: $try"
done
grep -E 'CapEff|NoNewPrivs' /proc/self/status; ls /sys/class/net | grep -v lo; cat /proc/net/dev | tail -n +3 | wc -l
"""
    async with open_workshop(place / "images", Bounds(reserve_bytes=0), unheard) as shop:
        bench = shop.bench("bench", ROOT)
        said = await shop.run(bench, Step("trying"), "sh", "-c", script, capabilities=UNPACKING)
        assert (bench / "bench-file").read_text() == "fine\n"
        words = said.decode().split("\n")
        # kill(2) asks for the same user only, and this one is root's.
        assert [line for line in words if line.startswith("did:") and "kill" not in line] == []
        assert "CapEff:\t000000008800001b" in words
        assert "NoNewPrivs:\t1" in words
        assert words[-2] == "1"  # loopback
        somebody = shop.bench("theirs", SOMEBODY)
        said = await shop.run(
            somebody, Step("trying"), "sh", "-c", "id -u; id -G; cat /etc/shadow; true", caller=SOMEBODY
        )
        assert said == b"12345\n12345\n"
    assert left(place) == []


async def test_bombs_end_at_the_bounds_and_leave_nothing(place: Path) -> None:
    store = ImageStore(place / "images", bounds=_SMALL)
    fine = build(place / "layout", "fine", [write_layer(place / "fine.tar", [file("fine", b"fine" * 1000)])])
    assert (await store.resolve(f"oci:{place}/layout:fine")).digest == fine

    large = write_layer(place / "large.tar", [file(f"{i}", bytes(2 << 20)) for i in range(20)])
    build(place / "layout", "large", [large])
    many = write_layer(place / "many.tar", [file(f"{i}") for i in range(30_000)])
    build(place / "layout", "many", [many])
    for tag in ("large", "many"):
        with pytest.raises(HostError, match=r"larger than|more than 500 files|file too large"):
            await store.resolve(f"oci:{place}/layout:{tag}")
    directory_of_many = place / "many-files"
    directory_of_many.mkdir()
    for number in range(501):
        (directory_of_many / f"{number}").touch()
    with pytest.raises(HostError, match="501 files, more than 500"):
        await store.resolve(str(directory_of_many))
    # 1 TiB of zeros in a file of few bytes: the archive says so in its header, and has nothing of it.
    hole = tarfile.TarInfo("hole")
    hole.size = 1 << 40
    blob = gzip.compress(hole.tobuf(tarfile.GNU_FORMAT) + bytes(64 << 20))
    _single_layer(place / "hole", blob)
    with pytest.raises(HostError, match=r"larger than|file too large|unexpected EOF"):
        await store.resolve(f"oci:{place}/hole:v1")
    assert left(place) == []
    assert len(list((place / "images").iterdir())) == 2


def _single_layer(layout: Path, blob: bytes) -> None:
    """A layout of one compressed layer, whatever it holds."""
    (layout / "blobs/sha256").mkdir(parents=True)

    def add(data: bytes, kind: str) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        (layout / "blobs/sha256" / digest).write_bytes(data)
        return {"digest": f"sha256:{digest}", "size": len(data), "mediaType": f"application/vnd.oci.image.{kind}"}

    layer = add(blob, "layer.v1.tar+gzip")
    rootfs = {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(gzip.decompress(blob)).hexdigest()}"]}
    config = add(json.dumps({"architecture": "amd64", "os": "linux", "rootfs": rootfs}).encode(), "config.v1+json")
    manifest = add(json.dumps({"schemaVersion": 2, "config": config, "layers": [layer]}).encode(), "manifest.v1+json")
    named = {**manifest, "annotations": {"org.opencontainers.image.ref.name": "v1"}}
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [named]}))
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')


async def test_a_registry_that_says_nothing_is_not_waited_for(place: Path) -> None:
    bounds = Bounds(reserve_bytes=0, stall_seconds=1)
    async with open_workshop(place / "images", bounds, unheard) as shop:
        with pytest.raises(ApiError, match="nothing came from the registry") as error:
            await shop.run(shop.bench("b", ROOT), Step("pulling", network=True), "sleep", "600")
        assert error.value.code == "busy"
        # What needs no network may think for longer.
        await shop.run(shop.bench("c", ROOT), Step("unpacking"), "sleep", "2")


async def test_the_disk_is_never_filled_to_the_brim(place: Path) -> None:
    build(place / "layout", "v1", [write_layer(place / "1.tar", [file("fine", b"fine")])])
    room = os.statvfs(place)
    free = room.f_bavail * room.f_frsize
    store = ImageStore(place / "images", bounds=Bounds(reserve_bytes=free * 2, reserve_parts=1))
    with pytest.raises(HostError, match="does not fit") as error:
        await store.resolve(f"oci:{place}/layout:v1")
    assert "free some space" in error.value.hint
    assert left(place) == []


async def test_a_full_disk_says_so(place: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    (place / "images").mkdir(mode=0o700)
    build(place / "layout", "v1", [write_layer(place / "1.tar", [file("large", os.urandom(16 << 20))])])
    target = os.fsencode(place / "images")
    assert libc.mount(b"tmpfs", target, b"tmpfs", ctypes.c_ulong(0), b"size=12m,mode=700") == 0
    try:
        store = ImageStore(place / "images", bounds=Bounds(reserve_bytes=0))
        with pytest.raises((HostError, ApiError), match="no space left on device") as error:
            await store.resolve(f"oci:{place}/layout:v1")
        assert "free some space" in error.value.hint
        assert list((place / "images").iterdir()) == []
    finally:
        libc.umount2(target, 2)


async def test_who_gives_up_leaves_nothing_and_the_next_one_makes_it(store: ImageStore, place: Path) -> None:
    layer = write_layer(place / "1.tar", [file(f"{i}", os.urandom(1 << 20)) for i in range(30)])
    build(place / "layout", "v1", [layer])
    ref = f"oci:{place}/layout:v1"
    first = asyncio.create_task(store.resolve(ref))
    await until(lambda: bool(left(place)))
    second = asyncio.create_task(store.resolve(ref))
    await asyncio.sleep(0.05)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert (await second).rootfs.exists()
    assert left(place) == []


async def test_what_was_half_made_or_half_gone_is_swept(store: ImageStore, place: Path) -> None:
    build(place / "layout", "v1", [write_layer(place / "1.tar", [file("fine", b"fine")])])
    image = await store.resolve(f"oci:{place}/layout:v1")
    images = place / "images"
    deep = images / ".new-killed"
    deep.mkdir()
    # Deeper than Python's own removal goes.
    here = os.open(deep, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=here)
        inner = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)
    (images / f".gone-{'0' * 64}").mkdir()
    (images / ("1" * 64)).mkdir()
    (images / f"{'2' * 64}.ext4").write_bytes(b"of an earlier version")
    again = ImageStore(images)
    again.sweep()
    assert sorted(p.name for p in images.iterdir()) == [image.digest[7:], "names.json"]
    assert again.stored("x", image.digest).rootfs == image.rootfs
    assert (await again.resolve(f"oci:{place}/layout:v1", make=False)).digest == image.digest


async def test_removing_takes_a_name_then_the_image_and_never_a_used_one(store: ImageStore, place: Path) -> None:
    build(place / "layout", "v1", [write_layer(place / "1.tar", [file("fine", b"fine")])])
    (place / "layout2").symlink_to("layout")
    refs = [f"oci:{place}/layout:v1", f"oci:{place}/layout2:v1"]
    (digest,) = {(await store.resolve(ref)).digest for ref in refs}
    (listed,) = store.listing()
    assert (listed.names, listed.digest) == (tuple(sorted(refs)), digest)
    assert listed.size
    users = {digest: ["a", "b"]}

    def users_of(wanted: str) -> list[str]:
        return users.get(wanted, [])

    assert await store.remove(refs[1], users_of) == (digest, False)
    for meant in (refs[0], digest, digest[7:19]):
        with pytest.raises(ApiError, match="is used by a, b") as error:
            await store.remove(meant, users_of)
        assert (error.value.code, error.value.hint) == ("conflict", "microagent delete a")
    users.clear()
    assert await store.remove(digest[7:19], users_of) == (digest, True)
    assert store.listing() == []
    with pytest.raises(ApiError, match="not on this machine any more"):
        store.stored("x", digest)
    with pytest.raises(ApiError, match="there is no image"):
        await store.remove(refs[0], users_of)
    assert left(place) == []


async def test_a_damaged_image_is_left_out_and_can_be_removed(store: ImageStore, place: Path) -> None:
    build(place / "layout", "v1", [write_layer(place / "1.tar", [file("fine", b"fine")])])
    image = await store.resolve(f"oci:{place}/layout:v1")
    (image.rootfs.parent / "image.json").write_text("{")
    with pytest.raises(HostError, match="is damaged") as error:
        store.stored("x", image.digest)
    assert error.value.hint == f"microagent image rm {image.digest}"
    assert store.listing() == []
    assert await store.remove(image.digest, lambda _: []) == (image.digest, True)
    assert (await store.resolve(f"oci:{place}/layout:v1")).digest == image.digest


async def test_an_image_for_another_machine_says_so(store: ImageStore, place: Path) -> None:
    build(place / "layout", "v1", [], "--architecture", "arm64")
    with pytest.raises(HostError, match="linux/arm64"):
        await store.resolve(f"oci:{place}/layout:v1")


async def test_programs_end_with_the_agent(place: Path) -> None:
    """A child that makes an image dies with its parent, which was killed and could say nothing."""
    bench = place / "bench"
    bench.mkdir()
    script = f"""
import asyncio
from pathlib import Path
from microagent.guests.workshop import Bounds, Step, Workshop, unheard
shop = Workshop(Path({str(place)!r}), Bounds(reserve_bytes=0), unheard)
asyncio.run(shop.run(Path({str(bench)!r}), Step("x"), "sh", "-c", "echo $$ > pid; exec sleep 600"))
"""
    agent = subprocess.Popen([sys.executable, "-c", script])  # noqa: ASYNC220  (it is to be killed)
    await until(lambda: (bench / "pid").exists() and bool((bench / "pid").read_text().strip()))
    pid = int((bench / "pid").read_text())
    assert stat.S_ISDIR(Path(f"/proc/{pid}").stat().st_mode)
    agent.send_signal(signal.SIGKILL)
    agent.wait()
    fd = -1
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    await asyncio.to_thread(_wait_for, fd)
    os.close(fd)


def _wait_for(fd: int) -> None:
    ready, _, _ = select.select([fd], [], [], 30)
    assert ready, "it goes on without its agent"
