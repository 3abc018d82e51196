"""Waits for what is bound to happen."""

import time
from collections.abc import Callable


def wait_for(condition: Callable[[], bool], looks: int = 300, apart: float = 0.1) -> None:
    """Looks so many times, so many seconds apart; AssertionError when it never happens."""
    for _ in range(looks):
        if condition():
            return
        time.sleep(apart)
    raise AssertionError("it never happened")
