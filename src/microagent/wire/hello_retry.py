"""Whether a TLS server wants another ClientHello (RFC 8446 sections 4.1.3 and 4.1.4).

A HelloRetryRequest is a ServerHello with a random of its own. It is in the clear, and so is what answers it: a second
ClientHello, which has a server_name extension too, and which servers believe no less than the first.
"""

import struct
from typing import Final

# The SHA-256 of "HelloRetryRequest".
_RANDOM: Final = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")
_RECORD: Final = struct.Struct("!BBBH")
_ALERT: Final = 21
_HANDSHAKE: Final = 22
# The message's type and length, and the version, are before its random.
_HEAD: Final = 6


def retry_size_untrusted(data: bytes) -> int | None:
    """The size of the records that hold a HelloRetryRequest, when that is how `data`, a server's stream, begins.

    0 when it begins otherwise; None when that cannot be told yet. Never raises.
    """
    message = b""
    at = 0
    while len(data) - at >= 5:
        kind, major, _, length = _RECORD.unpack_from(data, at)
        fragment = data[at + 5 : at + 5 + length]
        at += 5 + length
        if kind == _ALERT and not message:
            # Servers of TLS 1.2 warn of names that they do not know, and go on (RFC 6066 section 3).
            if fragment[:1] not in (b"", b"\x01"):
                return 0
            continue
        message += fragment
        if kind != _HANDSHAKE or major != 3 or message[:1] not in (b"", b"\x02"):
            return 0
        if message[_HEAD:] and not _RANDOM.startswith(message[_HEAD : _HEAD + 32]):
            return 0
        if len(message) >= 4 and len(message) >= 4 + int.from_bytes(message[1:4], "big"):
            if len(message) < _HEAD + 32:
                return 0
            return at if at <= len(data) else None
    return None if at >= len(data) or data[at] in (_ALERT, _HANDSHAKE) else 0
