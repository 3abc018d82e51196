"""A log on its own: one tar with the log, its seals, the key that made them, the policy and the CA's certificate.

`export` writes it, `verify_archive` reads it anywhere, without an agent. What vouches for it is the key: its
fingerprint has to be known from elsewhere, or the archive only vouches for itself.
"""

import io
import json
import os
import re
import tarfile
from collections.abc import Iterator
from io import FileIO
from pathlib import Path, PurePosixPath
from typing import IO, Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from microagent.audit import logfile
from microagent.audit.verify import LogFile, Report, verify
from microagent.errors import HostError, Malformed

LOG = "egress.jsonl"
SEALS = "seals.jsonl"
KEY = "seal-key.pub"
POLICY = "policy.json"
CERTIFICATE = "ca.pem"

_LOG_NAME = re.compile(r"egress\.jsonl(?:\.[1-7])?")


def verify_log(path: Path, seals: list[bytes], key: Ed25519PublicKey, *, ended: bool = False) -> Report:
    """The log at `path` against seals that were read before it; `ended`: see `verify`. OSError."""
    files = logfile.open_all(path)
    try:
        found = [LogFile(Path(str(file.name)).name, _lines(file)) for file in files]
        return verify(found, seals, key, SEALS, ended=ended)
    finally:
        for file in files:
            file.close()


def export(
    into: IO[bytes], name: str, log: Path, seals: list[bytes], key: Ed25519PublicKey, policy: dict[str, Any], ca: bytes
) -> None:
    """Write the tar of a workspace called `name`; `seals` were read before. OSError."""
    public = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    small = {
        SEALS: b"".join(line + b"\n" for line in seals),
        KEY: public,
        POLICY: json.dumps(policy, indent=1).encode() + b"\n",
        CERTIFICATE: ca,
    }
    files = logfile.open_all(log)
    try:
        with tarfile.open(fileobj=into, mode="w") as tar:
            for file in files:
                entry = _entry(name, Path(str(file.name)).name, logfile.whole_end(file))
                tar.addfile(entry, _From(file))
            for member, data in small.items():
                tar.addfile(_entry(name, member, len(data)), io.BytesIO(data))
    finally:
        for file in files:
            file.close()


def verify_archive(path: Path) -> tuple[Report, Ed25519PublicKey]:
    """What `export` wrote, against the key that came with it.

    Malformed when it is no such archive, HostError when it cannot be read.
    """
    try:
        with tarfile.open(path) as tar:
            members = {PurePosixPath(member.name).name: member for member in tar.getmembers() if member.isfile()}
            key = load_pem_public_key(_read(tar, members[KEY]))
            if not isinstance(key, Ed25519PublicKey):
                raise Malformed(f"{path}: its key is of another kind")
            names = sorted((name for name in members if _LOG_NAME.fullmatch(name)), reverse=True)
            # Oldest first: .7 … .1, and the one without a number is the newest.
            files = [LogFile(name, _tar_lines(tar, members[name])) for name in names]
            return verify(files, _read(tar, members[SEALS]).splitlines(), key, SEALS), key
    except (tarfile.TarError, KeyError, ValueError, EOFError) as error:
        hint = "`microagent audit export` makes one"
        raise Malformed(f"{path} is no archive of a log, or a part of one", hint) from error
    except OSError as error:
        raise HostError(f"cannot read {path}: {error.strerror or error}") from error


def _lines(file: FileIO) -> Iterator[bytes]:
    for block in logfile.forward(file):
        # Not splitlines: a carriage return ends no line of ours.
        yield from block.data.removesuffix(b"\n").split(b"\n")


def _tar_lines(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[bytes]:
    stream = tar.extractfile(member)
    if stream is not None:
        with stream:
            for line in stream:
                yield line.removesuffix(b"\n")


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = tar.extractfile(member)
    return stream.read() if stream else b""


def _entry(workspace: str, name: str, size: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(f"{workspace}/{name}")
    entry.size, entry.mode = size, 0o600
    return entry


class _From(io.RawIOBase):
    """A log file from its beginning, whatever position its descriptor has."""

    def __init__(self, file: FileIO) -> None:
        self._fd = file.fileno()
        self._at = 0

    def read(self, size: int = -1, /) -> bytes:
        data = os.pread(self._fd, size, self._at)
        self._at += len(data)
        return data
