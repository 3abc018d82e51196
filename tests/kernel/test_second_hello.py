"""A ClientHello that a server asked for (HelloRetryRequest) leads nowhere that the first one did not (RFC 8446, 4.1.4).

The server here speaks P-384 alone, so that others have to say their hello again, and writes down every name that it is
told and every byte. The client that changes its name in between is tlslite-ng, which then also goes on with that name
in its transcript: a server that is told another name would serve it.
"""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from tests.escapes.test_tls_names import client_hello, in_records
from tests.kernel.workspace import Workspace
from tlslite.api import HandshakeSettings, TLSConnection
from tlslite.constants import ExtensionType
from tlslite.extensions import SNIExtension
from tlslite.messages import ClientHello

from microagent.demo import world
from microagent.demo.authority import Authority
from microagent.demo.internet import Internet
from microagent.demo.oracle import Destination, Oracle

pytestmark = pytest.mark.kernel

PASSED, READ, EVIL = "passed.hello.test", "read.hello.test", "behind.hello.test"
TLS = Destination("tcp", world.PROGRAMS, 443)
RETRY = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")
CHANGE_CIPHER_SPEC = b"\x14\x03\x03\x00\x01\x01"


class Heard:
    """One connection, as the server had it."""

    def __init__(self) -> None:
        self.names: list[str | None] = []
        self.came = b""
        self.went = b""
        self.over = threading.Event()


class Server:
    """One thread a connection: a handshake, a request's head, an answer."""

    def __init__(self, internet: Internet, pem: Path) -> None:
        self.heard: list[Heard] = []
        self._pem = pem
        self._listener = internet.far.run(lambda: socket.create_server((world.PROGRAMS, 443)))
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def last(self) -> Heard:
        """The connection before this moment, when it is over."""
        assert self.heard[-1].over.wait(10)
        return self.heard[-1]

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection = self._listener.accept()[0]
                connection.settimeout(20)
                self.heard.append(Heard())
                threading.Thread(target=self._serve, args=(connection, self.heard[-1]), daemon=True).start()

    def _serve(self, connection: socket.socket, heard: Heard) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._pem)
        context.set_ecdh_curve("secp384r1")
        context.sni_callback = lambda _tls, name, _context: heard.names.append(name)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing, server_side=True)

        def until_done(act: Callable[[], bytes | None]) -> bytes:
            while True:
                with suppress(ssl.SSLWantReadError):
                    found = act() or b""
                    flush()
                    return found
                flush()
                came = connection.recv(65536)
                heard.came += came
                if not came:
                    raise EOFError
                incoming.write(came)

        def flush() -> None:
            data = outgoing.read()
            heard.went += data
            connection.sendall(data)

        with connection, suppress(OSError, EOFError):
            until_done(tls.do_handshake)
            request = b""
            while not request.endswith(b"\r\n\r\n"):
                request += until_done(lambda: tls.read(65536))
            tls.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nhello\n")
            with suppress(ssl.SSLWantReadError):
                tls.unwrap()
            flush()
            connection.shutdown(socket.SHUT_WR)
            while came := connection.recv(65536):
                heard.came += came
        heard.over.set()


class Rig:
    """What the tests of this room share."""

    def __init__(self, lab: Workspace, server: Server, oracle: Oracle) -> None:
        self.lab = lab
        self.server = server
        self.oracle = oracle

    def connect(self) -> socket.socket:
        """From the guest to the server, or so it thinks."""
        return self.lab.guest.call(lambda: socket.create_connection((world.PROGRAMS, 443), timeout=10))


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    room = tmp_path_factory.mktemp("hellos")
    authority = Authority.create()
    (room / "server.pem").write_bytes(authority.server_pem((PASSED, READ, EVIL)))
    zone = {**world.ZONE, **{name: {"A": [world.PROGRAMS]} for name in (PASSED, READ, EVIL)}}
    with (
        Internet(zone) as internet,
        Workspace(
            internet, room, allow=[READ], passthrough=[PASSED], upstream_ca=authority.certificate_pem.decode()
        ) as lab,
    ):
        server = Server(internet, room / "server.pem")
        assert lab.guest.dig("+short", PASSED).strip() == world.PROGRAMS
        yield Rig(lab, server, Oracle(internet))
        server.close()


@pytest.fixture(autouse=True)
def _nothing_else_leaves(rig: Rig) -> Iterator[None]:
    yield
    assert rig.oracle.leaks({TLS}, {PASSED, READ}) == ()


class Tap:
    """A socket, and all that went through it."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.sent = self.received = b""

    def __getattr__(self, name: str) -> object:
        return getattr(self._sock, name)

    def send(self, data: bytes) -> int:
        taken = self._sock.send(data)
        self.sent += bytes(data[:taken])
        return taken

    def sendall(self, data: bytes) -> None:
        self.sent += bytes(data)
        self._sock.sendall(data)

    def recv(self, size: int) -> bytes:
        data = self._sock.recv(size)
        self.received += data
        return data


class Changing(TLSConnection):  # type: ignore[misc]
    """A client whose second ClientHello has a name of its own; None: no name."""

    def __init__(self, sock: object, second: str | None) -> None:
        super().__init__(sock)
        self._second = second
        self.hellos = 0

    def _sendMsg(self, msg: object, *rest: object, **more: object) -> object:  # noqa: N802
        if isinstance(msg, ClientHello):
            self.hellos += 1
            if self.hellos == 2:
                others = [found for found in msg.extensions if found.extType != ExtensionType.server_name]
                named = [SNIExtension().create(bytearray(self._second.encode()))] if self._second else []
                msg.extensions = others + named
        return super()._sendMsg(msg, *rest, **more)


def visit(sock: object, first: str, second: str | None, host: str = "") -> bytes:
    """One request of a client that is asked for a second hello: the answer; OSError or the like when there is none."""
    client = Changing(sock, second)
    settings = HandshakeSettings()
    settings.minVersion = (3, 4)
    settings.keyShares = []
    client.handshakeClientCert(serverName=first, settings=settings)
    assert client.hellos == 2
    client.sendall(f"GET / HTTP/1.1\r\nHost: {host or first}\r\n\r\n".encode())
    answer = b""
    while piece := client.recv(65536):
        answer += piece
    return answer


def test_the_attack_works_where_nobody_looks(rig: Rig) -> None:
    sock = rig.lab.internet.far.run(lambda: socket.create_connection((world.PROGRAMS, 443), timeout=10))
    with sock:
        assert visit(sock, PASSED, EVIL).endswith(b"hello\n")
    assert rig.server.last().names == [PASSED, EVIL]


def test_the_same_name_again_passes_to_the_byte(rig: Rig) -> None:
    with rig.connect() as sock:
        tap = Tap(sock)
        assert visit(tap, PASSED, PASSED).endswith(b"hello\n")
    heard = rig.server.last()
    assert RETRY in heard.went
    assert heard.names == [PASSED, PASSED]
    assert (heard.came, heard.went) == (tap.sent, tap.received)
    closed = rig.lab.wait_for("egress_close", host=PASSED, bytes_out=len(heard.came), bytes_in=len(heard.went))
    assert closed["tls"] == "passthrough"


def test_openssl_says_its_hello_again(rig: Rig) -> None:
    connect = ("openssl", "s_client", "-connect", f"{world.PROGRAMS}:443", "-servername", PASSED, "-ign_eof")
    request = f"GET / HTTP/1.1\r\nHost: {PASSED}\r\n\r\n"
    done = rig.lab.guest.run(*connect, "-groups", "X25519:P-384", stdin=request)
    assert "hello\n" in done.stdout, done
    assert rig.server.last().names == [PASSED, PASSED]
    assert RETRY in rig.server.last().went


@pytest.mark.parametrize("second", [EVIL, None])
def test_another_name_does_not_reach_the_server(rig: Rig, second: str | None) -> None:
    before = len(rig.lab.records())
    with rig.connect() as sock:
        tap = Tap(sock)
        with pytest.raises(ConnectionResetError):
            visit(tap, PASSED, second)
    heard = rig.server.last()
    assert heard.names == [PASSED]
    assert tap.sent.startswith(heard.came)
    assert EVIL.encode() not in heard.came
    deny, closed = rig.lab.records()[before:][-2:]
    assert (deny["event"], deny["reason"], deny["host"]) == ("egress_deny", "host_mismatch", second or PASSED)
    assert (closed["event"], closed["host"], closed["why"]) == (
        "egress_close",
        PASSED,
        "the second ClientHello was refused",
    )
    assert (closed["bytes_out"], closed["bytes_in"]) == (len(heard.came), len(tap.received))


SECONDS: dict[str, Callable[[bytes], list[bytes]]] = {
    "in one write with the first": lambda hello: [hello],
    "behind a change_cipher_spec and early data": lambda hello: [
        CHANGE_CIPHER_SPEC + b"\x17\x03\x03\x00\x05early" + hello
    ],
    "in records of 7": lambda hello: [in_records(hello, 7)],
    "in segments": lambda hello: [hello[at : at + 50] for at in range(0, len(hello), 50)],
}


@pytest.mark.parametrize("how", SECONDS)
def test_a_second_hello_waits_for_the_servers_answer(rig: Rig, how: str) -> None:
    first, second = client_hello(PASSED), client_hello(EVIL)
    with rig.connect() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        head, *rest = SECONDS[how](second)
        sock.sendall(first + head)
        for piece in rest:
            sock.sendall(piece)
            time.sleep(0.01)
        data = b""
        with suppress(ConnectionResetError):
            while piece := sock.recv(65536):
                data += piece
    heard = rig.server.last()
    assert (heard.came, heard.names) == (first, [PASSED])
    assert heard.went.startswith(data)
    rig.lab.wait_for("egress_deny", host=EVIL, reason="host_mismatch")


def test_bytes_that_are_no_hello_do_not_reach_the_server(rig: Rig) -> None:
    first = client_hello(PASSED)
    with rig.connect() as sock:
        sock.sendall(first + b"GET / HTTP/1.1\r\n\r\n")
        with suppress(ConnectionResetError):
            while sock.recv(65536):
                pass
    assert rig.server.last().came == first
    rig.lab.wait_for("egress_deny", host=PASSED, reason="hello_malformed")


@pytest.mark.parametrize("second", [READ, EVIL])
def test_what_is_read_stays_what_was_decided_first(rig: Rig, second: str) -> None:
    with rig.connect() as sock:
        assert visit(sock, READ, second).endswith(b"hello\n")  # the server is READ's own, whatever was said later
    assert rig.server.last().names == [READ, READ]  # the mediator's own two
    with rig.connect() as sock:
        assert visit(sock, READ, second, host=EVIL).startswith(b"HTTP/1.1 403")
    rig.lab.wait_for("egress_deny", host=EVIL, reason="host_mismatch", dst=f"{world.PROGRAMS}:443")
    heard = rig.server.last()
    assert heard.names == [READ, READ]
    assert EVIL.encode() not in heard.came
