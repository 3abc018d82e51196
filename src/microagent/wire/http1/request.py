"""A request's head: who is asked for, and where the request ends (RFC 9112 sections 3 and 6)."""

import re
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final, NamedTuple

from microagent.errors import Malformed
from microagent.wire.hostname import normalize_untrusted
from microagent.wire.http1.head import (
    DEFAULT_LIMITS,
    FIELDS,
    NO_BODY,
    TOKEN,
    Framing,
    HeadLimits,
    body_framing,
    check_size,
    closes,
    connection_options,
    fault,
    notable_fields,
)
from microagent.wire.http1.websocket import read_key

# A fragment is never sent (RFC 9112 section 3.2); a "#" in a target is read differently by different servers.
_HEAD: Final = re.compile(
    rb"(" + TOKEN + rb") ([!\"$-~]++) HTTP/1\.([01])\r\n" + FIELDS,
)
_LINE: Final = re.compile(rb"[^\r\n]* HTTP/([0-9]\.[0-9])\r\n")
_ABSOLUTE: Final = re.compile(rb"(https?)://([^/?]*+)([^?]*+)", re.IGNORECASE)
_AUTHORITY: Final = re.compile(rb"(\[[0-9A-Fa-f:.]++\]|[^:\[\]]++)(?::([1-9][0-9]{0,4}))?")
_NUMERIC: Final = re.compile(rb"[0-9.]++")
_UPGRADE: Final = re.compile(TOKEN + rb"(?:/" + TOKEN + rb")?")
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


class RequestHead(NamedTuple):
    """One request, as its one possible reader sees it.

    `target` is the request target as sent, `path` its path alone: no query, no authority. `host` is the
    canonical name, or the text of an IP address without brackets, and `port` what was written beside it,
    None for nothing. `upgrade` is the protocol asked for in lower case, with commas between several;
    `websocket_key` is there if the request is a whole WebSocket handshake. `close`: no request follows.
    `absolute_scheme` is "http" or "https" if the target was a whole URL.
    """

    method: str
    target: bytes
    path: str
    version: tuple[int, int]
    host: str
    port: int | None
    framing: Framing
    upgrade: str | None
    websocket_key: bytes | None
    connect: bool
    close: bool
    absolute_scheme: str | None


def parse_request_head_untrusted(head: bytes, limits: HeadLimits = DEFAULT_LIMITS) -> RequestHead:
    """Read a whole head, its blank line included (see `find_head_end`); raises only Malformed."""
    check_size(head, limits)
    match = _HEAD.fullmatch(head)
    if match is None:
        raise _fault(head)
    method, target = match[1].decode("ascii"), match[2]
    minor = match[3][0] - 48
    fields = notable_fields(head)
    hosts = fields.get(b"host", [])
    if len(hosts) != 1:
        raise Malformed(f"a request with {len(hosts)} Host fields")
    host, port = parse_authority_untrusted(hosts[0])
    path, scheme = _read_target(method, target, host, port)
    options = connection_options(fields)
    framing = body_framing(fields, minor) or NO_BODY
    return RequestHead(
        method=method,
        target=target,
        path=path,
        version=(1, minor),
        host=host,
        port=port,
        framing=framing,
        upgrade=read_upgrade(fields),
        websocket_key=read_key(method, minor, framing, options, fields) if b"upgrade" in fields else None,
        connect=method == "CONNECT",
        close=closes(options, minor),
        absolute_scheme=scheme,
    )


def parse_authority_untrusted(raw: bytes) -> tuple[str, int | None]:
    """Read `host[:port]` as in Host and in :authority; user-info, empty ports and zone ids are Malformed."""
    match = _AUTHORITY.fullmatch(raw)
    if match is None:
        raise Malformed("a Host that is not a name and a port")
    host, digits = match.groups()
    port = None if digits is None else int(digits)
    if port is not None and port > 65535:
        raise Malformed(f"port {port}")
    try:
        if host.startswith(b"["):
            return str(IPv6Address(host[1:-1].decode("ascii"))), port
        if _NUMERIC.fullmatch(host):
            return str(IPv4Address(host.decode("ascii"))), port
    except AddressValueError:
        raise Malformed("a Host that is no IP address, but looks like one") from None
    return normalize_untrusted(host), port


def read_upgrade(fields: dict[bytes, list[bytes]]) -> str | None:
    """Return what Upgrade lists (RFC 9110 section 7.8), whether or not Connection mentions it."""
    values = fields.get(b"upgrade")
    if values is None:
        return None
    protocols = [protocol.strip(b" \t").lower() for protocol in b",".join(values).split(b",")]
    if not all(_UPGRADE.fullmatch(protocol) for protocol in protocols):
        raise Malformed("an Upgrade that is not a list of protocols")
    return b",".join(protocols).decode("ascii")


def _read_target(method: str, target: bytes, host: str, port: int | None) -> tuple[str, str | None]:
    """Return path and scheme (RFC 9112 section 3.2); a host named in the target must be the one in Host."""
    if method == "CONNECT":
        if parse_authority_untrusted(target) != (host, port):
            raise Malformed("a CONNECT target that differs from Host")
        return "", None
    if target.startswith((b"//", b"/\\")):
        # A path to RFC 9112, an authority to RFC 3986 and to whoever reads the target as a URL; browsers' readers
        # take a backslash for a slash.
        raise Malformed("a request target that begins with two slashes")
    if target.startswith(b"/"):
        return target.partition(b"?")[0].decode("ascii"), None
    if target == b"*" and method == "OPTIONS":
        return "*", None
    match = _ABSOLUTE.match(target)
    if match is None:
        raise Malformed("a request target that is neither a path nor an http URL")
    scheme = match[1].decode("ascii").lower()
    default = _DEFAULT_PORTS[scheme]
    named, named_port = parse_authority_untrusted(match[2])
    if named != host or (named_port or default) != (port or default):
        raise Malformed("a request target that differs from Host")
    if match[3].startswith((b"//", b"/\\")):
        raise Malformed("a request target whose path begins with two slashes")
    if not match[3] and target != match[0]:
        # What follows is a query to RFC 3986; to others the authority goes on until a slash.
        raise Malformed("a request target with a query and no path")
    return match[3].decode("ascii") or "/", scheme


def _fault(head: bytes) -> Malformed:
    line = _LINE.match(head)
    if line and line[1] not in (b"1.0", b"1.1"):
        return Malformed(f"HTTP version {line[1].decode('ascii')}")
    return fault(head)
