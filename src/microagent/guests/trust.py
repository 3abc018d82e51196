"""The name under which OpenSSL looks for a CA in a directory of certificates. Pure."""

import hashlib

from cryptography import x509

_UTF8_STRING = 0x0C
_SEQUENCE = 0x30
_SET = 0x31


def subject_hash(pem: bytes) -> str:
    """Eight hex digits, as `openssl x509 -subject_hash` prints them.

    X509_NAME_hash of OpenSSL 1.0 and later: the first four bytes, little-endian, of the SHA-1 of the subject's
    canonical form: each value UTF-8, lower case (ASCII), blanks collapsed, without the outer SEQUENCE.
    """
    subject = x509.load_pem_x509_certificate(pem).subject
    canonical = b"".join(_der(_SET, b"".join(map(_attribute, rdn))) for rdn in subject.rdns)
    digest = hashlib.sha1(canonical, usedforsecurity=False).digest()
    return digest[:4][::-1].hex()


def _attribute(attribute: x509.NameAttribute[str | bytes]) -> bytes:
    value = attribute.value if isinstance(attribute.value, str) else attribute.value.decode("latin-1")
    text = " ".join(value.split())
    lower = "".join(c.lower() if c.isascii() else c for c in text)
    return _der(_SEQUENCE, _oid(attribute.oid.dotted_string) + _der(_UTF8_STRING, lower.encode()))


def _oid(dotted: str) -> bytes:
    """X.690, 8.19."""
    first, second, *rest = map(int, dotted.split("."))
    body = b""
    for number in (first * 40 + second, *rest):
        digits = [number & 0x7F]
        while number := number >> 7:
            digits.append(number & 0x7F | 0x80)
        body += bytes(reversed(digits))
    return _der(0x06, body)


def _der(tag: int, body: bytes) -> bytes:
    """X.690, 8.1: tag, length (long form from 128 on), contents."""
    if len(body) < 128:
        return bytes((tag, len(body))) + body
    length = len(body).to_bytes((len(body).bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + body
