"""What a decoded header block says: whom a request is for, what a response's status is (RFC 9113 sections 8.2, 8.3).

What is Malformed here ends its stream only. Requests are read strictly, because the server behind may turn them into
HTTP/1.1, where a CR, a space or a Transfer-Encoding in the wrong place is a second request.
"""

import re
from dataclasses import dataclass
from typing import Final

from microagent.errors import Malformed
from microagent.wire.http1 import DEFAULT_LIMITS, HeadLimits
from microagent.wire.http1.request import parse_authority_untrusted
from microagent.wire.http2.blocks import Fields

# RFC 9113 section 8.2.1, without the leniency it leaves: no upper case, no controls but tab.
_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]++")
_VALUE: Final = re.compile(rb"[\t\x20-\x7e\x80-\xff]*+")
_METHOD: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++")
# As in HTTP/1.1: neither a fragment, nor two slashes that some server might take for an authority.
_PATH: Final = re.compile(rb"/(?![/\\])[!\"$-~]*+")
_STATUS: Final = re.compile(rb"[1-9][0-9][0-9]")
_LENGTH: Final = re.compile(rb"0|[1-9][0-9]{0,17}")
# Behind a server that hands fields on as CGI does, these are the body's framing (RFC 3875 section 4.1.18).
_LOOKALIKES: Final = frozenset((b"content_length", b"transfer_encoding"))
# RFC 9113 section 8.2.2.
_CONNECTION_SPECIFIC: Final = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade")
)
_REQUEST_PSEUDO: Final = frozenset((b":method", b":scheme", b":authority", b":path", b":protocol"))


@dataclass(frozen=True, slots=True)
class Request:
    """One request; `path` without its query, `host` and `port` as in an HTTP/1.1 `RequestHead`.

    `connect`: CONNECT, plain or extended (RFC 8441). `length` is what Content-Length promises, None for nothing.
    """

    method: str
    path: str
    host: str
    port: int | None
    connect: bool
    length: int | None


@dataclass(frozen=True, slots=True)
class Response:
    """One response, or an interim one (status below 200)."""

    status: int


def read_request_untrusted(fields: Fields, most: HeadLimits = DEFAULT_LIMITS) -> Request:
    """Read a request's decoded block; raises only Malformed."""
    pseudo, plain = _sort(fields, most, strict=True)
    if not pseudo.keys() <= _REQUEST_PSEUDO:
        raise Malformed("a pseudo-header field that requests do not have")
    method = pseudo.get(b":method", b"")
    if _METHOD.fullmatch(method) is None:
        raise Malformed("a request without one method")
    host, port = _read_authority(pseudo.get(b":authority"), plain.get(b"host", []))
    connect = method == b"CONNECT"
    if b":protocol" in pseudo and not connect:
        raise Malformed(":protocol without CONNECT")
    if any(value.lower() != b"trailers" for value in plain.get(b"te", ())):
        raise Malformed("a TE other than trailers")
    lengths = plain.get(b"content-length", [])
    if len(lengths) > 1 or not all(map(_LENGTH.fullmatch, lengths)):
        raise Malformed("a Content-Length that is not one number")
    return Request(
        method=method.decode("ascii"),
        path="" if connect else _read_path(pseudo, method),
        host=host,
        port=port,
        connect=connect,
        length=int(lengths[0]) if lengths else None,
    )


def read_response_untrusted(fields: Fields, most: HeadLimits = DEFAULT_LIMITS) -> Response:
    """Read a response's decoded block; raises only Malformed."""
    # Some servers leave blanks around values, and clients forgive them; they mean nothing to anybody.
    pseudo, _ = _sort(fields, most, strict=False)
    status = pseudo.get(b":status", b"")
    if len(pseudo) != 1 or _STATUS.fullmatch(status) is None:
        raise Malformed("a response without one status")
    if status == b"101":
        raise Malformed("101 in HTTP/2")
    return Response(int(status))


def check_trailers_untrusted(fields: Fields, most: HeadLimits = DEFAULT_LIMITS) -> None:
    """Raises Malformed for fields that cannot be trailers (RFC 9113 section 8.1)."""
    pseudo, plain = _sort(fields, most, strict=False)
    if pseudo:
        raise Malformed("a pseudo-header field in trailers")
    if plain.keys() & {b"host", b"content-length", b"te", b"trailer"}:
        raise Malformed("a trailer that is not allowed behind a body")


def _sort(fields: Fields, most: HeadLimits, *, strict: bool) -> tuple[dict[bytes, bytes], dict[bytes, list[bytes]]]:
    """Pseudo-header fields, each once and before the others; and the others."""
    if len(fields) > most.fields:
        raise Malformed(f"a head of more than {most.fields} fields")
    pseudo: dict[bytes, bytes] = {}
    plain: dict[bytes, list[bytes]] = {}
    for name, value in fields:
        if _VALUE.fullmatch(value) is None or (strict and value != value.strip(b" \t")):
            raise Malformed("a byte that no field value may have")
        if name.startswith(b":"):
            if plain or name in pseudo:
                raise Malformed("a pseudo-header field twice, or behind others")
            pseudo[name] = value
            continue
        if _NAME.fullmatch(name) is None:
            raise Malformed("a field name that is none, or not in lower case")
        if name in _CONNECTION_SPECIFIC:
            raise Malformed(f"{name.decode('ascii')} in HTTP/2")
        if name in _LOOKALIKES:
            raise Malformed("a field that some take for the body's framing")
        plain.setdefault(name, []).append(value)
    return pseudo, plain


def _read_authority(authority: bytes | None, hosts: list[bytes]) -> tuple[str, int | None]:
    """:authority, or Host in its place; where both are, they are one (RFC 9113 section 8.3.1)."""
    if len(hosts) > 1 or (authority is None and not hosts):
        raise Malformed("a request without one authority")
    named = [parse_authority_untrusted(raw) for raw in (authority, *hosts) if raw is not None]
    if named[0] != named[-1]:
        raise Malformed("a Host that differs from :authority")
    return named[0]


def _read_path(pseudo: dict[bytes, bytes], method: bytes) -> str:
    if pseudo.get(b":scheme") != b"https":
        raise Malformed("a scheme other than https")
    path = pseudo.get(b":path", b"")
    if path == b"*" and method == b"OPTIONS":
        return "*"
    if _PATH.fullmatch(path) is None:
        raise Malformed("a :path that is none, or begins with two slashes")
    return path.partition(b"?")[0].decode("ascii")
