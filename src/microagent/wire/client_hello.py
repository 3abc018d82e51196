"""The name a TLS client asks for, from the start of its stream (RFC 8446 section 4.1.2, RFC 6066 section 3).

How this works: records are unwrapped until the one handshake message they carry is whole, then its
extensions are walked once. A hello may come in any number of records and packets. Servers differ in what
they forgive here, and each difference is a way to show us one name and the server another, so nothing is
forgiven: what OpenSSL, Go or NSS might read differently is Malformed.
"""

import struct
from dataclasses import dataclass, field
from typing import Final

from microagent.errors import Malformed
from microagent.wire.hostname import normalize_untrusted

# With record headers. Post-quantum key shares make hellos of 2 KiB; contract 12 leaves room for what comes after them.
MAX_HELLO: Final = 65536
# RFC 8446 section 5.1: a plaintext record carries at most 2^14 bytes.
_MAX_FRAGMENT: Final = 16384
# Clients offer a handful; a bound keeps a hello full of one-byte names from becoming a long list.
_MAX_ALPN: Final = 256

_HANDSHAKE: Final = 22
# change_cipher_spec, alert, application_data
_BEFORE_SECOND: Final = (20, 21, 23)
_CLIENT_HELLO: Final = 1
_HOST_NAME: Final = 0
_SERVER_NAME: Final = 0
_ALPN: Final = 16
_SUPPORTED_VERSIONS: Final = 43
_ENCRYPTED_CLIENT_HELLO: Final = 0xFE0D

_RECORD: Final = struct.Struct("!BBBH")
_U16: Final = struct.Struct("!H")
_EXTENSION: Final = struct.Struct("!HH")
_SNI_HEAD: Final = struct.Struct("!HBH")


@dataclass(frozen=True, slots=True)
class ClientHello:
    """What a hello says of its destination.

    `sni` is canonical (see `hostname`), None when the client named nothing. `alpn` are the raw protocol
    names in the client's order. `ech` is true also for GREASE, which nobody but the server can tell from
    the real thing. `end` is where in the stream the last of its records ends.
    """

    sni: str | None
    alpn: tuple[bytes, ...]
    ech: bool
    supported_versions: tuple[int, ...]
    end: int = field(compare=False)


def parse_client_hello_untrusted(data: bytes, start: int = 0) -> ClientHello | None:
    """Return the hello at `start` of `data`, a client's stream from its start; None if it is not whole yet.

    Bytes in later records are not looked at. Raises only Malformed.
    """
    found = _unwrap(data, start)
    return None if found is None else _parse_body(*found)


def parse_second_hello_untrusted(data: bytes) -> ClientHello | None:
    """Return the hello that follows a HelloRetryRequest, `data` being all that the client has sent since the first one.

    What may come before it says nothing of a name: change_cipher_spec (RFC 8446 appendix D.4), early data that the
    server is going to skip (section 4.2.10), alerts. None if it is not whole yet. Raises only Malformed.
    """
    at = 0
    while len(data) - at >= 5:
        kind, major, _, length = _RECORD.unpack_from(data, at)
        if kind not in _BEFORE_SECOND or major != 3:
            return parse_client_hello_untrusted(data, at)
        at += 5 + length
    return None


def _unwrap(data: bytes, at: int) -> tuple[bytes, int] | None:
    """Join the handshake fragments of the records at `at` into the body of one ClientHello; with where they end."""
    fragments: list[bytes] = []
    have = 0
    want = 0  # unknown until the message's own four-byte head is there
    size = len(data)
    while True:
        if size - at < 5:
            _check_partial_record(data[at:])
            return None
        kind, major, minor, length = _RECORD.unpack_from(data, at)
        # The minor version means nothing (RFC 8446 section 5.1), but no TLS has ever set one above 4.
        if kind != _HANDSHAKE or major != 3 or minor > 4:
            raise Malformed("not a TLS handshake record")
        if not 0 < length <= _MAX_FRAGMENT:
            raise Malformed(f"a TLS record of {length} bytes")
        at += 5
        if at + length > MAX_HELLO:
            raise Malformed(f"no whole ClientHello in {MAX_HELLO} bytes")
        fragment = data[at : at + length]
        fragments.append(fragment)
        have += len(fragment)
        if not want and have >= 4:
            want = _message_size(b"".join(fragments)[:4])
        if 0 < want < have - len(fragment) + length:
            raise Malformed("bytes after the ClientHello in its own record")
        if len(fragment) < length:
            return None
        if have == want:
            return b"".join(fragments)[4:], at + length
        at += length


def _check_partial_record(head: bytes) -> None:
    """Refuse what cannot become a handshake record as soon as that can be seen."""
    if head[:1] not in (b"", b"\x16") or head[1:2] not in (b"", b"\x03"):
        raise Malformed("not a TLS handshake record")


def _message_size(head: bytes) -> int:
    if head[0] != _CLIENT_HELLO:
        raise Malformed(f"handshake message {head[0]} where a ClientHello must be")
    size = 4 + int.from_bytes(head[1:], "big")
    if not 4 < size <= MAX_HELLO:
        raise Malformed(f"a ClientHello of {size} bytes")
    return size


def _parse_body(body: bytes, end: int) -> ClientHello:
    extensions = _extensions(body)
    name = extensions.get(_SERVER_NAME)
    alpn = extensions.get(_ALPN)
    versions = extensions.get(_SUPPORTED_VERSIONS)
    return ClientHello(
        sni=None if name is None else _server_name(name),
        alpn=() if alpn is None else _protocols(alpn),
        ech=_ENCRYPTED_CLIENT_HELLO in extensions,
        supported_versions=() if versions is None else _versions(versions),
        end=end,
    )


def _extensions(body: bytes) -> dict[int, bytes]:
    """Skip to the extensions, and split them; each type may come once (RFC 8446 section 4.2)."""
    size = len(body)
    try:
        at = 35 + body[34]  # version 2, random 32, session id
        ciphers = _U16.unpack_from(body, at)[0]
        at += 2 + ciphers
        compressions = body[at]
        at += 1 + compressions
    except (IndexError, struct.error):
        raise Malformed("a ClientHello that ends early") from None
    if body[0] != 3 or body[34] > 32 or ciphers % 2 or not ciphers or not compressions or at > size:
        raise Malformed("a ClientHello whose parts do not fit")
    if at == size:
        return {}  # TLS 1.2 lets a hello end here (RFC 5246 section 7.4.1.2)
    if size - at < 2 or _U16.unpack_from(body, at)[0] != size - at - 2:
        raise Malformed("extensions that do not fill the ClientHello")
    at += 2
    found: dict[int, bytes] = {}
    unpack = _EXTENSION.unpack_from
    while size - at >= 4:
        kind, length = unpack(body, at)
        at += 4 + length
        if kind in found:
            raise Malformed(f"TLS extension {kind} twice")
        found[kind] = body[at - length : at]
    if at != size:
        raise Malformed("a TLS extension that does not fit")
    return found


def _server_name(extension: bytes) -> str:
    """Read the one host_name; RFC 6066 section 3 has room for more, but no client sends them."""
    if len(extension) < 5:
        raise Malformed("a server_name extension without a name")
    names, kind, length = _SNI_HEAD.unpack_from(extension)
    if names != len(extension) - 2 or kind != _HOST_NAME or length != len(extension) - 5:
        raise Malformed("a server_name extension that is not exactly one host_name")
    return normalize_untrusted(extension[5:])


def _protocols(extension: bytes) -> tuple[bytes, ...]:
    """Read the protocol names (RFC 7301 section 3.1): none empty, at least one."""
    size = len(extension)
    if size < 4 or _U16.unpack_from(extension)[0] != size - 2:
        raise Malformed("an ALPN extension that does not fit")
    names: list[bytes] = []
    at = 2
    while at < size:
        end = at + 1 + extension[at]
        if end == at + 1 or end > size or len(names) == _MAX_ALPN:
            raise Malformed("an ALPN extension that does not fit")
        names.append(extension[at + 1 : end])
        at = end
    return tuple(names)


def _versions(extension: bytes) -> tuple[int, ...]:
    """Read the offered versions (RFC 8446 section 4.2.1); GREASE ones are among them."""
    size = len(extension)
    if size < 3 or size % 2 == 0 or extension[0] != size - 1:
        raise Malformed("a supported_versions extension that does not fit")
    return struct.unpack_from(f"!{size // 2}H", extension, 1)
