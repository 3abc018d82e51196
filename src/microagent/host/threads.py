"""Threads for pieces of work that change what a thread is: its network namespace, its descriptors."""

import errno
import os
import threading
from collections.abc import Callable


def start_thread(work: Callable[[], None], name: str) -> threading.Thread:
    """A thread that runs `work`; OSError when the machine has no more of them."""
    thread = threading.Thread(target=work, name=name)
    try:
        thread.start()
    except RuntimeError as error:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from error
    return thread
