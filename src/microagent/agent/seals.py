"""The agent's key, and the seals of all workspaces (audit.seal), in `state_dir/seals`, root's alone.

They are kept apart from the logs: a copy of a workspace's directory that is put back brings no old seals along.
"""

import contextlib
import os
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from microagent.audit.chain import START, head
from microagent.audit.record import timestamp
from microagent.audit.seal import Seal, digest, read_seal
from microagent.errors import HostError, Malformed
from microagent.workspace.files import ensure_directory, open_append, open_directory, read_file, write_atomic

_KEY = "seal-key.pem"


class Seals:
    """The key, and the seals of all workspaces."""

    def __init__(self, state_dir: Path) -> None:
        """Makes the key at the first time. HostError when it cannot be read or is damaged."""
        ensure_directory(state_dir / "seals", 0o700)
        self._fd = open_directory(state_dir / "seals")
        self._key = _key(self._fd)
        self.public_key = self._key.public_key()
        self._latest: dict[str, tuple[Seal, str]] = {}
        # A workspace's last seal may come while that of a second ago is still being made, in a thread.
        self._one_at_a_time = Lock()

    def close(self) -> None:
        """Gives the directory's descriptor back."""
        os.close(self._fd)

    def lines(self, name: str) -> list[bytes]:
        """The seals of a workspace, oldest first."""
        try:
            return read_file(self._fd, _file(name)).splitlines()
        except FileNotFoundError:
            return []

    def seal(self, name: str, last_line: bytes, *, rotated: bool = False) -> None:
        """Vouch for a log that ends with this record, if it is newer than what is sealed. OSError, HostError."""
        found = head(last_line)
        with self._one_at_a_time:
            latest, before = self._newest(name)
            if found is None or (found.seq <= latest.seq and not rotated):
                return
            seal = Seal(timestamp(datetime.now(UTC)), found.seq, found.chain, latest.rotated + rotated, before)
            line = seal.sign(self._key)
            fd = open_append(self._fd, _file(name))
            try:
                os.write(fd, line + b"\n")
            finally:
                os.close(fd)
            self._latest[name] = seal, digest(line)

    def finish_rotation(self, name: str, last_line: bytes) -> None:
        """Vouch for the last record of the file before, unless that was done: an agent may be killed before its turn.

        Without that seal nothing links what is left of the log to this file, once it has been rotated out. OSError.
        """
        found, none = head(last_line), Seal("", 0, START)
        if found is None:
            return
        try:
            last = [read_seal(line, self.public_key) for line in self.lines(name)[-2:]]
        except Malformed:
            return
        before, newest = [none, none, *last][-2:]
        done = newest.seq > found.seq or (newest.seq == found.seq and newest.rotated > before.rotated)
        if not done:
            self.seal(name, last_line, rotated=True)

    def forget_before(self, name: str, first: int) -> None:
        """Drop the seals of records before the `first` that is left, but for the one it is linked to."""
        with self._one_at_a_time:
            kept = [line for line in self.lines(name) if read_seal(line, self.public_key).seq >= first - 1]
            write_atomic(self._fd, _file(name), b"".join(line + b"\n" for line in kept))

    def remove(self, name: str) -> None:
        """The workspace is gone."""
        self._latest.pop(name, None)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(_file(name), dir_fd=self._fd)

    def _newest(self, name: str) -> tuple[Seal, str]:
        if name not in self._latest:
            lines = self.lines(name)
            try:
                self._latest[name] = (
                    (read_seal(lines[-1], self.public_key), digest(lines[-1])) if lines else (Seal("", 0, START), START)
                )
            except Malformed:
                # What somebody did to the seals stays visible: the next one is linked to it as it is.
                return Seal("", 0, START), digest(lines[-1])
        return self._latest[name]


def _key(directory: int) -> Ed25519PrivateKey:
    try:
        key = load_pem_private_key(read_file(directory, _KEY), None)
    except FileNotFoundError:
        key = Ed25519PrivateKey.generate()
        write_atomic(directory, _KEY, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    except (ValueError, TypeError) as error:
        raise HostError(
            f"the key of the seals is damaged: {error}", "put it back, or remove it and all seals"
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise HostError("the key of the seals is of another kind", "put it back, or remove it and all seals")
    return key


def _file(name: str) -> str:
    return f"{name}.jsonl"
