"""TLS with servers: verified, resumed where the server lets us, and watched for what they ask (contract 7.3).

How this works: one SSLContext verifies for all connections of a workspace. What OpenSSL lets pass and no browser does
is looked at afterwards (`pki.server`). Sessions are kept by name and port, and never offered to another name: a
resumed handshake verifies nothing anew, so it must only ever lead to the server that was verified.

The ssl module has no way to say that a server asked for a client certificate. OpenSSL's message callback has, in
TLS 1.2 and 1.3; but it would be called for every record as well. So connections begin with a context that watches and
go on, once shaken, with its twin that does not.
"""

import socket
import ssl
from collections import OrderedDict
from dataclasses import dataclass
from weakref import WeakSet

from microagent.pki.server import unfit_untrusted

# RFC 8446 section 4: the type of CertificateRequest; the same in TLS 1.2. RFC 8446 section 5.1: of handshake records.
_CERTIFICATE_REQUEST = 13
_HANDSHAKE = 22
# A session outlives its server's certificate by this much at most; RFC 8446 section 4.6.1 would allow seven days.
_SESSION_SECONDS = 3600.0
_SESSIONS = 1024


def upstream_context(extra_roots: str) -> ssl.SSLContext:
    """The system's roots and the operator's (PEM); names are verified, TLS 1.2 and 1.3 alone are spoken."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # At least 112 bits: no SHA-1 signatures, no RSA below 2048, whatever the host's openssl.cnf allows.
    context.set_ciphers("DEFAULT:@SECLEVEL=2")
    # A server that begins anew, in TLS 1.2, could show another certificate in the middle.
    context.options |= ssl.OP_NO_RENEGOTIATION
    # RFC 9525 section 2: names are in the subjectAltName, and nowhere else.
    context.hostname_checks_common_name = False
    if extra_roots:
        context.load_verify_locations(cadata=extra_roots)
    return context


@dataclass(frozen=True, slots=True)
class _Kept:
    session: ssl.SSLSession
    until: float


class UpstreamTls:
    """The client side of a workspace's interceptions."""

    def __init__(self, context: ssl.SSLContext, more_roots: str = "") -> None:
        """`context` is this workspace's from now on; `more_roots` (PEM) are trusted in it as well.

        ssl.SSLError when `more_roots` cannot be read.
        """
        if more_roots:
            context.load_verify_locations(cadata=more_roots)
        self._context = context
        self._unwatched = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._asked: WeakSet[ssl.SSLSocket] = WeakSet()
        self._sessions: OrderedDict[tuple[str, int], _Kept] = OrderedDict()
        # Past the ssl module's own setter, whose wrapper makes enum members of five numbers for each message.
        super(ssl.SSLContext, ssl.SSLContext)._msg_callback.__set__(context, self._message)  # type: ignore[misc]

    def wrap(self, sock: socket.socket, name: str, port: int, alpn: tuple[str, ...], *, now: float) -> ssl.SSLSocket:
        """A connection to `name`, its handshake still to come; `now` is monotonic, in seconds.

        `alpn` is what the guest offered of what we can read.
        """
        # OpenSSL copies the list into each new connection, so the one context can offer different ones.
        self._context.set_alpn_protocols(list(alpn))
        # A server that ends without close_notify has been cut off: that must not look like the end of its answer.
        tls = self._context.wrap_socket(
            sock, server_hostname=name, do_handshake_on_connect=False, suppress_ragged_eofs=False
        )
        kept = self._sessions.get((name, port))
        if kept is not None and now < kept.until:
            tls.session = kept.session
        return tls

    def asked_for_certificate(self, tls: ssl.SSLSocket) -> bool:
        """Whether the server asked for a client certificate, be it that the handshake failed."""
        return tls in self._asked

    def may_refuse(self, tls: ssl.SSLSocket) -> bool:
        """Whether a server has yet to say that it insists on the client certificate that it asked for."""
        return self.asked_for_certificate(tls) and tls.version() == "TLSv1.3"

    def shaken(self, tls: ssl.SSLSocket) -> str:
        """The handshake is done: watch no more. What is wrong with the server's certificate; empty: nothing."""
        tls.context = self._unwatched
        if tls.session_reused:
            return ""
        return unfit_untrusted(tls.getpeercert(binary_form=True) or b"")

    def keep(self, tls: ssl.SSLSocket, name: str, port: int, now: float) -> None:
        """Remember the session of a connection that is about to be closed, if there is one to resume.

        A session that was resumed itself is not kept anew, so that certificates are verified once in a while.
        """
        if tls.session_reused:
            return
        tls.context = self._context
        session = tls.session
        if session is not None and (session.has_ticket or session.id):
            self._sessions[name, port] = _Kept(session, now + min(_SESSION_SECONDS, session.timeout))
            self._sessions.move_to_end((name, port))
            if len(self._sessions) > _SESSIONS:
                self._sessions.popitem(last=False)

    def _message(
        self, tls: ssl.SSLSocket, direction: str, _version: object, content_type: int, message_type: int, _data: bytes
    ) -> None:
        if direction == "read" and content_type == _HANDSHAKE and message_type == _CERTIFICATE_REQUEST:
            self._asked.add(tls)
