"""HTTP/1 on its way past (RFC 9112): where a message ends, and whom it is for.

In: the head of a request or response, then the bytes of its body as they pass. Out: `RequestHead`,
`ResponseHead`, and how many bytes belong to the body. Never: a copy of a body, a rewritten head, a repair:
what two servers could read differently is malformed, so the bytes that go on are bytes with one meaning.

Start reading at `head` (the grammar), then `request`.
"""

from microagent.wire.http1.body import ChunkedBody
from microagent.wire.http1.familiar import FamiliarRequests, FamiliarResponses
from microagent.wire.http1.head import (
    CHUNKED,
    DEFAULT_LIMITS,
    NO_BODY,
    UNTIL_CLOSE,
    BodyKind,
    Framing,
    HeadLimits,
    find_head_end,
)
from microagent.wire.http1.request import RequestHead, parse_request_head_untrusted
from microagent.wire.http1.response import ResponseHead, parse_response_head_untrusted
from microagent.wire.http1.websocket import accepts

__all__ = [
    "CHUNKED",
    "DEFAULT_LIMITS",
    "NO_BODY",
    "UNTIL_CLOSE",
    "BodyKind",
    "ChunkedBody",
    "FamiliarRequests",
    "FamiliarResponses",
    "Framing",
    "HeadLimits",
    "RequestHead",
    "ResponseHead",
    "accepts",
    "find_head_end",
    "parse_request_head_untrusted",
    "parse_response_head_untrusted",
]
