"""The one answer to a guest whose connection goes nowhere, in the protocol that it speaks.

Both wait for the guest's request: a client that gets an answer before it has asked shows its user a broken connection.
"""

from typing import Final, Protocol

from microagent.flows.http2.lane import Lane
from microagent.flows.http2.settings import stated
from microagent.wire.http1 import find_head_end
from microagent.wire.http2 import (
    ACK,
    END_STREAM,
    PREFACE,
    ConnectionFault,
    ErrorCode,
    Frame,
    FrameType,
    Setting,
    build_frame,
    build_settings,
    parse_settings_untrusted,
)

# A head without an end was refused for that; its sender is told as well.
_HEAD: Final = 65536
_DEFAULT_WINDOW: Final = 65535


class LastWords(Protocol):
    """Says what it has to say when the time has come; `said`: that was all."""

    said: bool

    def hear_untrusted(self, data: bytes) -> bytes:
        """Bytes of the guest's; returns what to send now. Never raises."""


class Http1Words:
    """A whole HTTP/1.1 response, to whatever is asked."""

    def __init__(self, response: bytes) -> None:
        self._response = response
        self._heard = bytearray()
        self.said = False

    def hear_untrusted(self, data: bytes) -> bytes:
        """See LastWords."""
        if self.said:
            return b""
        self._heard += data
        if find_head_end(self._heard) < 0 and len(self._heard) < _HEAD:
            return b""
        self.said = True
        return self._response


class Http2Words:
    """The same response to an HTTP/2 connection's first request, then GOAWAY."""

    def __init__(self, response: bytes) -> None:
        """`response` is a whole one of HTTP/1.1, of our own making."""
        head, _, self._body = response.partition(b"\r\n\r\n")
        status, *lines = head.split(b"\r\n")
        pairs = [line.split(b": ", 1) for line in lines]
        fields = [(name.lower(), value) for name, value in pairs if name != b"Connection"]
        self._fields = [(b":status", status.split(b" ")[1]), *fields]
        self._greeting = b""
        self._greeted = False
        self._window = _DEFAULT_WINDOW
        self._in = Lane(_HEAD)
        self._out = Lane(_HEAD)
        self.said = False

    def hear_untrusted(self, data: bytes) -> bytes:
        """See LastWords."""
        if self.said:
            return b""
        try:
            for frame in self._in.arrive(data if self._greeted else self._greet(data)):
                self._frame(frame)
        except ConnectionFault as fault:
            self._out.goodbye(0, fault.code)
            self.said = True
        return self._out.depart()

    def _greet(self, data: bytes) -> bytes:
        self._greeting += data
        if not self._greeting.startswith(PREFACE[: len(self._greeting)]):
            raise ConnectionFault("no HTTP/2 preface, where HTTP/2 was agreed on")
        if len(self._greeting) < len(PREFACE):
            return b""
        self._greeted = True
        self._out.send(build_settings([]))
        return self._greeting[len(PREFACE) :]

    def _frame(self, frame: Frame) -> None:
        block = self._in.gather(frame, 0.0)
        if frame.kind == FrameType.SETTINGS and not frame.flags & ACK:
            window = stated(parse_settings_untrusted(frame.payload), Setting.INITIAL_WINDOW_SIZE)
            self._window = self._window if window is None else window
            self._out.send(build_frame(FrameType.SETTINGS, ACK, 0, b""))
        elif block is not None and not self.said:
            self._answer(block)

    def _answer(self, block: list[Frame]) -> None:
        number = block[0].stream
        bare = (b":method", b"HEAD") in self._in.decode(block) or len(self._body) > self._window
        self._out.send_fields(number, self._fields, end_stream=bare)
        if not bare:
            self._out.send(build_frame(FrameType.DATA, END_STREAM, number, self._body))
        if not block[0].flags & END_STREAM:
            self._out.reset(number, ErrorCode.NO_ERROR)
        self._out.goodbye(number, ErrorCode.NO_ERROR)
        self.said = True
