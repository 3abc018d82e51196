"""What ends a whole connection, as opposed to one stream (RFC 9113 sections 5.4.1 and 7)."""

from enum import IntEnum

from microagent.errors import Malformed


class ErrorCode(IntEnum):
    """The codes of RST_STREAM and GOAWAY that are sent here."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    COMPRESSION_ERROR = 0x9
    ENHANCE_YOUR_CALM = 0xB


class ConnectionFault(Malformed):
    """Bytes after which nothing on this connection can be trusted; `code` is what a GOAWAY says of it."""

    def __init__(self, what: str, code: ErrorCode = ErrorCode.PROTOCOL_ERROR) -> None:
        super().__init__(what)
        self.code = code
