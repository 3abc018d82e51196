"""An HTTP/2 conversation, watched frame by frame: each stream's request is decided before a byte of it goes on.

In: bytes of either side. Out: the effects of `flows.http1`. Never: a buffered body, a frame that was not read.
Start reading at `conversation`; `lane` has what is kept of one direction, `stream` of one request, `limits` the bounds,
`settings` what is changed in the two sides' SETTINGS.
"""

from microagent.flows.http2.conversation import Http2Conversation

__all__ = ["Http2Conversation"]
