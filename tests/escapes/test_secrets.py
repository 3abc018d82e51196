"""What a guest and its servers tell each other stays between them: nothing of it in anything the product writes."""

import base64
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from tests.kernel.conftest import MakeWorkspace
from tests.kernel.plain_server import answering
from tests.kernel.workspace import Workspace

from microagent.demo import world
from microagent.demo.internet import Internet
from microagent.demo.oracle import Destination, Oracle
from microagent.mediator.services import Faults

pytestmark = pytest.mark.kernel

PROGRAM = "h2.ok.test"
PASSED = {Destination("tcp", address, port) for address in (world.API, world.PROGRAMS) for port in (80, 443)}
PASSED |= {Destination("tcp", world.PINNED, 443), Destination("udp", world.TIME, world.TIME_PORT)}


class Secrets:
    """Made-up secrets, one for each place, and the forms in which one could be written down."""

    def __init__(self) -> None:
        self._made: dict[str, str] = {}

    def __call__(self, place: str) -> str:
        return self._made.setdefault(place, f"s3cr-{secrets.token_hex(8)}")

    def found_in(self, text: bytes) -> list[str]:
        """The places whose secret is in `text`, as it is or encoded."""
        return [place for place, secret in self._made.items() if any(form in text for form in _forms(secret))]


def _forms(secret: str) -> Iterator[bytes]:
    yield secret.encode()
    yield secret.encode().hex().encode()
    yield quote(secret, safe="").replace("-", "%2D").encode()
    for before in range(3):  # Base64 depends on what stands before
        coded = base64.b64encode(b"x" * before + secret.encode())
        yield coded[4:-4]


def browse(lab: Workspace, secret: Secrets) -> None:
    """Requests as clients send them, over HTTP and inside intercepted TLS; all of them pass."""
    for scheme in ("http", "https"):
        url = f"{scheme}://user:{secret('password')}@api.ok.test/head?token={secret('query')}#{secret('fragment')}"
        fields = {"Authorization": "Bearer " + secret("token"), "Cookie": f"session={secret('cookie')}"}
        fields |= {"X-Api-Key": secret("key"), "Referer": f"https://api.ok.test/?{secret('referer')}"}
        headers = [word for name, value in fields.items() for word in ("-H", f"{name}: {value}")]
        told = lab.guest.curl(*headers, url).stdout.encode()
        assert set(secret.found_in(told)) >= {"query", "token", "cookie", "key", "referer"}
        body = secret("body") * 100
        assert lab.guest.curl("--data", body, f"{scheme}://api.ok.test/sink?{secret('query')}").returncode == 0
        assert lab.guest.curl("-u", f"user:{secret('basic')}", f"{scheme}://api.ok.test/").returncode == 0
        assert "403" in lab.guest.curl("-i", *headers, "-H", "Host: evil.test", url).stdout


def misbehave(lab: Workspace, internet: Internet, secret: Secrets) -> None:
    """Requests and answers that are refused, with a secret in what is wrong with them."""
    head = b"Host: h2.ok.test\r\n"
    s = secret("malformed request").encode()
    refused = (
        b"GET /?" + s + b" " + s + b" HTTP/1.1\r\n" + head + b"\r\n",
        b"GET http://user:" + s + b"@h2.ok.test/ HTTP/1.1\r\n" + head + b"\r\n",
        b"GET / HTTP/1.1\r\n" + head + b"Authorization : " + s + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + head + b"Cookie: a\r\n " + s + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + head + b"Content-Length: " + s + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + head + b"Transfer-Encoding: " + s + b"\r\n\r\n",
        b"POST /fine HTTP/1.1\r\n" + head + b"Transfer-Encoding: chunked\r\n\r\n" + s + b"\r\n",
        b"CONNECT user:" + s + b"@h2.ok.test:443 HTTP/1.1\r\n" + head + b"\r\n",
        b"GET / HTTP/1.1\r\n" + head + b"Upgrade: " + s + b"\r\nConnection: upgrade\r\n\r\n",
    )
    s = secret("malformed answer").encode()
    answers = {
        b"/status": b"HTTP/1.1 2000 " + s + b"\r\n\r\n",
        b"/field": b"HTTP/1.1 200 OK\r\nSet-Cookie : " + s + b"\r\n\r\n",
        b"/length": b"HTTP/1.1 200 OK\r\nContent-Length: " + s + b"\r\n\r\n",
        b"/switch": b"HTTP/1.1 101 Switching\r\nUpgrade: " + s + b"\r\n\r\n",
        b"/cookie": b"HTTP/1.1 200 OK\r\nSet-Cookie: " + s + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        b"/location": b"HTTP/1.1 302 " + s + b"\r\nLocation: /?" + s + b"\r\nContent-Length: 0\r\n\r\n",
    }

    def answer(request: bytes) -> bytes:
        return next((answer for key, answer in answers.items() if key in request), b"?\r\n\r\n")

    with answering(internet.far, (world.PROGRAMS, 80), answer) as heard:
        for request in refused:
            assert lab.guest.tcp(world.PROGRAMS, 80, request, seconds=2).data.startswith(b"HTTP/1.1 4"), request
        for path in answers:
            lab.guest.curl(f"http://{PROGRAM}{path.decode()}?{secret('query')}")
            assert path in heard[-1]


def whisper(lab: Workspace, secret: Secrets) -> None:
    """What is relayed unread, and what is refused unread."""
    said = secret("opaque").encode()
    lab.guest.tcp(world.API, 443, b"\0" + said, seconds=1)
    assert lab.guest.udp(world.TIME, world.TIME_PORT, secret("datagram").encode()).data
    lab.guest.udp(world.EVIL, 443, said, seconds=0.5)
    lab.guest.tcp(world.METADATA, 80, b"GET /?" + said + b" HTTP/1.1\r\n\r\n", seconds=0.5)
    url = f"https://pinned.test/?{secret('passthrough')}"
    assert lab.guest.run("curl", "-sS", "-k", "-H", f"Authorization: {secret('token')}", url).returncode == 0


def written(directory: Path) -> Iterator[tuple[str, bytes]]:
    """Every file below, but for the network namespace that is mounted there."""
    for path in sorted(directory.rglob("*")):
        if path.is_file() and path.stat().st_dev == directory.stat().st_dev:
            yield str(path), path.read_bytes()


def test_secrets_are_written_nowhere(
    internet: Internet, oracle: Oracle, workspace: MakeWorkspace, capfd: pytest.CaptureFixture[str]
) -> None:
    lab, secret = workspace(allow=["api.ok.test", PROGRAM, world.TIME], passthrough=["pinned.test"]), Secrets()
    browse(lab, secret)
    misbehave(lab, internet, secret)
    whisper(lab, secret)
    Faults()("a test", ValueError(secret("exception")))
    lab.room.call(lab.mediator.stop())
    events = {record["event"] for record in lab.records()}
    assert {"egress_request", "egress_deny", "egress_mitm_upstream_error", "egress_udp_close"} <= events
    assert "/head" in {record.get("path") for record in lab.records("egress_request")}

    said = "".join(capfd.readouterr()).encode()
    assert b"ValueError in a test" in said
    assert secret.found_in(said) == []
    for path, content in written(lab.directory):
        assert secret.found_in(content) == [], path
    assert secret.found_in(b"Basic " + base64.b64encode(f"user:{secret('basic')}".encode())) == ["basic"]
    assert oracle.leaks(PASSED, {"api.ok.test", PROGRAM, "pinned.test"}) == ()


def test_a_mediator_that_crashes_leaves_no_core(workspace: MakeWorkspace, tmp_path: Path) -> None:
    lab, secret = workspace(allow=["api.ok.test"]), Secrets()
    status = Path(f"/proc/{lab.mediator.pid}/limits").read_text().splitlines()
    assert next(line for line in status if "core file" in line).split()[4:6] == ["0", "0"]
    # What can be dumped belongs to its own uid, what cannot is root's (proc(5)).
    assert Path(f"/proc/{lab.mediator.pid}/maps").stat().st_uid == 0

    # The positive control: a process that holds a secret, and that nobody confined.
    holder = f"import os, resource; resource.setrlimit(4, (-1, -1)); s = '{secret('held')}'; os.kill(os.getpid(), 11)"
    assert subprocess.run([sys.executable, "-c", holder], cwd=tmp_path, check=False).returncode == -signal.SIGSEGV
    dumps_here = not Path("/proc/sys/kernel/core_pattern").read_text().startswith(("|", "/"))
    assert any("held" in secret.found_in(content) for _, content in written(tmp_path)) == dumps_here

    place = Path(f"/proc/{lab.mediator.pid}/cwd").resolve()
    before = set(place.iterdir())
    lab.guest.curl("-H", f"Authorization: {secret('token')}", "https://api.ok.test/")
    os.kill(lab.mediator.pid, signal.SIGSEGV)

    async def ended() -> str:
        return await lab.mediator.ended

    assert lab.room.call(ended()) == "died"
    assert {path for path in place.iterdir() if path.name.startswith("core")} <= before
    for path, content in written(lab.directory):
        assert secret.found_in(content) == [], path
