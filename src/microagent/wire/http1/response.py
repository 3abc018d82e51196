"""A response's head: where the response ends, which depends on the request too (RFC 9112 section 6.3)."""

import re
from typing import Final, NamedTuple

from microagent.errors import Malformed
from microagent.wire.http1.head import (
    DEFAULT_LIMITS,
    FIELDS,
    NO_BODY,
    UNTIL_CLOSE,
    VALUE,
    Framing,
    HeadLimits,
    body_framing,
    check_size,
    closes,
    connection_options,
    fault,
    notable_fields,
)
from microagent.wire.http1.request import read_upgrade

# The space behind the status is owed even without a reason phrase (RFC 9112 section 4), but many servers omit it.
_HEAD: Final = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9][0-9])(?: " + VALUE + rb")?\r\n" + FIELDS)


class ResponseHead(NamedTuple):
    """One response; `upgrade` is what a 101 switches to, None otherwise; `close`: it is the last one.

    `websocket_accept` are the values of a 101's Sec-WebSocket-Accept.
    """

    status: int
    version: tuple[int, int]
    framing: Framing
    upgrade: str | None
    websocket_accept: tuple[bytes, ...]
    close: bool


def parse_response_head_untrusted(
    head: bytes, request_method: str, limits: HeadLimits = DEFAULT_LIMITS
) -> ResponseHead:
    """Read a whole head, its blank line included, that answers a `request_method`; raises only Malformed."""
    check_size(head, limits)
    match = _HEAD.fullmatch(head)
    if match is None:
        raise fault(head)
    minor, status = match[1][0] - 48, int(match[2])
    fields = notable_fields(head)
    options = connection_options(fields)
    upgrade = None
    if status == 101:
        upgrade = read_upgrade(fields)
        if upgrade is None or b"upgrade" not in options or minor == 0:
            raise Malformed("a 101 that does not say what it switches to")
    framing = _read_framing(fields, minor, status, request_method)
    return ResponseHead(
        status=status,
        version=(1, minor),
        framing=framing,
        upgrade=upgrade,
        websocket_accept=tuple(fields.get(b"sec-websocket-accept", ())) if upgrade else (),
        close=framing is UNTIL_CLOSE or closes(options, minor),
    )


def _read_framing(fields: dict[bytes, list[bytes]], minor: int, status: int, method: str) -> Framing:
    stated = body_framing(fields, minor)
    if method == "HEAD" or status == 304:
        return NO_BODY  # the fields speak of the response to a GET
    if status < 200 or status == 204:
        # Many servers say "Content-Length: 0" here. More than that is a body for some clients and none for others.
        if stated not in (None, NO_BODY):
            raise Malformed(f"a {status} response with a body")
        return NO_BODY
    return UNTIL_CLOSE if stated is None else stated
