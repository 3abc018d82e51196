"""Lets users in at the agent's sockets, each with so many connections at once.

A connection that says nothing costs the agent a descriptor, and without one to spare it can replace no mediator.
"""

import asyncio
import logging
import socket
from collections.abc import Callable
from weakref import WeakSet

from microagent.agent.peers import uid_of

log = logging.getLogger(__name__)

_EACH = 1024
_SECONDS = 1.0


async def keep_door(
    listener: socket.socket,
    protocol: Callable[[], asyncio.Protocol],
    who: Callable[[socket.socket], int] = uid_of,
    each: int = _EACH,
) -> None:
    """Gives each connection a `protocol` of its own, until it is cancelled. Whoever has too many gets none.

    `who` says whose a connection is; nobody has more than `each`.
    """
    loop = asyncio.get_running_loop()
    listener.setblocking(False)
    inside: dict[int, WeakSet[asyncio.BaseTransport]] = {}
    full: set[int] = set()  # who has been written of
    while True:
        try:
            peer, _ = await loop.sock_accept(listener)
        except OSError as error:
            log.error("no connection taken error=%r", str(error))
            await asyncio.sleep(_SECONDS)
            continue
        uid = who(peer)
        theirs = inside.setdefault(uid, WeakSet())
        if len(theirs) >= each:
            theirs.difference_update([one for one in theirs if one.is_closing()])
        if len(theirs) >= each:
            # Without a word: to hear a request first, it would have to stay open.
            peer.close()
            if uid not in full:
                log.warning("connections refused uid=%d most=%d", uid, each)
            full.add(uid)
            continue
        full.discard(uid)
        try:
            transport, _ = await loop.connect_accepted_socket(protocol, peer)
        except OSError as error:
            peer.close()
            log.error("no connection taken error=%r", str(error))
            continue
        theirs.add(transport)
