"""SETTINGS: a list of numbers, some with limits (RFC 9113 section 6.5)."""

import struct
from enum import IntEnum
from typing import Final

from microagent.wire.http2.faults import ConnectionFault, ErrorCode
from microagent.wire.http2.frames import HEADER, MAX_FRAME, FrameType, build_frame

_ENTRY: Final = struct.Struct("!HI")


class Setting(IntEnum):
    """RFC 9113 section 6.5.2; every other one is unknown here."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


def parse_settings_untrusted(payload: bytes) -> list[tuple[int, int]]:
    """Return (identifier, value) in order, known or not; raises only ConnectionFault."""
    if len(payload) % _ENTRY.size:
        raise ConnectionFault(f"SETTINGS of {len(payload)} bytes", ErrorCode.FRAME_SIZE_ERROR)
    entries = list(_ENTRY.iter_unpack(payload))
    for identifier, value in entries:
        if identifier == Setting.ENABLE_PUSH and value > 1:
            raise ConnectionFault(f"ENABLE_PUSH {value}")
        if identifier == Setting.INITIAL_WINDOW_SIZE and value > 0x7FFFFFFF:
            raise ConnectionFault(f"INITIAL_WINDOW_SIZE {value}", ErrorCode.FLOW_CONTROL_ERROR)
        if identifier == Setting.MAX_FRAME_SIZE and not MAX_FRAME <= value <= 0xFFFFFF:
            raise ConnectionFault(f"MAX_FRAME_SIZE {value}")
    return entries


def build_settings(entries: list[tuple[int, int]]) -> bytes:
    """A SETTINGS frame."""
    return build_frame(FrameType.SETTINGS, 0, 0, b"".join(_ENTRY.pack(*entry) for entry in entries))


def greets_in_http2_untrusted(data: bytes) -> bool:
    """Whether a server's first bytes are the SETTINGS that HTTP/2 begins with (RFC 9113 section 3.4); never raises."""
    whole = len(data) >= HEADER and int.from_bytes(data[:3], "big") % _ENTRY.size == 0
    return whole and data[3:HEADER] == bytes((FrameType.SETTINGS, 0, 0, 0, 0, 0))
