"""Files of CA certificates, as an operator hands them in. Pure."""

import re

from cryptography import x509
from cryptography.hazmat.primitives import serialization

# Three times what the web's roots take together.
MAX_ROOTS = 1 << 20
_BLOCK = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----\r?\n.*?-----END \1-----", re.DOTALL)


def parse_roots(text: str) -> str:
    """The certificates in a PEM file, comments left out. ValueError with what is wrong about the file."""
    if len(text) > MAX_ROOTS:
        raise ValueError("over 1 MiB, which is no file of CA certificates")
    blocks = list(_BLOCK.finditer(text))
    kinds = {block[1] for block in blocks}
    if any("PRIVATE KEY" in kind for kind in kinds):
        raise ValueError("holds a private key; give the certificates alone")
    if not blocks or text.count("-----BEGIN ") != len(blocks):
        raise ValueError("not PEM certificates (-----BEGIN CERTIFICATE-----)")
    if kinds != {"CERTIFICATE"}:
        raise ValueError(f"holds {min(kinds - {'CERTIFICATE'})!r}, not certificates alone")
    found = []
    for number, block in enumerate(blocks, 1):
        try:
            found.append(x509.load_pem_x509_certificate(block[0].encode("ascii")))
        except ValueError:
            raise ValueError(f"certificate {number} cannot be read") from None
    return "".join(c.public_bytes(serialization.Encoding.PEM).decode("ascii") for c in found)
