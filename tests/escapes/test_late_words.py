"""A guest that waits until it is taken for a client of a server that speaks first, and then names another host; or that
ends its stream before it has named one.

Shared addresses serve many names: what is allowed for one of them is not allowed for the others.
"""

import socket
import ssl
import threading
import time
from contextlib import suppress

import pytest
from tests.escapes.test_tls_names import client_hello
from tests.kernel.conftest import MakeWorkspace
from tests.kernel.guest import Answer, LinuxGuest

from microagent.demo import world
from microagent.demo.internet import Internet
from microagent.demo.oracle import Destination, Oracle

pytestmark = pytest.mark.kernel

NAME = "api.ok.test"


def after_silence(guest: LinuxGuest, address: str, port: int, data: bytes) -> Answer:
    """Connect, say nothing for a while, then say `data`; what comes back within two seconds."""

    def talk() -> Answer:
        got = b""
        try:
            with socket.create_connection((address, port), timeout=1) as stream:
                time.sleep(0.6)
                stream.sendall(data)
                while piece := stream.recv(65536):
                    got += piece
        except OSError as error:
            return Answer(type(error).__name__, got)
        return Answer("", got)

    return guest.call(talk)


def half_closed(guest: LinuxGuest, address: str, port: int, data: bytes) -> Answer:
    """Say `data`, then that no more will come; what comes back within two seconds."""

    def talk() -> Answer:
        got = b""
        try:
            with socket.create_connection((address, port), timeout=2) as stream:
                stream.sendall(data)
                stream.shutdown(socket.SHUT_WR)
                while piece := stream.recv(65536):
                    got += piece
        except OSError as error:
            return Answer(type(error).__name__, got)
        return Answer("", got)

    return guest.call(talk)


def request(host: str) -> bytes:
    return f"GET /late HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()


def test_a_late_request_is_decided_as_any_other(oracle: Oracle, workspace: MakeWorkspace) -> None:
    lab = workspace(allow=[NAME])
    assert lab.guest.dig("+short", NAME).strip() == world.API
    refused = after_silence(lab.guest, world.API, 80, request("evil.test"))
    assert refused.data.startswith(b"HTTP/1.1 403 "), refused
    lab.wait_for("egress_deny", host="evil.test")
    assert not lab.internet.evidence().requests
    served = after_silence(lab.guest, world.API, 80, request(NAME))
    assert served.data.startswith(b"HTTP/1.1 404 "), served
    lab.wait_for("egress_request", path="/late", status=404)
    assert [r.host for r in lab.internet.evidence().requests] == [NAME]
    assert oracle.leaks({Destination("tcp", world.API, 80)}, {NAME}) == ()


def test_a_late_hello_is_decided_as_any_other(oracle: Oracle, workspace: MakeWorkspace) -> None:
    lab = workspace(allow=[NAME])
    assert lab.guest.dig("+short", NAME).strip() == world.API
    after_silence(lab.guest, world.API, 443, client_hello("evil.test"))
    lab.wait_for("egress_deny", host="evil.test")
    after_silence(lab.guest, world.API, 443, client_hello(NAME))
    lab.wait_for("egress_allow", host=NAME, tls="intercept")
    assert oracle.leaks({Destination("tcp", world.API, 443)}, {NAME}) == ()


def test_a_server_that_speaks_first_still_does(oracle: Oracle, workspace: MakeWorkspace) -> None:
    lab = workspace(allow=["ssh.ok.test"])
    assert lab.guest.dig("+short", "ssh.ok.test").strip() == world.SSH
    began = time.monotonic()
    answer = after_silence(lab.guest, world.SSH, 22, b"SSH-2.0-late\r\n")
    assert answer.data == world.BANNER + b"SSH-2.0-late\r\n", answer
    assert time.monotonic() - began < 10
    closed = lab.wait_for("egress_close", host="ssh.ok.test")
    assert closed["opaque"] is True
    assert oracle.leaks({Destination("tcp", world.SSH, 22)}, {"ssh.ok.test"}) == ()


def test_a_request_without_its_end_reaches_nobody(oracle: Oracle, workspace: MakeWorkspace) -> None:
    """Some servers take the end of the stream for the end of the head."""
    lab = workspace(allow=[NAME])
    assert lab.guest.dig("+short", NAME).strip() == world.API
    for port, data in ((80, request("evil.test")[:-2]), (443, client_hello("evil.test")[:-1])):
        half_closed(lab.guest, world.API, port, data)
        lab.wait_for("egress_deny", dst=f"{world.API}:{port}")
    assert not lab.records("egress_allow")
    assert half_closed(lab.guest, world.API, 80, request(NAME)).data.startswith(b"HTTP/1.1 404 ")
    assert [r.host for r in lab.internet.evidence().requests] == [NAME]
    assert oracle.leaks({Destination("tcp", world.API, 80)}, {NAME}) == ()


@pytest.mark.parametrize("inside_tls", [False, True], ids=["plain", "inside TLS"])
def test_a_server_that_begins_http2_is_not_spoken_to(
    internet: Internet, oracle: Oracle, workspace: MakeWorkspace, inside_tls: bool
) -> None:
    """As gRPC's do, with or without ALPN: their SETTINGS come at once, and any authority would be read behind them."""
    name = "h2.ok.test"
    heard: list[tuple[bytes, bytes]] = []
    certified = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certified.load_cert_chain(internet.directory / f"{world.PROGRAMS}.pem")
    lab = workspace(allow=[name])
    trusting = ssl.create_default_context(cadata=lab.guest.trust.read_text())
    assert lab.guest.dig("+short", name).strip() == world.PROGRAMS
    with internet.far.run(lambda: socket.create_server((world.PROGRAMS, 50051))) as listener:

        def serve(greeting: bytes) -> None:
            plain, _ = listener.accept()
            stream = certified.wrap_socket(plain, server_side=True) if inside_tls else plain
            with stream, suppress(ConnectionResetError):
                stream.sendall(greeting)
                heard.append((greeting[:3], stream.recv(100)))

        def talk() -> bytes:
            got = b""
            with suppress(OSError):
                plain = socket.create_connection((world.PROGRAMS, 50051), timeout=2)
                with trusting.wrap_socket(plain, server_hostname=name) if inside_tls else plain as stream:
                    time.sleep(0.6)
                    stream.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
                    while piece := stream.recv(65536):
                        got += piece
            return got

        for greeting in (b"\0\0\6\4\0\0\0\0\0\0\4\0\1\0\0", b"220 hello\r\n"):
            server = threading.Thread(target=serve, args=(greeting,))
            server.start()
            answer = lab.guest.call(talk)
            server.join()
            assert not answer.startswith(greeting[:3]) or greeting == answer == b"220 hello\r\n", answer
    # Whoever greets otherwise is no server of HTTP/2.
    assert [words for words in heard if words[1]] == [(b"220", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")]
    lab.wait_for("egress_deny", reason="upgrade_refused")
    assert oracle.leaks({Destination("tcp", world.PROGRAMS, 50051)}, {name}) == ()
