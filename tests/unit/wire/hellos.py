"""ClientHellos made by hand, to break them, and by OpenSSL, to believe them."""

import contextlib
import ssl
import struct
from collections.abc import Iterable

SNI, ALPN, VERSIONS, ECH = 0, 16, 43, 0xFE0D


def vector(size: int, data: bytes) -> bytes:
    """`data` behind its length in `size` bytes."""
    return len(data).to_bytes(size, "big") + data


def server_name(*names: tuple[int, bytes]) -> tuple[int, bytes]:
    """A server_name extension with a list of (type, name)."""
    return SNI, vector(2, b"".join(bytes((kind,)) + vector(2, name) for kind, name in names))


def alpn(*names: bytes) -> tuple[int, bytes]:
    return ALPN, vector(2, b"".join(vector(1, name) for name in names))


def versions(*numbers: int) -> tuple[int, bytes]:
    return VERSIONS, vector(1, struct.pack(f"!{len(numbers)}H", *numbers))


def body(
    extensions: Iterable[tuple[int, bytes]] | None = (),
    *,
    version: bytes = b"\x03\x03",
    session: bytes = bytes(32),
    ciphers: bytes = b"\x13\x01\x13\x02",
    compressions: bytes = b"\x00",
) -> bytes:
    """The body of a ClientHello; `extensions` None ends it before their length."""
    head = version + bytes(32) + vector(1, session) + vector(2, ciphers) + vector(1, compressions)
    if extensions is None:
        return head
    return head + vector(2, b"".join(struct.pack("!H", kind) + vector(2, data) for kind, data in extensions))


def message(hello_body: bytes, kind: int = 1) -> bytes:
    return bytes((kind,)) + vector(3, hello_body)


def records(handshake: bytes, size: int = 16384, *, kind: int = 22, version: bytes = b"\x03\x01") -> bytes:
    """`handshake` in records of `size` bytes each."""
    pieces = [handshake[at : at + size] for at in range(0, len(handshake), size)]
    return b"".join(bytes((kind,)) + version + vector(2, piece) for piece in pieces)


def hello(*extensions: tuple[int, bytes], size: int = 16384) -> bytes:
    """A whole hello with these extensions, in records of `size` bytes."""
    return records(message(body(extensions)), size)


def openssl_hello(name: str | None, protocols: list[str] | None = None, *, tls12: bool = False) -> bytes:
    """What OpenSSL's client sends first."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if tls12:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    if protocols:
        context.set_alpn_protocols(protocols)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    connection = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with contextlib.suppress(ssl.SSLWantReadError):
        connection.do_handshake()
    return outgoing.read()


class Oracle:
    """OpenSSL's server, asked which name it sees in a stream fed byte by byte."""

    def __init__(self) -> None:
        self.called = False
        self.name: str | None = None
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.sni_callback = self._take

    def _take(self, _connection: object, name: str | None, _context: object) -> int:
        self.called, self.name = True, name
        return ssl.ALERT_DESCRIPTION_ACCESS_DENIED

    def feed(self, data: bytes) -> int | None:
        """Return how many bytes OpenSSL needed before it asked for the name; None if it never did."""
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        connection = self._context.wrap_bio(incoming, outgoing, server_side=True)
        for count in range(1, len(data) + 1):
            incoming.write(data[count - 1 : count])
            with contextlib.suppress(ssl.SSLError):
                connection.do_handshake()
            if self.called:
                return count
        return None

    def feed_whole(self, data: bytes) -> bool:
        """Whether OpenSSL asks for the name, given all of it at once."""
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        connection = self._context.wrap_bio(incoming, outgoing, server_side=True)
        incoming.write(data)
        with contextlib.suppress(ssl.SSLError):
            connection.do_handshake()
        return self.called
