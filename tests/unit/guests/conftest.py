import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

# Upper case, blanks, umlauts, an old string type, a long value: all that the canonical form is about.
NAMES = [
    x509.NameAttribute(x509.NameOID.COUNTRY_NAME, "AT"),
    x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "  Micro   AGENT  "),
    x509.NameAttribute(x509.NameOID.ORGANIZATIONAL_UNIT_NAME, "ÄRGER " + "x" * 50),
    x509.NameAttribute(x509.NameOID.COMMON_NAME, "box", x509.name._ASN1Type.PrintableString),
]


@pytest.fixture(scope="session")
def ca_pem() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name(NAMES)
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
