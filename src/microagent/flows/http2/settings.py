"""What is changed in SETTINGS on their way past, and why.

Everything here narrows: a side is told less than the other one offered, so each keeps what it was told. Identifiers
that are unknown are left out, as a receiver would ignore them: what an extension allows, nobody here has read. That
includes ENABLE_CONNECT_PROTOCOL (RFC 8441): WebSockets are relayed over HTTP/1.1, where clients then go.
"""

from microagent.flows.http2.limits import MAX_STREAMS
from microagent.wire.http2 import Setting
from microagent.wire.http2.blocks import MAX_TABLE

_Entries = list[tuple[int, int]]

# MAX_FRAME_SIZE is not among them: both sides keep to the 16 KiB that hold without it (see wire.http2.frames).
_PASSED = (Setting.HEADER_TABLE_SIZE, Setting.INITIAL_WINDOW_SIZE, Setting.MAX_HEADER_LIST_SIZE)


def for_upstream(entries: _Entries, *, first: bool) -> _Entries:
    """The guest's, without server push: a pushed response answers a request that nobody decided."""
    return [*_common(entries), *([(Setting.ENABLE_PUSH, 0)] if first else [])]


def for_guest(entries: _Entries, *, first: bool) -> _Entries:
    """The server's, with a bound on the streams that we keep in mind."""
    streams = [(key, min(value, MAX_STREAMS)) for key, value in entries if key == Setting.MAX_CONCURRENT_STREAMS]
    if first and not streams:
        streams = [(Setting.MAX_CONCURRENT_STREAMS, MAX_STREAMS)]
    return [*_common(entries), *streams]


def stated(entries: _Entries, setting: Setting) -> int | None:
    """The value that holds after these entries, None if they do not state it."""
    return next((value for key, value in reversed(entries) if key == setting), None)


def _common(entries: _Entries) -> _Entries:
    return [
        (key, min(value, MAX_TABLE) if key == Setting.HEADER_TABLE_SIZE else value)
        for key, value in entries
        if key in _PASSED
    ]
