"""One end of a relayed connection, plain or TLS, never blocking."""

import contextlib
import socket
import ssl
import struct
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

# OpenSSL hands over at most one record (16 KiB) a read; a plain socket gives what it has.
CHUNK = 65536
_LINGER_RESET = struct.pack("ii", 1, 0)


class Channel(Protocol):
    """What a relay needs of an end."""

    def fileno(self) -> int:
        """The descriptor to watch."""

    @property
    def stuck(self) -> bool:
        """Whether reading cannot go on before something was written, as in TLS: watch for that as well."""

    def read(self) -> bytes | None:
        """Some bytes; none (`b""`) at the end; None when there are none now. OSError when it broke."""

    def write(self, data: bytes | memoryview) -> int:
        """How many bytes were taken; 0 when none can be now. OSError when it broke."""

    def end(self) -> None:
        """Say that no more will be written."""

    def close(self, *, reset: bool = False) -> None:
        """Close, at once; with a reset if so asked."""


class PlainChannel:
    """A TCP socket."""

    stuck = False

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._sock.fileno()

    def read(self) -> bytes | None:
        """See Channel."""
        try:
            return self._sock.recv(CHUNK)
        except BlockingIOError:
            return None

    def write(self, data: bytes | memoryview) -> int:
        """See Channel."""
        try:
            return self._sock.send(data)
        except BlockingIOError:
            return 0

    def end(self) -> None:
        """Half-close."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)

    def close(self, *, reset: bool = False) -> None:
        """See Channel."""
        close_socket(self._sock, reset=reset)


class TlsChannel:
    """A TLS connection on its own descriptor; the handshake is done or under way."""

    def __init__(self, tls: ssl.SSLSocket) -> None:
        self._tls = tls
        self.stuck = False
        self._unread: bytes | None = None
        self._ended = False
        # Told just before the end: a TLS 1.3 server hands out its sessions at any time after the handshake.
        self.closing: Callable[[ssl.SSLSocket], None] | None = None

    @property
    def tls(self) -> ssl.SSLSocket:
        """The connection itself."""
        return self._tls

    @property
    def alpn(self) -> str | None:
        """The protocol that the handshake chose."""
        return self._tls.selected_alpn_protocol()

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._tls.fileno()

    def handshake(self) -> bool:
        """Go on with the handshake; True when it is done. ssl.SSLError or OSError when it failed."""
        self.stuck = False
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLWantWriteError:
            self.stuck = True
            return False
        return True

    def hear(self) -> None:
        """Take in what the peer has sent, and keep what of it is to be read. OSError when it broke."""
        self._unread = self.read()

    def read(self) -> bytes | None:
        """See Channel. An end without close_notify raises: a truncated stream is not a finished one."""
        if self._unread is not None:
            unread, self._unread = self._unread, None
            return unread
        if self._ended:
            return self._discard()
        self.stuck = False
        try:
            # Not recv() and send(), which ask whether there is TLS at all and then call these.
            return self._tls.read(CHUNK)
        except ssl.SSLWantReadError:
            return None
        except ssl.SSLWantWriteError:
            self.stuck = True
            return None
        except ssl.SSLZeroReturnError:
            return b""

    def write(self, data: bytes | memoryview) -> int:
        """See Channel."""
        try:
            return self._tls.write(data)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return 0

    def _discard(self) -> bytes | None:
        """What still comes is for nobody, but left unread it would make the kernel reset our last words."""
        try:
            return socket.socket.recv(self._tls, CHUNK)
        except BlockingIOError:
            return None

    def end(self) -> None:
        """Send close_notify and half-close; what is read from now on is not decrypted any more."""
        self._ended = True
        # unwrap() sends our alert and then waits for the peer's, which need not ever come; data in its place breaks
        # the connection for OpenSSL.
        with contextlib.suppress(OSError, ValueError):
            self._tls.unwrap()
        with contextlib.suppress(OSError):
            self._tls.shutdown(socket.SHUT_WR)

    def close(self, *, reset: bool = False) -> None:
        """See Channel."""
        if self.closing is not None:
            self.closing(self._tls)
        close_socket(self._tls, reset=reset)


def keep_in_place(sock: socket.socket) -> None:
    """Let urgent bytes stay in their place (RFC 6093): then peeking, reading and splicing see the same."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)


def outgoing_socket() -> socket.socket:
    """A TCP socket that has still to connect, and does not block."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    keep_in_place(sock)
    return sock


def close_socket(sock: socket.socket, *, reset: bool = False) -> None:
    """Close; with `reset` the peer sees RST instead of FIN."""
    if reset:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
    sock.close()


def is_own(address: str, port: int) -> bool:
    """Whether the kernel keeps what is sent to `address` on this machine: it comes from there, too. Nothing is sent.

    True also where a route says so and no interface has the address. False for second addresses of a network, which
    interfaces have: what goes to them comes from the first.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address, port))
        except OSError:  # there is no way to it
            return False
        return bool(probe.getsockname()[0] == address)


def is_with_itself(sock: socket.socket) -> bool:
    """Whether the kernel gave a connection the very port that it dials, on which nobody listens (RFC 9293, 3.5)."""
    try:
        return bool(sock.getsockname() == sock.getpeername())
    except OSError:  # it has been reset already
        return False


def broken(error: Exception) -> str:
    """The `why` of a connection that broke: the operating system's words, or the kind of a surprise."""
    if isinstance(error, OSError):
        return f"reset: {error.strerror or error}"
    return f"fault: {type(error).__name__}"
