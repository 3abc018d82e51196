"""The event loop: epoll, timers, and nothing else.

Why not asyncio: a relayed connection costs two descriptors and a handful of wake-ups, and this loop spends about
three microseconds on each where asyncio's transports spend ten times that; `splice` and OpenSSL want the bare
descriptors anyway.
"""

import heapq
import itertools
import select
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

IN = select.EPOLLIN | select.EPOLLRDHUP
OUT = select.EPOLLOUT
READ = select.EPOLLIN
RDHUP = select.EPOLLRDHUP
EDGE = select.EPOLLET
ONESHOT = select.EPOLLONESHOT
# Edge-triggered, both ways: registered once, then the owner moves bytes until the kernel says EAGAIN.
BOTH = IN | OUT | EDGE
HANGUP = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
BROKEN = select.EPOLLERR


class Owner(Protocol):
    """Whoever watches a descriptor; `abort` is called when its handler raised, and must release everything."""

    def abort(self, error: Exception) -> None:
        """Give up, for a reason nobody foresaw."""


class Timer:
    """A pending call; `cancel` is cheap and may come late."""

    __slots__ = ("callback", "owner")

    def __init__(self, callback: Callable[[], None], owner: Owner | None) -> None:
        self.callback: Callable[[], None] | None = callback
        self.owner = owner

    def cancel(self) -> None:
        """Do not call. What it would have called, and for whom, may go at once: its time may come much later."""
        self.callback = self.owner = None


class Reactor:
    """Calls handlers when descriptors are ready, and callbacks when their time has come."""

    def __init__(self, fault: Callable[[str, Exception], None]) -> None:
        """`fault` is told of timers that raised and that nobody owns."""
        self._fault = fault
        self._epoll = select.epoll()
        self._handlers: dict[int, tuple[Callable[[int], None], Owner, int]] = {}
        self._new: set[int] = set()
        self._timers: list[tuple[float, int, Timer]] = []
        self._soon: deque[tuple[Callable[[], None], Owner]] = deque()
        self._order = itertools.count()
        self._running = True
        self.now = time.monotonic()

    def watch(self, fd: int, mask: int, handler: Callable[[int], None], owner: Owner) -> None:
        """Call `handler(ready mask)`; a descriptor already watched gets the new mask and handler.

        With ONESHOT the handler is called once, and the descriptor kept quiet until it is watched anew.
        """
        before = self._handlers.get(fd)
        self._handlers[fd] = (handler, owner, mask)
        if before is None:
            self._epoll.register(fd, mask)
            self._new.add(fd)
        elif before[2] != mask or mask & (EDGE | ONESHOT):
            self._epoll.modify(fd, mask)

    def forget(self, fd: int) -> None:
        """Watch no more. Fine when it is not watched."""
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def closing(self, fd: int) -> None:
        """The same for a descriptor that is closed next, which makes the kernel forget it by itself."""
        self._handlers.pop(fd, None)

    def later(self, seconds: float, callback: Callable[[], None], owner: Owner | None = None) -> Timer:
        """Call back once, from the loop."""
        timer = Timer(callback, owner)
        heapq.heappush(self._timers, (self.now + seconds, next(self._order), timer))
        return timer

    def soon(self, callback: Callable[[], None], owner: Owner) -> None:
        """Call back in the next turn, after the others that are ready: how a busy flow lets others pass."""
        self._soon.append((callback, owner))

    def stop(self) -> None:
        """Return from `run` after this turn."""
        self._running = False

    def run(self) -> None:
        """Turn until stopped."""
        while self._running:
            self.turn()

    def turn(self) -> None:
        """Wait for something to happen, and handle it."""
        ready = self._epoll.poll(self._patience(), 256)
        self.now = time.monotonic()
        handlers, new = self._handlers, self._new
        new.clear()
        for fd, mask in ready:
            found = handlers.get(fd)
            # An earlier handler of this turn may have closed it, and a new connection may have got its number.
            if found is None or fd in new:
                continue
            try:
                found[0](mask)
            except Exception as error:  # noqa: BLE001  (see _call)
                found[1].abort(error)
        for _ in range(len(self._soon)):
            self._call(*self._soon.popleft())
        while self._timers and self._timers[0][0] <= self.now:
            timer = heapq.heappop(self._timers)[2]
            if timer.callback is not None:
                self._expire(timer.callback, timer.owner)

    def _expire(self, callback: Callable[[], None], owner: Owner | None) -> None:
        try:
            callback()
        except Exception as error:  # noqa: BLE001  (see _call)
            if owner is None:
                self._fault("timer", error)
            else:
                owner.abort(error)

    def _patience(self) -> float:
        if self._soon:
            return 0.0
        while self._timers and self._timers[0][2].callback is None:
            heapq.heappop(self._timers)
        return max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else -1.0

    @staticmethod
    def _call(callback: Callable[[], None], owner: Owner) -> None:
        try:
            callback()
        except Exception as error:  # noqa: BLE001  (one flow's surprise must not end the other flows)
            owner.abort(error)
