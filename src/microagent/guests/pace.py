"""So many a second of what costs the agent more to read than a guest to say: all guests share one event loop."""

import asyncio
from typing import Final

# Seconds. The loop's timers are a millisecond late, which would be most of a shorter rest.
_WORTH_WAITING: Final = 0.02


class Pace:
    """Waits where more was read than may be; what is not read yet waits in the guest."""

    def __init__(self, per_second: int) -> None:
        self._per_second = per_second
        self._due = 0.0
        self._hurried = False

    async def after(self, count: int) -> None:
        """So many were read; returns when more may be, and never before others had their turn."""
        now = asyncio.get_running_loop().time()
        self._due = max(self._due, now) + count / self._per_second
        ahead = self._due - now
        await asyncio.sleep(0 if self._hurried or ahead < _WORTH_WAITING else ahead)

    def hurry(self) -> None:
        """What is left is bounded, and somebody waits for its end."""
        self._hurried = True
