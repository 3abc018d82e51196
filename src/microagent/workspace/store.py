"""The state directory: `workspaces/NAME/{workspace.json,ca.pem,ca-key.pem,egress.jsonl,…}`, root's alone.

A workspace appears and disappears by one rename, so nobody ever sees half of one. Names beginning with a dot are
work in progress; what an earlier agent left of it is swept when the store is opened.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import count
from pathlib import Path

from microagent.api.names import checked_name, is_name
from microagent.audit.chain import head
from microagent.audit.logfile import ROTATED, open_log, whole_end
from microagent.errors import ApiError, HostError
from microagent.workspace.files import (
    drop_unfinished,
    ensure_directory,
    listing,
    open_append,
    open_directory,
    read_file,
    remove_tree,
    write_atomic,
)
from microagent.workspace.record import Record, from_bytes
from microagent.workspace.spec import WorkspaceSpec

# Above what useradd, systemd (DynamicUser ends at 65519, nspawn at 1879048191) and subordinate ranges hand out.
FIRST_UID = 1_879_100_000

RECORD = "workspace.json"
CERTIFICATE = "ca.pem"
KEY = "ca-key.pem"
EGRESS = "egress.jsonl"
OVERLAY = "overlay.ext4"
CONSOLE = "console.log"
OUTPUT = "output.log"

# Longer than any record: 256 characters for each text.
_LONGEST_LINE = 1 << 17


class Store:
    """The workspaces on disk. Made and used by the one agent of a state directory."""

    def __init__(self, state_dir: Path) -> None:
        ensure_directory(state_dir, 0o700)
        os.close(open_directory(state_dir))
        self._root = state_dir / "workspaces"
        ensure_directory(self._root, 0o700)
        self._fd = open_directory(self._root)
        for leftover in listing(self._fd):
            if leftover.startswith("."):
                remove_tree(self._fd, leftover)
        # By workspace: asking every file at each new workspace would make the five hundredth a slow one.
        self._uids: dict[str, int] = {}
        for name in self.names():
            # A damaged one can never run: its uids are free.
            with suppress(HostError):
                with self._directory(name) as directory:
                    drop_unfinished(directory)
                self._uids[name] = self.load(name).mediator_uid

    def close(self) -> None:
        """Gives the directory's descriptor back."""
        os.close(self._fd)

    def names(self) -> list[str]:
        """Names of all workspaces, sorted; what has another kind of name is none of ours."""
        return [name for name in listing(self._fd) if is_name(name)]

    def path(self, name: str, file: str = "") -> Path:
        """The path of a workspace's directory, or of a file in it."""
        return self._root / checked_name(name) / file

    def create(self, spec: WorkspaceSpec, ca: tuple[bytes, bytes], now: str, digest: str | None = None) -> Record:
        """Stores a new workspace: `ca` is certificate and key, `digest` its image's. `conflict` for a taken name."""
        name = checked_name(spec.name)
        if name in self.names():
            raise ApiError("conflict", f"workspace {name} exists already", f"microagent delete {name}")
        # Two workspaces never share one.
        taken = set(self._uids.values())
        uid = next(uid for uid in count(FIRST_UID, 2) if uid not in taken)
        record = Record(spec=spec, mediator_uid=uid, guest_uid=uid + 1, created=now, ca_made=now, digest=digest)
        draft = f".new-{name}"
        os.mkdir(draft, 0o700, dir_fd=self._fd)
        try:
            with self._directory(draft) as directory:
                write_atomic(directory, CERTIFICATE, ca[0], 0o644)
                write_atomic(directory, KEY, ca[1], 0o600)
                write_atomic(directory, RECORD, record.to_bytes())
            os.rename(draft, name, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        except BaseException:
            remove_tree(self._fd, draft)
            raise
        os.fsync(self._fd)
        self._uids[name] = uid
        return record

    def load(self, name: str) -> Record:
        """The stored workspace; ApiError `not_found`, or HostError when its file is damaged."""
        path = self.path(name, RECORD)
        try:
            with self._directory(name) as directory:
                try:
                    return from_bytes(read_file(directory, RECORD), str(path))
                except OSError as error:
                    hint = "delete the workspace and create it anew"
                    raise HostError(f"{path} cannot be read: {error.strerror}", hint) from error
        except FileNotFoundError as error:
            raise ApiError("not_found", f"there is no workspace {name}", "microagent ps") from error

    def save(self, record: Record) -> Record:
        """Writes the record again and returns it."""
        with self._directory(record.name) as directory:
            write_atomic(directory, RECORD, record.to_bytes())
        return record

    def renew_ca(self, record: Record, ca: tuple[bytes, bytes], now: str) -> Record:
        """Replaces a CA that comes to its end."""
        with self._directory(record.name) as directory:
            write_atomic(directory, CERTIFICATE, ca[0], 0o644)
            write_atomic(directory, KEY, ca[1], 0o600)
        return self.save(replace(record, ca_made=now))

    def ca(self, name: str) -> tuple[bytes, bytes]:
        """Certificate and key, PEM."""
        with self._directory(name) as directory:
            return read_file(directory, CERTIFICATE), read_file(directory, KEY)

    def open_log(self, name: str, file: str) -> int:
        """An append-only descriptor of one of the workspace's logs; the caller closes it."""
        with self._directory(name) as directory:
            return open_append(directory, file)

    def last_line(self, name: str, file: str) -> bytes:
        """The last record of a log, or of the file before it, without its newline; b"" when there is none.

        Behind it may be a line that was never finished.
        """
        for candidate in (file, f"{file}.1"):
            try:
                with open_log(self.path(name, candidate)) as log:
                    end = whole_end(log)
                    start = max(0, end - _LONGEST_LINE)
                    lines = os.pread(log.fileno(), end - start, start).split(b"\n")
            except FileNotFoundError:
                continue
            if found := next((line for line in reversed(lines) if head(line)), b""):
                return found
        return b""

    def rotate(self, name: str, file: str) -> int:
        """Renames a log to `.1`, that to `.2` and so on, the last one out; a descriptor of the new file.

        HostError when the disk has no room for it; then nothing is renamed.
        """
        with self._directory(name) as directory:
            fresh = f".{file}.next"
            with suppress(FileNotFoundError):
                os.unlink(fresh, dir_fd=directory)
            fd = open_append(directory, fresh)
            try:
                for number in range(ROTATED, 0, -1):
                    older = f"{file}.{number - 1}" if number > 1 else file
                    with suppress(FileNotFoundError):
                        os.rename(older, f"{file}.{number}", src_dir_fd=directory, dst_dir_fd=directory)
                os.rename(fresh, file, src_dir_fd=directory, dst_dir_fd=directory)
            except BaseException:
                os.close(fd)
                raise
            return fd

    def remove(self, name: str) -> bool:
        """Deletes a workspace and all its files; False when there was none."""
        gone = f".gone-{checked_name(name)}"
        try:
            os.rename(name, gone, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        except FileNotFoundError:
            return False
        self._uids.pop(name, None)
        remove_tree(self._fd, gone)
        return True

    @contextmanager
    def _directory(self, name: str) -> Iterator[int]:
        try:
            fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._fd)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise HostError(f"cannot open {self._root / name}: {error.strerror}") from error
        try:
            yield fd
        finally:
            os.close(fd)
