"""The servers that a guest's programs get what they want from: git, a package index for pip, npm and apt, a registry.

How this works: nginx serves a directory for each host name, made here with nothing but what Debian has. Behind it are
git's own backend, Debian's docker-registry, pypiserver, a gRPC server, and aiohttp for WebSocket and server-sent
events. All of them run among the made-up internet's servers, at `world.PROGRAMS`.
"""

import base64
import gzip
import hashlib
import io
import json
import os
import socket
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.kernel.programs import SERVERS

from microagent.demo import world
from microagent.demo.internet import Internet

_NGINX = """
    daemon off; worker_processes 1; pid {room}/nginx.pid; error_log {room}/error.log; user root;
    events {{ }}
    http {{
        log_format short '$host $request_method $request_uri $status';
        access_log {room}/access.log short;
        types {{ application/json json; text/html html; }}
        default_type application/octet-stream;
        client_body_temp_path {room}/body; proxy_temp_path {room}/proxy; fastcgi_temp_path {room}/fastcgi;
        uwsgi_temp_path {room}/uwsgi; scgi_temp_path {room}/scgi;
        server {{
            listen {address}:443 ssl http2;
            ssl_certificate {pem}; ssl_certificate_key {pem};
            root {room}/sites/$host;
            location / {{ try_files $uri $uri.json $uri/index.html =404; }}
            location = /hello {{ return 200 "hello\\n"; }}
            location ~ ^/(simple|packages)/ {{ proxy_pass http://127.0.0.1:8081; proxy_set_header Host $host; }}
            location /v2/ {{
                proxy_pass http://127.0.0.1:5000;
                proxy_set_header Host $host; proxy_set_header X-Forwarded-Proto https;
            }}
            location /repo.git/ {{
                fastcgi_pass unix:{room}/git.socket;
                fastcgi_param SCRIPT_FILENAME /usr/lib/git-core/git-http-backend;
                fastcgi_param GIT_PROJECT_ROOT {room}/repositories; fastcgi_param GIT_HTTP_EXPORT_ALL "";
                fastcgi_param PATH_INFO $uri; fastcgi_param QUERY_STRING $query_string;
                fastcgi_param REQUEST_METHOD $request_method; fastcgi_param GIT_PROTOCOL $http_git_protocol;
                fastcgi_param CONTENT_TYPE $content_type; fastcgi_param CONTENT_LENGTH $content_length;
                fastcgi_param HTTP_CONTENT_ENCODING $http_content_encoding;
            }}
            location /test.Echo/ {{ grpc_pass grpcs://127.0.0.1:443; }}
            location /live/ {{
                proxy_pass http://127.0.0.1:8080; proxy_http_version 1.1; proxy_buffering off;
                proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $http_connection;
            }}
        }}
    }}
"""
_LIVE = """
from aiohttp import web

async def socket(request):
    answer = web.WebSocketResponse()
    await answer.prepare(request)
    async for message in answer:
        await answer.send_str(message.data[::-1])
    return answer

async def events(request):
    answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await answer.prepare(request)
    for number in range(5):
        await answer.write(f"data: {number}\\n\\n".encode())
    return answer

application = web.Application()
application.add_routes([web.get("/live/socket", socket), web.get("/live/events", events)])
web.run_app(application, host="127.0.0.1", port=8080, print=None)
"""


_REGISTRY = """
version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: {room}/registry}}}}
http: {{addr: "127.0.0.1:5000"}}
"""

# What it does not have it would redirect to another index.
_ALONE = ("--disable-fallback",)


class Origin:
    """What is served: `log` says what was asked for, `apt_key` (base64) is what the apt mirror is signed with."""

    def __init__(self, room: Path) -> None:
        self.room = room
        self.apt_key = ""
        for make in (self._git, self._pip, self._npm, self._apt, self._registry):
            make()

    @property
    def log(self) -> list[list[str]]:
        """(host, method, path, status) of each request."""
        return [line.split() for line in (self.room / "access.log").read_text().splitlines()]

    def _site(self, host: str) -> Path:
        site = self.room / "sites" / host
        site.mkdir(parents=True)
        return site

    def _git(self) -> None:
        work = self.room / "work"
        who = ("-c", "user.name=A", "-c", "user.email=a@ok.test")
        _do("git", "init", "-q", "-b", "main", str(work))
        (work / "hello").write_text("hello\n")
        _do("git", "-C", str(work), "add", "hello")
        _do("git", "-C", str(work), *who, "commit", "-q", "-m", "hello")
        _do("git", "clone", "-q", "--bare", str(work), str(self.room / "repositories/repo.git"))

    def _pip(self) -> None:
        wheel = io.BytesIO()
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr("madeup.py", "print('hello')\n")
            about = "madeup-1.0.dist-info"
            archive.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: madeup\nVersion: 1.0\n")
            archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            archive.writestr(f"{about}/RECORD", "")
        packages = self.room / "packages"
        packages.mkdir()
        (packages / "madeup-1.0-py3-none-any.whl").write_bytes(wheel.getvalue())

    def _npm(self) -> None:
        site = self._site("npm.ok.test")
        package = {"name": "madeup", "version": "1.0.0", "main": "index.js"}
        files = {"package/package.json": json.dumps(package), "package/index.js": "console.log('hello')\n"}
        tarball = gzip.compress(_tar({name: text.encode() for name, text in files.items()}))
        (site / "madeup/-").mkdir(parents=True)
        (site / "madeup/-/madeup-1.0.0.tgz").write_bytes(tarball)
        digest = base64.b64encode(hashlib.sha512(tarball).digest()).decode()
        address = "https://npm.ok.test/madeup/-/madeup-1.0.0.tgz"
        dist = {"tarball": address, "integrity": f"sha512-{digest}"}
        document = {"name": "madeup", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": package | {"dist": dist}}}
        (site / "madeup.json").write_text(json.dumps(document))

    def _apt(self) -> None:
        site = self._site("apt.ok.test")
        tree = self.room / "deb"
        (tree / "DEBIAN").mkdir(parents=True)
        (tree / "usr/share/madeup").mkdir(parents=True)
        (tree / "usr/share/madeup/hello").write_text("hello\n")
        control = "Package: madeup\nVersion: 1\nArchitecture: all\nMaintainer: A <a@ok.test>\nDescription: made up\n"
        (tree / "DEBIAN/control").write_text(control)
        deb = site / "madeup_1_all.deb"
        _do("dpkg-deb", "--root-owner-group", "-b", str(tree), str(deb))
        data = deb.read_bytes()
        packages = f"{control}Filename: {deb.name}\nSize: {len(data)}\nSHA256: {hashlib.sha256(data).hexdigest()}\n"
        suite = site / "dists/made"
        (suite / "main/binary-amd64").mkdir(parents=True)
        (suite / "main/binary-amd64/Packages").write_text(packages)
        digest = hashlib.sha256(packages.encode()).hexdigest()
        when = time.strftime("%a, %d %b %Y %H:%M:%S UTC", time.gmtime(time.time() - 3600))
        release = f"Suite: made\nCodename: made\nDate: {when}\nArchitectures: amd64\nComponents: main\n"
        release += f"SHA256:\n {digest} {len(packages)} main/binary-amd64/Packages\n"
        home = self.room / "gnupg"
        home.mkdir(mode=0o700)
        gpg = ("gpg", "--homedir", str(home), "--batch", "--quiet", "--passphrase", "")
        _do(*gpg, "--quick-generate-key", "a@ok.test", "ed25519", "sign", "never")
        (suite / "InRelease").write_bytes(_do(*gpg, "--clearsign", stdin=release.encode()))
        self.apt_key = base64.b64encode(_do(*gpg, "--export")).decode()
        _do("gpgconf", "--homedir", str(home), "--kill", "gpg-agent")

    def _registry(self) -> None:
        """An OCI layout, which `push` sends to the registry."""
        layout = self.room / "layout"
        (layout / "blobs/sha256").mkdir(parents=True)

        def blob(kind: str, data: bytes) -> dict[str, object]:
            digest = hashlib.sha256(data).hexdigest()
            (layout / "blobs/sha256" / digest).write_bytes(data)
            return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}", "size": len(data)}

        layer = _tar({"hello": b"hello\n"})
        rootfs = {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]}
        config = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": rootfs}).encode()
        layers = [blob("layer.v1.tar", layer)]
        manifest = {"schemaVersion": 2, "config": blob("config.v1+json", config), "layers": layers}
        manifests = [blob("manifest.v1+json", json.dumps(manifest).encode())]
        (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": manifests}))
        (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        (self.room / "registry.yml").write_text(_REGISTRY.format(room=self.room))


@contextmanager
def running(internet: Internet, room: Path, certificate: str) -> Iterator[Origin]:
    """The servers, with this certificate and key (PEM)."""
    room.chmod(0o755)
    origin = Origin(room)
    pem = room / "server.pem"
    pem.write_text(certificate)
    (room / "access.log").touch()
    config = room / "nginx.conf"
    config.write_text(_NGINX.format(room=room, pem=pem, address=world.PROGRAMS))
    commands = (
        ["fcgiwrap", "-s", f"unix:{room}/git.socket"],
        ["docker-registry", "serve", str(room / "registry.yml")],
        [sys.executable, str(SERVERS / "grpc_origin.py"), str(pem), "127.0.0.1"],
        [sys.executable, "-c", _LIVE],
        [sys.executable, "-m", "pypiserver", "run", "-i", "127.0.0.1", "-p", "8081", *_ALONE, str(room / "packages")],
        ["nginx", "-e", str(room / "error.log"), "-c", str(config)],
    )
    with ExitStack() as undo:
        for command in commands:
            process = undo.enter_context(subprocess.Popen(internet.far_argv(*command), stdin=subprocess.DEVNULL))
            undo.callback(process.terminate)
        deadline = time.monotonic() + 60
        while not internet.far.run(_all_are_there):
            assert time.monotonic() < deadline, "the servers did not come up"
            time.sleep(0.05)
        push = ("skopeo", "--insecure-policy", "copy", "-q", "--dest-tls-verify=false")
        _do(*internet.far_argv(*push, f"oci:{room}/layout", "docker://127.0.0.1:5000/madeup:1"))
        yield origin


def _all_are_there() -> bool:
    """Whether nginx, gRPC's server, the registry, aiohttp's and pypiserver listen."""
    for where in ((world.PROGRAMS, 443), *(("127.0.0.1", port) for port in (443, 5000, 8080, 8081))):
        with socket.socket() as probe:
            if probe.connect_ex(where):
                return False
    return True


def _do(*command: str, stdin: bytes = b"") -> bytes:
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
    return subprocess.run(command, input=stdin, check=True, stdout=subprocess.PIPE, env=environment).stdout


def _tar(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()
