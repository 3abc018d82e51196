"""The next head of a connection: a request that differs from the one before in its first line alone, the same response.

Why this exists: most clients send the same fields with every request of a connection, and reading them again costs
more than all else that is done to a small request. The same bytes under the same grammar say the same: this file
remembers the fields of the last head that the strict parser took, and reads only the line before them. Whatever is not
exactly that goes to the strict parser, so nothing is accepted here that is not accepted there, and with the same facts;
tests/property holds it to that. Responses carry the second they were made in, and often nothing else that changes: what
a busy connection gets within that second begins with the same bytes each time.
"""

import re
from typing import Final

from microagent.wire.http1.head import TOKEN, HeadLimits
from microagent.wire.http1.request import RequestHead, parse_request_head_untrusted
from microagent.wire.http1.response import ResponseHead, parse_response_head_untrusted

# A path, not a URL, and not what different servers read differently, "//" and "/\\": see `request`.
_LINE: Final = re.compile(rb"(" + TOKEN + rb") ((/(?![/\\])[!\"$->@-~]*+)(?:\?[!\"$-~]*+)?) HTTP/1\.1\r\n")
# What one connection may make us remember; heads are rarely larger.
_MOST: Final = 4096


class FamiliarRequests:
    """The requests of one connection."""

    __slots__ = ("_fields", "_limits", "_said")

    def __init__(self, limits: HeadLimits) -> None:
        self._limits = limits
        self._fields = b""
        self._said: RequestHead | None = None

    def parse_untrusted(self, head: bytes) -> RequestHead:
        """What `parse_request_head_untrusted` says; raises only Malformed."""
        said = self._said
        line = len(head) - len(self._fields)
        if said is not None and len(head) <= self._limits.size and head.endswith(self._fields):
            match = _LINE.fullmatch(head, 0, line) if line > 0 else None
            if match is not None and match[1] != b"CONNECT":
                method, target, path = match.groups()
                return said._replace(method=method.decode("ascii"), target=target, path=path.decode("ascii"))
        self._said = None
        said = parse_request_head_untrusted(head, self._limits)
        self._remember(head, said)
        return said

    def _remember(self, head: bytes, said: RequestHead) -> None:
        """Keep what says the same under any method and path: an upgrade or a CONNECT does not."""
        line = head.find(b"\n") + 1
        plain = said.version == (1, 1) and said.upgrade is None and not said.connect and said.absolute_scheme is None
        if plain and len(head) - line <= _MOST:
            self._fields, self._said = head[line:], said


class FamiliarResponses:
    """The responses of one connection."""

    __slots__ = ("_head", "_limits", "_method", "_said")

    def __init__(self, limits: HeadLimits) -> None:
        self._limits = limits
        self._head = b""
        self._method = ""
        self._said: ResponseHead | None = None

    def parse_untrusted(self, head: bytes, request_method: str) -> ResponseHead:
        """What `parse_response_head_untrusted` says; raises only Malformed."""
        if self._said is not None and head == self._head and request_method == self._method:
            return self._said
        said = parse_response_head_untrusted(head, request_method, self._limits)
        if len(head) <= _MOST:
            self._head, self._method, self._said = head, request_method, said
        return said
