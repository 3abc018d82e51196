"""Programs that people use, on both ends: curl with nghttp2, nginx, gRPC; and WebSockets, which stay with HTTP/1.1."""

import hashlib
import json
import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.kernel.conftest import MakeWorkspace
from tests.kernel.programs import SERVERS, python_server

from microagent.demo import world
from microagent.demo.internet import Internet
from microagent.demo.oracle import Destination, Oracle

pytestmark = pytest.mark.kernel

NAME = "h2.ok.test"
URL = f"https://{NAME}"
PYTHON_H2 = (sys.executable, str(SERVERS / "h2_client.py"))
TLS = Destination("tcp", world.PROGRAMS, 443)
UPLOAD = 2_000_000

NGINX = """
    daemon off; worker_processes 1; pid {room}/nginx.pid; error_log {room}/error.log; user root;
    events {{ }}
    http {{
        access_log {room}/access.log; client_max_body_size 0;
        client_body_temp_path {room}/body; proxy_temp_path {room}/proxy; fastcgi_temp_path {room}/fastcgi;
        uwsgi_temp_path {room}/uwsgi; scgi_temp_path {room}/scgi;
        server {{
            listen {address}:443 ssl http2;
            ssl_certificate {pem}; ssl_certificate_key {pem};
            root {room};
            location /sink {{ proxy_pass http://127.0.0.1:8080/; }}
        }}
        server {{ listen 127.0.0.1:8080; location / {{ return 200 "sunk"; }} }}
    }}
"""


@contextmanager
def nginx(internet: Internet, room: Path) -> Iterator[None]:
    pem = internet.directory / f"{world.PROGRAMS}.pem"
    config = room / "nginx.conf"
    config.write_text(NGINX.format(room=room, pem=pem, address=world.PROGRAMS))
    room.chmod(0o755)
    argv = internet.far_argv("nginx", "-e", str(room / "error.log"), "-c", str(config))
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 10
            while not (room / "nginx.pid").exists() and time.monotonic() < deadline:
                time.sleep(0.02)
            yield
        finally:
            process.terminate()


def test_curl_and_nginx_speak_http2_end_to_end(
    internet: Internet, oracle: Oracle, workspace: MakeWorkspace, tmp_path: Path
) -> None:
    lab = workspace(allow=[NAME])
    room = tmp_path / "nginx"
    room.mkdir()
    content = os.urandom(UPLOAD)
    (room / "file").write_bytes(content)
    with nginx(internet, room):
        got = lab.guest.curl(
            "--http2", f"{URL}/file", "-o", str(tmp_path / "got"), "-w", "%{http_version} %{http_code}"
        )
        assert got.stdout == "2 200", got.stderr
        assert hashlib.sha256((tmp_path / "got").read_bytes()).digest() == hashlib.sha256(content).digest()
        up = lab.guest.curl("--http2", f"{URL}/sink", "--data-binary", f"@{tmp_path / 'got'}", "-w", " %{http_version}")
        assert up.stdout == "sunk 2", up.stderr
        # Twenty at once on one connection, one of them refused.
        refused = ("--next", "-sS", "--cacert", str(lab.guest.trust), "-H", "Host: evil.test", "-o", "/dev/null")
        many = lab.guest.curl(
            "--http2", "--parallel", f"{URL}/file?[1-20]", "-o", "/dev/null", "-w", "%{http_code}\n", *refused,
            "-w", "%{http_code}\n", f"{URL}/refused",
        )  # fmt: skip
        assert sorted(many.stdout.split()) == ["200"] * 20 + ["403"], many.stderr
        # HTTP/1.1 is still spoken to those who ask for it.
        old = lab.guest.curl("--http1.1", f"{URL}/file", "-o", "/dev/null", "-w", "%{http_version} %{http_code}")
        assert old.stdout == "1.1 200", old.stderr
    served = (room / "access.log").read_text().splitlines()
    records = lab.records("egress_request")
    assert len(served) == len(records) + 1 == 24  # nginx passes the upload to itself
    assert {record["http"] for record in records} == {"1.1", "2"}
    assert next(r for r in records if r["path"] == "/sink")["bytes_out"] > UPLOAD
    assert lab.wait_for("egress_deny", reason="host_mismatch")["path"] == "/refused"
    assert oracle.leaks({TLS}, {NAME}) == ()


def test_one_connection_for_two_names_of_one_server_is_refused_and_another_is_not(
    internet: Internet, oracle: Oracle, workspace: MakeWorkspace, tmp_path: Path
) -> None:
    """RFC 9113 section 9.1.1. The server's certificate has both names, the minted one has its own alone: a client that
    coalesces connections sees that, and one that does not look reads a refusal on that stream and goes on."""
    too = "h2-too.ok.test"
    lab = workspace(allow=[NAME, too])
    room = tmp_path / "nginx"
    room.mkdir()
    (room / "file").write_text("hello")
    shown = ("-w", " %{num_connects} %{http_version} %{http_code}\n")
    again = ("--next", "-sS", "--cacert", str(lab.guest.trust), "--http2", *shown)
    with nginx(internet, room):
        done = lab.guest.curl(
            "--http2", *shown, f"{URL}/file", *again, "-H", f"Host: {too}", "-o", "/dev/null", f"{URL}/file",
            *again, f"{URL}/file", *again, f"https://{too}/file",
        )  # fmt: skip
    assert done.stdout == "hello 1 2 200\n 0 2 403\nhello 0 2 200\nhello 1 2 200\n", done.stderr
    assert [record["host"] for record in lab.records("egress_request")] == [NAME, NAME, too]
    assert lab.wait_for("egress_deny", reason="host_mismatch")["host"] == too
    assert len((room / "access.log").read_text().splitlines()) == 3
    assert oracle.leaks({TLS}, {NAME, too}) == ()


def test_a_refused_name_gets_its_reason_in_http2_from_who_speaks_nothing_else(
    oracle: Oracle, workspace: MakeWorkspace
) -> None:
    lab = workspace(allow=["api.ok.test"])
    hidden = ("--resolve", f"evil.test:443:{world.EVIL}", "-i", "https://evil.test/")
    both = lab.guest.curl("--http2", *hidden)
    assert both.stdout.startswith("HTTP/1.1 403"), both
    only = lab.guest.run(*PYTHON_H2, str(lab.guest.trust), world.EVIL, "evil.test")
    record = lab.wait_for("egress_deny", host="evil.test", reason="name_not_listed")
    assert only.stdout.startswith("403 "), only.stderr
    assert json.loads(only.stdout.partition(" ")[2])["reason"] == record["reason"]
    assert lab.guest.curl("https://api.ok.test/").stdout == "hello from api.ok.test\n"
    assert oracle.leaks({Destination("tcp", world.API, 443)}, {"api.ok.test"}) == ()


def test_a_grpc_stream_goes_both_ways_message_by_message(
    internet: Internet, oracle: Oracle, workspace: MakeWorkspace
) -> None:
    lab = workspace(allow=[NAME])
    environment = ("env", "GRPC_DNS_RESOLVER=native")
    client = (*environment, sys.executable, str(SERVERS / "grpc_client.py"), str(lab.guest.trust))
    with python_server(internet, "grpc_origin.py"):
        assert lab.guest.run(*client, NAME, "500").stdout == "500 500"
        assert lab.guest.run(*client, "evil.test", "1").stdout == "UNAVAILABLE"  # its name does not resolve
    record = lab.wait_for("egress_request", path="/test.Echo/Echo")
    assert (record["method"], record["status"], record["http"]) == ("POST", 200, "2")
    assert record["bytes_out"] > 50_000
    assert oracle.leaks({TLS}, {NAME}) == ()


@pytest.mark.parametrize("scheme", ["ws", "wss"])
def test_a_websocket_passes_both_ways(oracle: Oracle, workspace: MakeWorkspace, scheme: str) -> None:
    lab = workspace(allow=["api.ok.test"])
    client = (sys.executable, str(SERVERS / "websocket_client.py"))
    came = lab.guest.run(*client, f"{scheme}://api.ok.test/websocket", str(lab.guest.trust), "100")
    assert came.stdout == "100", came.stderr
    assert lab.wait_for("egress_request", path="/websocket")["status"] == 101
    closed = lab.wait_for("egress_close", host="api.ok.test")
    assert closed["bytes_out"] > 50_000
    assert closed["bytes_in"] > 50_000
    port = {"ws": 80, "wss": 443}[scheme]
    assert oracle.leaks({Destination("tcp", world.API, port)}, {"api.ok.test"}) == ()


OFFERS: dict[str, tuple[list[str], str | None, str | None]] = {
    "both": (["h2", "http/1.1"], "h2", "http/1.1"),
    "both, the older one first": (["http/1.1", "h2"], "h2", "http/1.1"),
    "HTTP/1.1 alone": (["http/1.1"], None, "http/1.1"),
    "HTTP/2 alone": (["h2"], "h2", None),
    "nothing": ([], None, None),
    "what cannot be read": (["spdy/3.1", "acme-tls/1"], None, None),
    "what cannot be read, too": (["spdy/3.1", "h2"], "h2", None),
}


def test_both_sides_agree_on_what_the_guest_offers_and_the_server_chooses(
    internet: Internet, workspace: MakeWorkspace, tmp_path: Path
) -> None:
    lab = workspace(allow=[NAME, "api.ok.test"])

    def chosen(address: str, name: str, offer: list[str]) -> str | None:
        context = ssl.create_default_context(cafile=str(lab.guest.trust))
        if offer:
            context.set_alpn_protocols(offer)
        plain = lab.guest.call(lambda: socket.create_connection((address, 443), timeout=5))
        with plain, context.wrap_socket(plain, server_hostname=name) as tls:
            return tls.selected_alpn_protocol()

    with python_server(internet, "h2_origin.py", str(tmp_path / "log")):
        for offer, newer, older in OFFERS.values():
            assert chosen(world.PROGRAMS, NAME, offer) == newer, offer
            assert chosen(world.API, "api.ok.test", offer) == older, offer
