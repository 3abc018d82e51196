import io
import subprocess
import tarfile
from collections.abc import Callable

import pytest

from microagent.errors import Malformed
from microagent.guests.bootdisk import ADDED_ROOTS, ALL_ROOTS, make_bootdisk, make_environment

RESOLV_CONF = "nameserver 10.43.0.1\n"


def contents(disk: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(disk)) as archive:
        return {m.name: file.read() for m in archive if (file := archive.extractfile(m))}


def words(script: bytes) -> list[bytes]:
    """What a shell makes of the command: its words, with a program in place of the guest's busybox."""
    listing = script.replace(b"exec /run/microagent/busybox", b"exec printf '%s\\0'", 1)
    return subprocess.run(["sh", "-c", listing], check=True, capture_output=True).stdout.split(b"\0")[:-1]


def test_it_is_whole_sectors_of_tar() -> None:
    disk = make_bootdisk(["true"], {}, "/", "box", b"", RESOLV_CONF)
    assert len(disk) % 512 == 0
    files = contents(disk)
    assert set(files) == {"hostname", "hosts", "resolv.conf", "surroundings", "command"}
    assert files["hostname"] == b"box\n"
    assert files["resolv.conf"] == RESOLV_CONF.encode()
    assert b"10.43.0.2\tbox\n" in files["hosts"]


def test_the_surroundings_are_those_of_the_command() -> None:
    disk = make_bootdisk([], {"A": "b c"}, "/srv", "box", b"", RESOLV_CONF, {"A": "image", "I": "1"}, "me")
    words = contents(disk)["surroundings"].split(b"\0")
    assert words[:2] == [b"/srv", b"me"]
    assert set(words[2:]) >= {b"A=b c", b"I=1", b""}


def test_setup_ends_with_the_first_command_that_fails() -> None:
    disk = make_bootdisk([], {}, "/", "box", b"", RESOLV_CONF, setup=["echo 'one'", "exit 3", "echo three"])
    files = contents(disk)
    assert files["command"].startswith(b"exec /run/microagent/busybox sleep")
    launch = b"/run/microagent/busybox sh /run/microagent/launch / ''"
    assert files["prepare"].count(launch) == 3
    script = files["prepare"].replace(launch, b"").replace(b"/run/microagent/busybox", b"")
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (3, "one\n")
    assert done.stderr == "microagent: setup command 2 of 3 failed with 3\n"


def test_without_a_command_the_guest_idles() -> None:
    assert "command" not in contents(make_bootdisk([], {"A": "b"}, "/", "box", b"", RESOLV_CONF))


def test_a_ca_comes_with_the_name_openssl_looks_for(ca_pem: bytes) -> None:
    files = contents(make_bootdisk([], {}, "/", "box", ca_pem, RESOLV_CONF))
    assert files["ca.pem"] == ca_pem
    assert len(files["ca.hash"]) == 8


@pytest.mark.parametrize("nasty", ["it's", '"', "$(id)", "`id`", "\\", "a\nb", "", " ", "ä", "\udcff", "-n", "*", "!"])
def test_what_a_shell_could_misread_arrives_as_it_was(nasty: str) -> None:
    disk = make_bootdisk(["run", nasty], {"V": nasty, "not.a-name": "1"}, nasty, "box", b"", RESOLV_CONF, user=nasty)
    raw = nasty.encode("utf-8", "surrogateescape")
    env = [b"env", b"-i", b"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", b"V=" + raw]
    launch = [b"/run/microagent/busybox", b"sh", b"/run/microagent/launch", raw or b"/", raw]
    assert words(contents(disk)["command"]) == [*env, b"not.a-name=1", *launch, b"run", raw]


def test_the_users_variables_beat_the_cas_which_beat_the_images() -> None:
    image = {"SSL_CERT_FILE": "/image", "LANG": "C", "PATH": "/image/bin"}
    assert make_environment(image, False, {}) == image
    environment = make_environment(image, True, {"PIP_CERT": "/user"})
    assert environment["SSL_CERT_FILE"] == environment["CURL_CA_BUNDLE"] == "/run/microagent/ca-bundle.pem"
    assert environment["NODE_EXTRA_CA_CERTS"] == "/run/microagent/ca.pem"
    assert environment["PIP_CERT"] == "/user"
    assert environment["PATH"] == "/image/bin"
    assert set(environment) == {*ADDED_ROOTS, *ALL_ROOTS, "LANG", "PATH"}


@pytest.mark.parametrize(
    "making",
    [
        lambda: make_bootdisk(["a\0b"], {}, "/", "box", b"", ""),
        lambda: make_bootdisk(["a"], {"": "x"}, "/", "box", b"", ""),
        lambda: make_bootdisk(["a"], {"A=B": "x"}, "/", "box", b"", ""),
        lambda: make_bootdisk(["a" * (128 << 10)], {}, "/", "box", b"", ""),
        lambda: make_bootdisk(["a" * 1000] * 3000, {}, "/", "box", b"", ""),
        lambda: make_bootdisk(["a"], {}, "/", "box\nx", b"", ""),
        lambda: make_bootdisk(["a"], {}, "/", "-box", b"", ""),
    ],
)
def test_what_linux_cannot_run_is_refused(making: Callable[[], bytes]) -> None:
    with pytest.raises(Malformed):
        making()
