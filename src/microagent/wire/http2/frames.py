"""Frames: cut out of the stream whole, and checked for what every frame of their type must be (RFC 9113, section 4, 6).

How this works: neither side is ever told that it may send frames of more than 16 KiB, the least maximum there is.
So a frame fits into a small buffer and goes on, or does not, as a whole: nothing of ours can end up inside of it.
Reserved bits and flags that a frame's type does not define are refused, although receivers must ignore them:
nobody sets them, and what one server ignores another may read.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from microagent.wire.http2.faults import ConnectionFault, ErrorCode

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
# RFC 9113 section 6.5.2: the initial, and smallest, SETTINGS_MAX_FRAME_SIZE.
MAX_FRAME: Final = 16384
HEADER: Final = 9

END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
PRIORITY: Final = 0x20

_HEAD: Final = struct.Struct("!HBBBI")
_STREAM_MASK: Final = 0x7FFFFFFF


class FrameType(IntEnum):
    """RFC 9113 section 6; every other type is unknown here."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame; `wire` is all of its bytes as they came, and `kind` may be a type that nobody here knows."""

    kind: int
    flags: int
    stream: int
    wire: bytes

    @property
    def payload(self) -> bytes:
        """What follows the frame's head."""
        return self.wire[HEADER:]

    @property
    def length(self) -> int:
        """How long the payload is: of DATA, what flow control counts."""
        return len(self.wire) - HEADER


_FLAGS: Final = {
    FrameType.DATA: END_STREAM | PADDED,
    FrameType.HEADERS: END_STREAM | END_HEADERS | PADDED | PRIORITY,
    FrameType.PRIORITY: 0,
    FrameType.RST_STREAM: 0,
    FrameType.SETTINGS: ACK,
    FrameType.PUSH_PROMISE: END_HEADERS | PADDED,
    FrameType.PING: ACK,
    FrameType.GOAWAY: 0,
    FrameType.WINDOW_UPDATE: 0,
    FrameType.CONTINUATION: END_HEADERS,
}
_ON_CONNECTION: Final = frozenset((FrameType.SETTINGS, FrameType.PING, FrameType.GOAWAY))
_LENGTHS: Final = {
    FrameType.PRIORITY: 5,
    FrameType.RST_STREAM: 4,
    FrameType.PING: 8,
    FrameType.WINDOW_UPDATE: 4,
}


def split_frames_untrusted(data: bytes) -> tuple[list[Frame], int]:
    """Return the whole frames that `data` begins with, and how many bytes they are; raises only ConnectionFault."""
    frames = []
    pos, size = 0, len(data)
    while size - pos >= HEADER:
        high, low, kind, flags, stream = _HEAD.unpack_from(data, pos)
        length = high << 8 | low
        if length > MAX_FRAME:
            raise ConnectionFault(f"a frame of {length} bytes", ErrorCode.FRAME_SIZE_ERROR)
        end = pos + HEADER + length
        if end > size:
            break
        if kind or flags & ~(END_STREAM | PADDED) or not 0 < stream <= _STREAM_MASK:
            _check(kind, flags, stream, length, data[pos + HEADER : pos + HEADER + 4])
        frames.append(Frame(kind, flags, stream, data[pos:end]))
        pos = end
    return frames, pos


def _check(kind: int, flags: int, stream: int, length: int, start: bytes) -> None:
    """What no frame of this type may be; DATA comes here only with something wrong."""
    if stream > _STREAM_MASK:
        raise ConnectionFault("a frame with its reserved bit set")
    known = _FLAGS.get(FrameType(kind)) if kind <= FrameType.CONTINUATION else None
    if known is None:
        return
    name = FrameType(kind).name
    if flags & ~known:
        raise ConnectionFault(f"{name} with a flag that it does not have")
    if kind == FrameType.WINDOW_UPDATE:
        if start == b"\0\0\0\0" or start[:1] >= b"\x80":
            raise ConnectionFault("WINDOW_UPDATE by nothing, or with its reserved bit set")
    elif (stream == 0) != (kind in _ON_CONNECTION):
        raise ConnectionFault(f"{name} on stream {stream}")
    wanted = _LENGTHS.get(FrameType(kind), length)
    if kind == FrameType.SETTINGS and flags & ACK:
        wanted = 0
    if length != wanted or (kind == FrameType.GOAWAY and length < 8):
        raise ConnectionFault(f"{name} of {length} bytes", ErrorCode.FRAME_SIZE_ERROR)


def data_length_untrusted(wire: bytes) -> int:
    """How many bytes of a DATA frame (its head included in `wire`) are not padding; raises only ConnectionFault."""
    length = len(wire) - HEADER
    if length < 0:
        raise ConnectionFault("a frame without its head", ErrorCode.FRAME_SIZE_ERROR)
    if not wire[4] & PADDED:
        return length
    if length == 0 or wire[HEADER] >= length:
        raise ConnectionFault("more padding than frame")
    return length - 1 - wire[HEADER]


def data_untrusted(wire: bytes) -> bytes:
    """What a DATA frame carries, without padding; raises only ConnectionFault."""
    length = data_length_untrusted(wire)
    start = HEADER + bool(wire[4] & PADDED)
    return wire[start : start + length]


def build_frame(kind: FrameType, flags: int, stream: int, payload: bytes) -> bytes:
    """A frame of our own; the payload fits into one."""
    length = len(payload)
    return _HEAD.pack(length >> 8, length & 0xFF, kind, flags, stream) + payload


def build_headers(stream: int, block: bytes, *, end_stream: bool) -> bytes:
    """HEADERS, and as many CONTINUATIONs as the block needs."""
    pieces = [block[at : at + MAX_FRAME] for at in range(0, len(block), MAX_FRAME)] or [b""]
    last = len(pieces) - 1
    frames = []
    for number, piece in enumerate(pieces):
        kind = FrameType.CONTINUATION if number else FrameType.HEADERS
        flags = END_STREAM if end_stream and not number else 0
        frames.append(build_frame(kind, flags | (END_HEADERS if number == last else 0), stream, piece))
    return b"".join(frames)
