"""One canonical name: a ClientHello cut, wrapped or spelled oddly gets the verdict of its name, or is denied."""

import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress

import pytest
from tests.kernel.conftest import MakeWorkspace
from tests.kernel.guest import Answer, LinuxGuest

from microagent.demo import world
from microagent.demo.oracle import Destination, Oracle

pytestmark = pytest.mark.kernel

PINNED_TLS = Destination("tcp", world.PINNED, 443)
ALLOWED, DENIED = "pinned.test", "evil.test"


def client_hello(name: str) -> bytes:
    """The first flight of OpenSSL for this server name."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context()
    client = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def in_records(hello: bytes, size: int) -> bytes:
    """The same handshake message, in TLS records of `size` bytes."""
    payload = hello[5:]
    pieces = [payload[at : at + size] for at in range(0, len(payload), size)]
    return b"".join(b"\x16\x03\x01" + len(piece).to_bytes(2, "big") + piece for piece in pieces)


def in_segments(size: int) -> Callable[[bytes], list[bytes]]:
    """Cuts bytes into writes of `size`."""
    return lambda data: [data[at : at + size] for at in range(0, len(data), size)]


CUTS: dict[str, Callable[[bytes], list[bytes]]] = {
    "whole": lambda hello: [hello],
    "segments of 1": in_segments(1),
    "segments of 7": in_segments(7),
    "records of 1": lambda hello: [in_records(hello, 1)],
    "records of 40": lambda hello: [in_records(hello, 40)],
    "records and segments": lambda hello: in_segments(11)(in_records(hello, 5)),
}


def converse(guest: LinuxGuest, address: str, pieces: list[bytes]) -> Answer:
    """Send each piece in a segment of its own and read what comes, for two seconds without a byte."""

    def talk() -> Answer:
        data = b""
        try:
            with socket.create_connection((address, 443), timeout=2) as stream:
                stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for piece in pieces:
                    stream.sendall(piece)
                    time.sleep(0.001)
                data = stream.recv(65536)
        except OSError as error:
            return Answer(type(error).__name__, data)
        return Answer("", data)

    return guest.call(talk)


@pytest.mark.parametrize("how", CUTS)
def test_a_hello_in_pieces_gets_the_verdict_of_its_name(oracle: Oracle, workspace: MakeWorkspace, how: str) -> None:
    lab = workspace(passthrough=[ALLOWED])
    allowed = converse(lab.guest, world.PINNED, CUTS[how](client_hello(ALLOWED)))
    assert allowed.data[:1] == b"\x16", allowed  # the server's own ServerHello
    denied = converse(lab.guest, world.PINNED, CUTS[how](client_hello(DENIED)))
    lab.wait_for("egress_deny", host=DENIED)
    assert denied != allowed
    assert oracle.leaks({PINNED_TLS}, {ALLOWED}) == ()


def spelled(before: bytes, after: bytes) -> bytes:
    """A hello for `before` whose server name's bytes are then replaced."""
    assert len(before) == len(after)
    hello = client_hello(before.decode("ascii"))
    assert hello.count(before) == 1
    return hello.replace(before, after)


@pytest.mark.parametrize(
    "name",
    [
        b"evil.test\0.pinned.test",
        b"evil.test .pinned.test",
        b"evil.test\n.pinned.test",
        b"evil.test\xc0.pinned.test",
        b"evil.test..pinned.test",
        b".evil.test.pinned.test",
        b"evil.test%00pinned.tes",
        b"http://evilxpinned.test",
    ],
)
def test_a_name_that_is_none_is_denied_and_never_repaired(
    oracle: Oracle, workspace: MakeWorkspace, name: bytes
) -> None:
    lab = workspace(passthrough=[f".{ALLOWED}"])
    plain = (b"x" * (len(name) - len(ALLOWED) - 1) + b"." + ALLOWED.encode())[: len(name)]
    answer = converse(lab.guest, world.PINNED, [spelled(plain, name)])
    assert answer.data[:1] != b"\x16", answer  # no ServerHello, neither the server's nor a minted one
    lab.wait_for("egress_deny")
    control = converse(lab.guest, world.PINNED, [client_hello(ALLOWED)])
    assert control.data[:1] == b"\x16"
    assert oracle.leaks({PINNED_TLS}, {ALLOWED}) == ()


@pytest.mark.parametrize(
    "hello",
    [
        b"\x16\x03\x01\xff\xff" + b"\x01" * 100,
        b"\x16\x03\x01\x00\x04\x01\xff\xff\xff" + b"x" * 50,
        b"\x80\x2e\x01\x03\x01" + b"x" * 50,
        b"\x16\x09\x09\x00\x05\x01\x00\x00\x01\x00",
        b"\x16\x03\x01\x00\x00" * 50,
    ],
    ids=["long record", "long message", "SSLv2", "odd version", "empty records"],
)
def test_what_only_looks_like_tls_goes_nowhere(oracle: Oracle, workspace: MakeWorkspace, hello: bytes) -> None:
    lab = workspace(passthrough=[ALLOWED])
    converse(lab.guest, world.PINNED, [hello])
    assert converse(lab.guest, world.PINNED, [client_hello(ALLOWED)]).data[:1] == b"\x16"
    assert oracle.leaks({PINNED_TLS}, {ALLOWED}) == ()


@pytest.mark.parametrize("version", [b"\0\0", b"\2\0", b"\3\1", b"\x0f\xff"], ids=["0", "2", "3.1", "15"])
def test_a_warning_before_the_hello_does_not_make_it_opaque(
    oracle: Oracle, workspace: MakeWorkspace, version: bytes
) -> None:
    """Go's servers drop warnings of any version and go on to the ClientHello, which may name anybody."""
    lab = workspace(allow=["ssh.ok.test"])
    assert lab.guest.dig("+short", "ssh.ok.test").strip() == world.SSH
    lab.guest.tcp(world.SSH, 22, b"\x15" + version + b"\0\2\1\x5a" + client_hello(DENIED), seconds=1)
    lab.wait_for("egress_deny", reason="hello_malformed")
    assert not lab.internet.evidence().banners
    assert lab.guest.tcp(world.SSH, 22, b"SSH-2.0-x\r\n", seconds=1).data == world.BANNER + b"SSH-2.0-x\r\n"
    assert oracle.leaks({Destination("tcp", world.SSH, 22)}, {"ssh.ok.test"}) == ()


def test_an_urgent_first_byte_hides_no_hello(oracle: Oracle, workspace: MakeWorkspace) -> None:
    """A reader that leaves urgent bytes out would look at what follows, and take it for no TLS."""
    lab = workspace(allow=["ssh.ok.test"])
    assert lab.guest.dig("+short", "ssh.ok.test").strip() == world.SSH
    hello = client_hello(DENIED)

    def talk() -> None:
        with socket.create_connection((world.SSH, 22), timeout=5) as stream, suppress(OSError):
            stream.send(hello[:1], socket.MSG_OOB)
            stream.sendall(hello[1:])
            stream.recv(1)
            stream.send(b"!", socket.MSG_OOB)
            stream.recv(1)

    lab.guest.call(talk)
    lab.wait_for("egress_deny", host=DENIED)
    assert oracle.leaks((), {"ssh.ok.test"}) == ()


def test_a_name_that_does_not_resolve_is_no_way_around_interception(oracle: Oracle, workspace: MakeWorkspace) -> None:
    """Guarded dials the guest's own address then. A passthrough entry is for its name's servers, not for that one."""
    lab = workspace("guarded", passthrough=[f".{ALLOWED}"])
    careless = ssl.create_default_context()
    careless.check_hostname, careless.verify_mode = False, ssl.CERT_NONE

    def ask(name: str, address: str) -> bytes:
        plain = socket.create_connection((address, 443), timeout=5)
        with careless.wrap_socket(plain, server_hostname=name) as stream:
            stream.sendall(f"GET /secret HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode())
            return stream.recv(65536)

    assert lab.guest.call(lambda: ask(f"made-up.{ALLOWED}", world.OTHER)).startswith(b"HTTP/1.1 502 ")
    allowed = lab.wait_for("egress_allow", host=f"made-up.{ALLOWED}")
    assert (allowed["dialed"], allowed["unlisted"], allowed["tls"]) == (f"{world.OTHER}:443", True, "intercept")
    assert not lab.internet.evidence().requests
    assert lab.guest.call(lambda: ask(ALLOWED, world.PINNED)).startswith(b"HTTP/1.1 404 ")
    assert lab.wait_for("egress_allow", host=ALLOWED)["tls"] == "passthrough"
    assert [request.host for request in lab.internet.evidence().requests] == [ALLOWED]
    assert oracle.leaks({PINNED_TLS, Destination("tcp", world.OTHER, 443)}, {ALLOWED, f"made-up.{ALLOWED}"}) == ()
