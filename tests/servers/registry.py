"""Debian's docker-registry, in a namespace of the made-up internet, and a registry that misbehaves."""

import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from microagent.demo.namespaces import Namespace

USER, PASSWORD = "reader", "correct-horse-battery"
# bcrypt of PASSWORD, which is all that the registry takes.
_HTPASSWD = f"{USER}:$2b$04$fo5faYMgDebvQ9QSFpwpaOs0bUjL6J2PxUIZVbSYC9EEl6OdIJ3nK\n"


@dataclass(frozen=True)
class Registry:
    """One that listens on the namespace's loopback."""

    namespace: Namespace
    port: int
    auth: bool

    @property
    def address(self) -> str:
        """HOST:PORT, as a reference begins."""
        return f"127.0.0.1:{self.port}"

    def push(self, layout: Path, tag: str, name: str) -> None:
        """An image of a layout, or an index with all its images, under `name` (repository and tag)."""
        credential = ["--dest-creds", f"{USER}:{PASSWORD}"] if self.auth else []
        target = f"docker://{self.address}/{name}"
        command = ["skopeo", "copy", "--all", "--dest-tls-verify=false", *credential, f"oci:{layout}:{tag}", target]
        subprocess.run(self.namespace.argv(*command), check=True, capture_output=True)


@contextmanager
def serving(namespace: Namespace, directory: Path, port: int, *, auth: bool = False) -> Iterator[Registry]:
    """A registry with its files in `directory`, ended with the block."""
    config = f"""
version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: {directory}/blobs}}}}
http: {{addr: 127.0.0.1:{port}}}
"""
    directory.mkdir(parents=True)
    if auth:
        (directory / "htpasswd").write_text(_HTPASSWD)
        config += f"auth: {{htpasswd: {{realm: test, path: {directory}/htpasswd}}}}\n"
    (directory / "config.yml").write_text(config)
    with running(namespace, port, ["docker-registry", "serve", str(directory / "config.yml")]):
        yield Registry(namespace, port, auth)


@contextmanager
def running(namespace: Namespace, port: int, command: Sequence[str]) -> Iterator[None]:
    """A server in the namespace, from when it listens on `port` until the end of the block."""
    server = subprocess.Popen(
        namespace.argv(*command), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 30
        while not _listens(namespace, port):
            assert server.poll() is None, f"{command[0]} ended"
            assert time.monotonic() < deadline, f"{command[0]} does not listen"
            time.sleep(0.05)
        yield
    finally:
        server.kill()
        server.wait()


def _listens(namespace: Namespace, port: int) -> bool:
    listing = subprocess.run(namespace.argv("ss", "-Hltn", f"sport = {port}"), check=True, capture_output=True)
    return bool(listing.stdout)
