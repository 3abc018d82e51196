"""Handshakes: upstream first and verified, then with the guest, with a leaf of the workspace's CA (contract 7.3).

An SSLContext costs more than a handshake, so there is one for all upstreams and one for each minted name, kept
until others are asked for more often.
"""

import os
import ssl
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime

from microagent.mediator.channel import TlsChannel
from microagent.mediator.reactor import BOTH, Owner, Reactor
from microagent.pki.ca import Issuer

# Until HTTP/2 frames are inspected as well, both sides are told to speak HTTP/1.1.
_ALPN = ["http/1.1"]


def upstream_context(extra_roots: str) -> ssl.SSLContext:
    """The system's roots and the operator's (PEM); hostnames are verified."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(_ALPN)
    if extra_roots:
        context.load_verify_locations(cadata=extra_roots)
    return context


class LeafContexts:
    """One server context for each name a guest was answered as."""

    def __init__(self, issuer: Issuer, most: int) -> None:
        """`most` contexts are kept."""
        self._issuer = issuer
        self._most = most
        self._contexts: OrderedDict[str, ssl.SSLContext] = OrderedDict()

    def for_name(self, name: str) -> ssl.SSLContext:
        """The context whose certificate says `name`, minted now if need be."""
        context = self._contexts.get(name)
        if context is None:
            context = self._contexts[name] = self._make(name)
            if len(self._contexts) > self._most:
                self._contexts.popitem(last=False)
        self._contexts.move_to_end(name)
        return context

    def _make(self, name: str) -> ssl.SSLContext:
        chain, key = self._issuer.leaf(name, datetime.now(UTC))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(_ALPN)
        # The ssl module takes certificates from files only; this one has no name and no place on a disk.
        fd = os.memfd_create("leaf", os.MFD_CLOEXEC)
        try:
            os.write(fd, chain + key)
            context.load_cert_chain(f"/proc/self/fd/{fd}")
        finally:
            os.close(fd)
        return context


class Handshake:
    """One TLS handshake under way; ends in `done(channel)` or `failed(words)`, once, within `seconds`.

    What the two callbacks raise is their `owner`'s to deal with.
    """

    def __init__(
        self,
        reactor: Reactor,
        owner: Owner,
        tls: ssl.SSLSocket,
        done: Callable[[TlsChannel], None],
        failed: Callable[[str], None],
        seconds: float,
    ) -> None:
        self._reactor = reactor
        self._owner = owner
        self._channel = TlsChannel(tls)
        self._done = done
        self._failed = failed
        self._timer = reactor.later(seconds, lambda: self._fail("the handshake took too long"))
        self._over = False

    def start(self) -> None:
        """Begin; the first step happens in the reactor's next turn."""
        self._reactor.watch(self._channel.fileno(), BOTH, self._step, self._owner)
        self._reactor.soon(lambda: self._step(0), self._owner)

    def stop(self) -> None:
        """Give up silently; the socket is the caller's to close."""
        if not self._over:
            self._over = True
            self._timer.cancel()
            self._reactor.forget(self._channel.fileno())

    def _step(self, _mask: int) -> None:
        if self._over:
            return
        try:
            finished = self._channel.handshake()
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            self._fail(words(error))
            return
        if finished:
            self.stop()
            self._done(self._channel)

    def _fail(self, error: str) -> None:
        if not self._over:
            self.stop()
            self._failed(error)


def words(error: BaseException) -> str:
    """OpenSSL's reason without its file names: `certificate verify failed: self-signed certificate`."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate verify failed: {error.verify_message}"
    if isinstance(error, ssl.SSLError) and error.reason:
        return str(error.reason).lower().replace("_", " ")
    return getattr(error, "strerror", None) or str(error)
