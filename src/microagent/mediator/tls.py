"""Handshakes, and the leaves that guests are shown: upstream comes first (`upstream`), then the guest (contract 7.3).

An SSLContext costs more than a handshake, so there is one for each minted name, kept until others are asked for more
often.
"""

import os
import ssl
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from microagent.mediator.bounds import Rate
from microagent.mediator.channel import TlsChannel
from microagent.mediator.reactor import IN, OUT, Owner, Reactor
from microagent.pki.ca import Issuer


@dataclass(slots=True)
class _Leaf:
    """A minted chain with its key, and the contexts made of it: one for each protocol a server chose."""

    pem: bytes
    contexts: dict[str | None, ssl.SSLContext] = field(default_factory=dict)


class LeafContexts:
    """One leaf for each name a guest was answered as."""

    def __init__(self, issuer: Issuer, most: int, per_second: int) -> None:
        """`most` leaves are kept, at most `per_second` are minted."""
        self._issuer = issuer
        self._most = most
        self._rate = Rate(per_second)
        self._leaves: OrderedDict[str, _Leaf] = OrderedDict()
        self._untold = 0

    def for_name(self, name: str, protocol: str | None = "http/1.1", *, now: float) -> ssl.SSLContext | None:
        """The server context whose certificate says `name`, and that agrees to `protocol` by ALPN and to no other.

        None when too many were minted lately; `now` is monotonic, in seconds.

        A `protocol` of None agrees to nothing: ALPN is then left unanswered, as the server did.
        """
        leaf = self._leaves.get(name)
        if leaf is None:
            if not self._rate.take(now):
                return None
            self._untold += 1
            leaf = self._leaves[name] = _Leaf(b"".join(self._issuer.leaf(name, datetime.now(UTC))))
            if len(self._leaves) > self._most:
                self._leaves.popitem(last=False)
        self._leaves.move_to_end(name)
        if protocol not in leaf.contexts:
            leaf.contexts[protocol] = _server_context(leaf.pem, protocol)
        return leaf.contexts[protocol]

    def minted(self) -> int | None:
        """How many were minted since this was last asked, for a record; None for none."""
        count, self._untold = self._untold, 0
        return count or None


def _server_context(pem: bytes, protocol: str | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # In TLS 1.2 each new handshake would cost us more than the guest that asks for it.
    context.options |= ssl.OP_NO_RENEGOTIATION
    if protocol:
        context.set_alpn_protocols([protocol])
    # The ssl module takes certificates from files only; this one has no name and no place on a disk.
    fd = os.memfd_create("leaf", os.MFD_CLOEXEC)
    try:
        os.write(fd, pem)
        context.load_cert_chain(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)
    return context


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a handshake failed, in words; `late`: it took too long."""

    words: str
    late: bool = False


class Handshake:
    """One TLS handshake under way; ends in `done(channel)` or `failed(Failure)`, once, within `seconds`.

    What the two callbacks raise is their `owner`'s to deal with.
    """

    def __init__(
        self,
        reactor: Reactor,
        owner: Owner,
        tls: ssl.SSLSocket,
        done: Callable[[TlsChannel], None],
        failed: Callable[[Failure], None],
        seconds: float,
        lingers: Callable[[], bool] = lambda: False,
    ) -> None:
        """`lingers` is asked when the handshake is done: whether to wait a moment for what the peer makes of it.

        In TLS 1.3 a server says only afterwards that it does not take what it was shown (RFC 8446 section 4.4.2.4).
        """
        self._reactor = reactor
        self._owner = owner
        self._channel = TlsChannel(tls)
        self._done = done
        self._failed = failed
        self._lingers = lingers
        self._lingering = False
        self._mask = 0
        self._timer = reactor.later(seconds, lambda: self._fail(_LATE))
        self._over = False

    def start(self) -> None:
        """Begin; the first step happens in the reactor's next turn."""
        self._watch()
        self._reactor.soon(lambda: self._step(0), self._owner)

    def stop(self) -> None:
        """Give up silently; the socket is the caller's to close."""
        if not self._over:
            self._over = True
            self._timer.cancel()
            self._reactor.forget(self._channel.fileno())

    def _step(self, mask: int) -> None:
        if self._over or (self._lingering and not mask & IN):
            return
        try:
            if self._lingering:
                self._channel.hear()
            elif not self._channel.handshake():
                self._watch()
                return
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            self._fail(Failure(words(error)))
            return
        if not self._lingering and self._lingers():
            self._lingering = True
            self._watch()
            self._timer.cancel()
            self._timer = self._reactor.later(_LINGER_SECONDS, lambda: self._reactor.soon(self._finish, self._owner))
            return
        self._finish()

    def _watch(self) -> None:
        mask = OUT if self._channel.stuck else IN
        if mask != self._mask:
            self._mask = mask
            self._reactor.watch(self._channel.fileno(), mask, self._step, self._owner)

    def _finish(self) -> None:
        if not self._over:
            self.stop()
            self._done(self._channel)

    def _fail(self, failure: Failure) -> None:
        if not self._over:
            self.stop()
            self._failed(failure)


# A server that takes it need not say anything; one that does not says so within a round trip.
_LINGER_SECONDS = 1.0
_LATE = Failure("the handshake took too long", late=True)


def words(error: BaseException) -> str:
    """OpenSSL's reason without its file names: `certificate verify failed: self-signed certificate`."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate verify failed: {error.verify_message}"
    if isinstance(error, ssl.SSLError) and error.reason:
        return str(error.reason).lower().replace("_", " ")
    return getattr(error, "strerror", None) or str(error)
