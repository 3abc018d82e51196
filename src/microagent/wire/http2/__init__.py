"""HTTP/2 on its way past (RFC 9113, RFC 7541): whole frames, decoded header blocks, and what they say.

In: the bytes of one direction. Out: `Frame`s with their bytes as they came, decoded field lists, `Request` and
`Response`; and the few frames that a mediator writes itself. Never: a stream's state, a decision, a repair.

Start reading at `frames`, then `blocks` (HPACK) and `messages` (pseudo-header fields).
"""

from microagent.wire.http2.blocks import BlockDecoder, Fields, encode_literal, fragment_untrusted
from microagent.wire.http2.faults import ConnectionFault, ErrorCode
from microagent.wire.http2.frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    PREFACE,
    Frame,
    FrameType,
    build_frame,
    build_headers,
    data_length_untrusted,
    data_untrusted,
    split_frames_untrusted,
)
from microagent.wire.http2.messages import (
    Request,
    Response,
    check_trailers_untrusted,
    read_request_untrusted,
    read_response_untrusted,
)
from microagent.wire.http2.settings import (
    Setting,
    build_settings,
    greets_in_http2_untrusted,
    parse_settings_untrusted,
)

__all__ = [
    "ACK",
    "END_HEADERS",
    "END_STREAM",
    "PREFACE",
    "BlockDecoder",
    "ConnectionFault",
    "ErrorCode",
    "Fields",
    "Frame",
    "FrameType",
    "Request",
    "Response",
    "Setting",
    "build_frame",
    "build_headers",
    "build_settings",
    "check_trailers_untrusted",
    "data_length_untrusted",
    "data_untrusted",
    "encode_literal",
    "fragment_untrusted",
    "greets_in_http2_untrusted",
    "parse_settings_untrusted",
    "read_request_untrusted",
    "read_response_untrusted",
    "split_frames_untrusted",
]
