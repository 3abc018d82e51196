"""A last answer to a guest: wait for its request, answer, close without cutting our own words off.

A client that gets bytes before it has asked anything, or a reset while it is still asking, shows its user a broken
connection instead of the reason.
"""

from collections.abc import Callable

from microagent.flows.last_words import LastWords
from microagent.mediator.channel import Channel
from microagent.mediator.reactor import BOTH, Reactor

_SECONDS = 5.0
# Of what the guest says before we have said what we have to.
_MOST = 256 * 1024
# Reads in one turn before other flows get theirs.
_SHARE = 16


class Goodbye:
    """Reads, sends what `words` says to it, and reads on until the guest closes or the time is over."""

    def __init__(self, reactor: Reactor, channel: Channel, words: LastWords, done: Callable[[], None]) -> None:
        self._reactor = reactor
        self._channel = channel
        self._words = words
        self._unsent = b""
        self._ended = False
        self._done = done
        self._read = 0
        self._over = False
        self._timer = reactor.later(_SECONDS, self._finish)

    def start(self) -> None:
        """Begin."""
        self._reactor.watch(self._channel.fileno(), BOTH, self._ready, self)
        self._reactor.soon(lambda: self._ready(0), self)

    def abort(self, error: Exception) -> None:  # noqa: ARG002  (the guest is gone; it was refused anyway)
        """The guest's side broke."""
        self._finish()

    def _ready(self, _mask: int) -> None:
        if self._over:
            return
        for _ in range(_SHARE):
            if (data := self._channel.read()) is None:
                break
            self._read += len(data)
            if not data or (self._read > _MOST and not self._words.said):
                self._finish()
                return
            self._unsent += self._words.hear_untrusted(data)
        else:
            self._reactor.soon(lambda: self._ready(0), self)
        if self._unsent:
            self._unsent = self._unsent[self._channel.write(self._unsent) :]
        if self._words.said and not self._unsent and not self._ended:
            self._ended = True
            self._channel.end()

    def _finish(self) -> None:
        if not self._over:
            self._over = True
            self._timer.cancel()
            self._reactor.forget(self._channel.fileno())
            self._done()
