"""What a guest is told at boot: a tar on a read-only disk, unpacked by vm_fixtures/init into /run/microagent. Pure.

hostname, hosts, resolv.conf     what setup puts into /etc
ca.pem, ca.hash                  the workspace's CA and the hash OpenSSL finds it by; absent when not mediated
command                          a script that becomes the command; absent when the guest idles
prepare                          a script that runs once, before the first command; absent when there is nothing to do
surroundings                     working directory, user and variables of every command, each ending in NUL
"""

import io
import re
import shlex
import tarfile
from collections.abc import Iterable, Mapping, Sequence

from microagent.api.link import GUEST
from microagent.errors import Malformed
from microagent.guests.trust import subject_hash

RUN = "/run/microagent"
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# contract.md 7.6, and gRPC, whose packages bring roots of their own.
# These two add to the roots a program brings along; the others replace them.
ADDED_ROOTS = ("NODE_EXTRA_CA_CERTS", "DENO_CERT")
ALL_ROOTS = (
    "SSL_CERT_FILE",
    "CURL_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "PIP_CERT",
    "CARGO_HTTP_CAINFO",
    "AWS_CA_BUNDLE",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
)
# MAX_ARG_STRLEN of Linux: execve refuses a longer string, and would do so inside the guest.
MAX_STRING = 128 << 10
# A whole command line with its environment (a quarter of the guest's 8 MiB stack).
MAX_STRINGS = 2 << 20

_HOSTNAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_BLOCK = 512


def make_bootdisk(
    command: list[str],
    env: Mapping[str, str],
    workdir: str,
    hostname: str,
    ca_pem: bytes,
    resolv_conf: str,
    image_env: Mapping[str, str] | None = None,
    user: str = "",
    setup: Sequence[str] = (),
) -> bytes:
    """The disk's bytes, a multiple of 512.

    `command` is the whole argv (empty: the guest idles); `setup` are shell commands that root runs once before it;
    `env` is the user's and beats the CA's variables, which beat `image_env`. `ca_pem` is empty when nothing is
    intercepted. Raises Malformed for what Linux cannot run.
    """
    if not _HOSTNAME.fullmatch(hostname):
        raise Malformed(f"not a host name: {hostname!r}")
    hosts = f"127.0.0.1\tlocalhost\n{GUEST.ip}\t{hostname}\n"
    files = {"hostname": f"{hostname}\n".encode(), "hosts": hosts.encode(), "resolv.conf": resolv_conf.encode()}
    if ca_pem:
        files["ca.pem"] = ca_pem
        files["ca.hash"] = subject_hash(ca_pem).encode()
    environment = make_environment(image_env or {}, bool(ca_pem), env)
    files["surroundings"] = _surroundings(environment, workdir or "/", user)
    if setup:
        files["prepare"] = _prepare(setup, environment, workdir or "/")
        # A guest that idles has no command that something could come before: so it gets one.
        files["command"] = f"exec {RUN}/busybox sleep 2147483647\n".encode()
    if command:
        files["command"] = _script(command, environment, workdir or "/", user)
    return _tar(files)


def make_environment(image: Mapping[str, str], trusting: bool, user: Mapping[str, str]) -> dict[str, str]:
    """A command's environment: what every guest has, the image's, the CA's variables, the user's; later ones win."""
    environment = {"PATH": DEFAULT_PATH, **image}
    if trusting:
        environment |= dict.fromkeys(ALL_ROOTS, f"{RUN}/ca-bundle.pem")
        environment |= dict.fromkeys(ADDED_ROOTS, f"{RUN}/ca.pem")
    return environment | dict(user)


def encode_words(words: Iterable[str]) -> list[bytes]:
    """Arguments and variables as Linux takes them; Malformed for what it does not."""
    encoded = [word.encode("utf-8", "surrogateescape") for word in words]
    if any(b"\0" in word for word in encoded):
        raise Malformed("an argument or variable holds a NUL byte")
    if any(len(word) >= MAX_STRING for word in encoded) or sum(map(len, encoded)) > MAX_STRINGS:
        raise Malformed("the command line is longer than Linux takes")
    return encoded


def variables_of(environment: Mapping[str, str]) -> list[str]:
    """NAME=VALUE each; Malformed for a name that is none."""
    for name in environment:
        if not name or "=" in name:
            raise Malformed(f"not a name for an environment variable: {name!r}")
    return [f"{name}={value}" for name, value in environment.items()]


def _surroundings(environment: Mapping[str, str], workdir: str, user: str) -> bytes:
    return b"".join(word + b"\0" for word in encode_words([workdir, user, *variables_of(environment)]))


def _prepare(setup: Sequence[str], environment: Mapping[str, str], workdir: str) -> bytes:
    """A script of all setup commands, which ends with the first that fails, and says which."""
    steps = []
    for number, line in enumerate(setup, start=1):
        failed = f"microagent: setup command {number} of {len(setup)} failed"
        script = _script(["/bin/sh", "-c", line], environment, workdir, "").decode("utf-8", "surrogateescape")
        steps.append(f"( {script.rstrip()} ) || {{ code=$?; echo '{failed} with '$code >&2; exit $code; }}\n")
    return "".join(steps).encode("utf-8", "surrogateescape")


def _script(command: list[str], environment: Mapping[str, str], workdir: str, user: str) -> bytes:
    """A shell script of one command; `env -i`, since names that no shell can assign may be in an environment."""
    busybox = f"{RUN}/busybox"
    words = [busybox, "env", "-i", *variables_of(environment), busybox, "sh", f"{RUN}/launch", workdir, user, *command]
    encode_words(words)
    return b"exec " + " ".join(map(shlex.quote, words)).encode("utf-8", "surrogateescape") + b"\n"


def _tar(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            entry.mode = 0o644
            archive.addfile(entry, io.BytesIO(content))
    data = buffer.getvalue()
    return data + b"\0" * (-len(data) % _BLOCK)
