"""A registry that misbehaves: `bad_registry.py PORT`. What it does is in the repository's name.

drip      the layer comes a byte at a time, for ever
endless   the layer is longer than it says, for ever
liar      another manifest than the one whose digest was asked for
broken    500 to everything
huge      the manifest says that the layer has 1 TB
junk      the manifest is no JSON
"""

import hashlib
import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CONFIG = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}}).encode()
# More than gzip looks back: skopeo compresses what comes uncompressed.
NOISE = os.urandom(1 << 16)
LAYER = "sha256:" + "1" * 64


def described(kind: str, digest: str, size: int) -> dict[str, object]:
    """A descriptor."""
    return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": digest, "size": size}


def manifest(repository: str) -> bytes:
    """The one manifest of a repository."""
    if repository == "junk":
        return b"{"
    size = 10**12 if repository == "huge" else 1000
    config = described("config.v1+json", f"sha256:{hashlib.sha256(CONFIG).hexdigest()}", len(CONFIG))
    layers = [described("layer.v1.tar+gzip", LAYER, size)]
    return json.dumps({"schemaVersion": 2, "config": config, "layers": layers}).encode()


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """/v2/, /v2/NAME/manifests/X, /v2/NAME/blobs/X."""
        parts = self.path.strip("/").split("/")
        repository = parts[1] if len(parts) > 1 else ""
        if repository == "broken":
            self.answer(500, b"{}")
        elif len(parts) == 1:
            self.answer(200, b"{}")
        elif parts[2] == "manifests":
            self.answer(200, manifest(repository), "application/vnd.oci.image.manifest.v1+json")
        elif parts[3] == LAYER:
            self.pour(0.02 if repository == "drip" else 0)
        else:
            self.answer(200, CONFIG)

    do_HEAD = do_GET  # noqa: N815

    def answer(self, status: int, body: bytes, kind: str = "application/json") -> None:
        """A whole answer."""
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def pour(self, pause: float) -> None:
        """Bytes without end."""
        self.close_connection = True
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        try:
            while True:
                self.wfile.write(NOISE[:1] if pause else NOISE)
                time.sleep(pause)
        except OSError:
            return

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
