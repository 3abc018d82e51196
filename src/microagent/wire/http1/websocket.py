"""The WebSocket handshake (RFC 6455 section 4): the two ends prove to each other that they mean it.

A 101 that proves nothing may come from a server that read another request than the one that was decided.
"""

import re
from base64 import b64encode
from hashlib import sha1
from typing import Final

from microagent.wire.http1.head import NO_BODY, Framing

# Sixteen bytes in base64: twenty-two characters, of which the last has two bits to spare.
_KEY: Final = re.compile(rb"[A-Za-z0-9+/]{21}[AQgw]==")
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def read_key(
    method: str, minor: int, framing: Framing, options: frozenset[bytes], fields: dict[bytes, list[bytes]]
) -> bytes | None:
    """The key of a request that asks for a WebSocket as section 4.1 says; None if this one does not."""
    keys = fields.get(b"sec-websocket-key", [])
    whole = (
        method == "GET"
        and minor == 1
        and framing is NO_BODY
        and b"upgrade" in options
        and [value.lower() for value in fields.get(b"upgrade", [])] == [b"websocket"]
        and fields.get(b"sec-websocket-version") == [b"13"]
        and len(keys) == 1
        and _KEY.fullmatch(keys[0])
    )
    return keys[0] if whole else None


def accepts(key: bytes, values: tuple[bytes, ...]) -> bool:
    """Whether the Sec-WebSocket-Accept fields of a 101 are the one answer to `key` (section 4.2.2)."""
    return values == (b64encode(sha1(key + _GUID, usedforsecurity=False).digest()),)
